//! TLS towards clients: the certificates in force, which follow their files, and handshakes within bounds.
//!
//! Refuses to know HTTP and who a client is: it says what a verified certificate says.

mod certificate;
pub(crate) mod files;
pub(crate) mod handshake;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    files::{Contents, InForce, TlsFiles},
    handshake::{Handshake, Handshakes},
};
use crate::error::Result;

/// How often the files are looked at.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// TLS of a listener.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    files: Arc<TlsFiles>,
    current: watch::Sender<Arc<InForce>>,
    contents: Contents,
    handshakes: Arc<Handshakes>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read or holds nothing of use, or the key is not the certificate's; the field is that of the
    /// configuration.
    pub(super) async fn open(files: TlsFiles) -> Result<Self> {
        let contents = files.read().await?;
        let in_force = files.in_force(&contents)?;
        info!(certificate_ends = contents.certificate_ends(), "the service accepts only TLS connections");
        let current = watch::Sender::new(Arc::new(in_force));
        Ok(Self { files: Arc::new(files), current, contents, handshakes: Arc::default() })
    }

    /// Begins a handshake with what is in force now.
    pub(super) fn begin(&self) -> Handshake {
        self.handshakes.begin(self.current.subscribe())
    }

    /// Follows the files until `stop`: what they hold is in force for the next handshake, once it is whole. Open connections
    /// stay as they are, but for those whose client's certificate it does not verify any more.
    pub(super) fn follow(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + 'static {
        let Self { files, current, mut contents, handshakes: _ } = self.clone();
        async move {
            let mut unreadable = false;
            while stop.run_until_cancelled(time::sleep(POLL_INTERVAL)).await.is_some() {
                let read = match files.read().await {
                    Ok(read) => read,
                    Err(error) => {
                        if !unreadable {
                            warn!(%error, "the TLS files cannot be read; the earlier ones stay in use");
                        }
                        unreadable = true;
                        continue;
                    }
                };
                unreadable = false;
                if read == contents {
                    continue;
                }
                // what is wrong is told once, and tried again when it is no longer the same
                contents = read;
                match files.in_force(&contents) {
                    Ok(in_force) => {
                        current.send_replace(Arc::new(in_force));
                        info!(
                            certificate_ends = contents.certificate_ends(),
                            "the TLS files have changed and are in use"
                        );
                    }
                    Err(error) => {
                        warn!(%error, "the TLS files have changed and cannot be used; the earlier ones stay in use");
                    }
                }
            }
        }
    }
}
