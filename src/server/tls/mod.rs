//! TLS of the main port: it reloads its files when they change, and bounds the handshakes.
//!
//! This module knows nothing of HTTP or of callers. It reports the name in a verified certificate.

mod certificate;
pub(crate) mod files;
pub(crate) mod handshake;
pub(crate) mod inspect;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    files::{Contents, TlsConfig, TlsFiles, TlsInUse},
    handshake::{Handshake, Handshakes},
};
use crate::error::Result;

/// Interval at which the files are read again.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// The TLS of a listener.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    files: Arc<TlsFiles>,
    current: watch::Sender<Arc<TlsInUse>>,
    contents: Contents,
    handshakes: Arc<Handshakes>,
}

impl Tls {
    /// Reads the files that the configuration names; `None` without TLS.
    ///
    /// # Errors
    /// `INVALID_FIELD`, when a file cannot be read or used, or when the key does not belong to the certificate. The
    /// field is the one of the configuration.
    pub(super) async fn open(config: TlsConfig) -> Result<Option<Self>> {
        let Some(files) = TlsFiles::of(config)? else { return Ok(None) };
        let contents = files.read().await?;
        let in_use = files.in_use(&contents)?;
        info!(certificate_ends = contents.certificate_ends(), "the service accepts only TLS connections");
        let current = watch::Sender::new(Arc::new(in_use));
        Ok(Some(Self { files: Arc::new(files), current, contents, handshakes: Arc::default() }))
    }

    /// Begins a handshake with the current files.
    pub(super) fn begin(&self) -> Handshake {
        self.handshakes.begin(self.current.subscribe())
    }

    /// Follows the files until `stop`. New contents apply to the next handshake, if they can be used as a whole. Open
    /// connections stay open, except those whose client certificate the new contents do not verify.
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
                // contents that cannot be used are logged once, and tried again only after they change
                contents = read;
                match files.in_use(&contents) {
                    Ok(in_use) => {
                        current.send_replace(Arc::new(in_use));
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
