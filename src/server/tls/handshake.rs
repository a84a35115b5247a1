//! Handshakes: each with a limit of time, and all together with a bound that no flood turns against others.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::certificate;
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
    pub(super) fn begin(self: &Arc<Self>, config: Arc<ServerConfig>) -> Handshake {
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
        Handshake { all: Arc::clone(self), number, superseded, config }
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
    config: Arc<ServerConfig>,
}

impl Handshake {
    /// Makes it. Says what the client's certificate says, if it has shown one that names somebody.
    ///
    /// # Errors
    /// When it fails, takes longer than it may or than `within`, or gives way to newer ones.
    pub(in crate::server) async fn make(
        self,
        stream: TcpStream,
        within: Duration,
    ) -> io::Result<(TlsStream<TcpStream>, Option<ClientCertificate>)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let made = time::timeout(within.min(TLS_HANDSHAKE_TIMEOUT), acceptor.accept(stream));
        let stream = tokio::select! {
            made = made => made??,
            () = self.superseded.cancelled() => return Err(io::Error::other("too many handshakes are under way")),
        };
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first).and_then(|own| certificate::read(own));
        Ok((stream, certificate))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.begun().open.remove(&self.number);
    }
}
