//! Handshakes: each with a limit of time, and all together with a bound that no flood turns against others.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{net::TcpStream, sync::watch, time};
use tokio_rustls::{TlsAcceptor, rustls::pki_types::CertificateDer, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{certificate, files::InForce};
use crate::{
    domain::ClientCertificate,
    limits::{TLS_HANDSHAKE_TIMEOUT, TLS_HANDSHAKES_MAX},
    sync::lock,
};

/// The handshakes under way.
#[derive(Debug, Default)]
pub(super) struct Handshakes(Mutex<Begun>);

#[derive(Debug, Default)]
struct Begun {
    next: u64,
    open: BTreeMap<u64, CancellationToken>,
}

impl Handshakes {
    /// Makes place for one more: the oldest gives way, since one that is meant seriously takes least time.
    pub(super) fn begin(self: &Arc<Self>, in_force: watch::Receiver<Arc<InForce>>) -> Handshake {
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
        Handshake { all: Arc::clone(self), number, superseded, in_force }
    }

    fn begun(&self) -> MutexGuard<'_, Begun> {
        lock(&self.0)
    }
}

/// One handshake, under way until it is dropped.
#[derive(Debug)]
pub(in crate::server) struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    superseded: CancellationToken,
    in_force: watch::Receiver<Arc<InForce>>,
}

/// What a client has shown of itself.
#[derive(Debug)]
pub(in crate::server) struct Shown {
    /// What its certificate says, if that names somebody.
    pub certificate: Option<ClientCertificate>,
    chain: Vec<CertificateDer<'static>>,
    in_force: watch::Receiver<Arc<InForce>>,
}

impl Shown {
    /// Completes when what the client has shown is not verified any more.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(in crate::server) async fn distrusted(mut self) {
        while self.in_force.changed().await.is_ok() {
            if !self.in_force.borrow_and_update().verifies(&self.chain) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

impl Handshake {
    /// Makes it. Says what the client has shown of itself.
    ///
    /// # Errors
    /// When it fails, takes longer than it may or than `within`, or gives way to newer ones.
    pub(in crate::server) async fn make(
        mut self,
        stream: TcpStream,
        within: Duration,
    ) -> io::Result<(TlsStream<TcpStream>, Shown)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.in_force.borrow_and_update().config));
        let made = time::timeout(within.min(TLS_HANDSHAKE_TIMEOUT), acceptor.accept(stream));
        let stream = tokio::select! {
            made = made => made??,
            () = self.superseded.cancelled() => return Err(io::Error::other("too many handshakes are under way")),
        };
        let (_, session) = stream.get_ref();
        let chain: Vec<_> =
            session.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
        let certificate = chain.first().and_then(|own| certificate::read(own));
        let shown = Shown { certificate, chain, in_force: self.in_force.clone() };
        Ok((stream, shown))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.begun().open.remove(&self.number);
    }
}
