//! TLS handshakes. Each has a time limit. Their number has a bound, and beyond it the oldest handshake is cancelled, so
//! that a flood does not block other clients.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::{TlsAcceptor, rustls::pki_types::CertificateDer, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{certificate, files::TlsInUse};
use crate::{
    domain::ClientCertificate,
    limits::{TLS_HANDSHAKE_TIMEOUT, TLS_HANDSHAKES_MAX},
    sync::lock,
};

#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<OpenHandshakes>);

#[derive(Debug, Default)]
struct OpenHandshakes {
    next: u64,
    open: BTreeMap<u64, CancellationToken>,
}

impl Handshakes {
    /// Counts a new handshake. Beyond the bound it cancels the oldest handshake, because an honest client finishes
    /// quickly.
    pub(super) fn begin(self: &Arc<Self>, in_use: watch::Receiver<Arc<TlsInUse>>) -> Handshake {
        let superseded = CancellationToken::new();
        let mut begun = self.begun();
        let number = begun.next;
        begun.next += 1;
        begun.open.insert(number, superseded.clone());
        if begun.open.len() > TLS_HANDSHAKES_MAX
            && let Some((_, oldest)) = begun.open.pop_first()
        {
            oldest.cancel();
        }
        drop(begun);
        Handshake { all: Arc::clone(self), number, superseded, in_use }
    }

    fn begun(&self) -> MutexGuard<'_, OpenHandshakes> {
        lock(&self.0)
    }
}

/// A handshake that counts until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    superseded: CancellationToken,
    in_use: watch::Receiver<Arc<TlsInUse>>,
}

/// The certificates that a client has presented in its handshake.
#[derive(Debug)]
pub(in crate::server) struct Presented {
    /// The client's own certificate, if it has a name.
    pub certificate: Option<ClientCertificate>,
    chain: Vec<CertificateDer<'static>>,
    in_use: watch::Receiver<Arc<TlsInUse>>,
}

impl Presented {
    /// Completes when a change of the TLS files makes the client's chain invalid.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(in crate::server) async fn distrusted(mut self) {
        while self.in_use.changed().await.is_ok() {
            if !self.in_use.borrow_and_update().verifies(&self.chain) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Handshake {
    /// Runs the handshake. Returns the encrypted stream and the client's certificates.
    ///
    /// # Errors
    /// When the handshake fails, takes longer than `within` or `TLS_HANDSHAKE_TIMEOUT`, or is cancelled for newer ones.
    pub(in crate::server) async fn make(
        mut self,
        stream: TcpStream,
        within: Duration,
    ) -> io::Result<(TlsStream<TcpStream>, Presented)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.in_use.borrow_and_update().config));
        let made = time::timeout(within.min(TLS_HANDSHAKE_TIMEOUT), acceptor.accept(stream));
        let stream = tokio::select! {
            made = made => made??,
            () = self.superseded.cancelled() => return Err(io::Error::other("too many handshakes are under way")),
        };
        let (_, session) = stream.get_ref();
        let chain: Vec<_> =
            session.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        let certificate = chain.first().and_then(|own| certificate::read(own));
        let presented = Presented { certificate, chain, in_use: self.in_use.clone() };
        Ok((stream, presented))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.begun().open.remove(&self.number);
    }
}
