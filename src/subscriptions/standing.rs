//! The conditions of an open subscription: the caller's membership, and credentials that have not expired.

use std::{sync::Arc, time::SystemTime};

use tokio::time;

use crate::{
    error::{Error, Reason},
    store::registry::members::pass::Pass,
};

/// The conditions of an open subscription.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// The caller's membership, if the subscription requires one.
    pub pass: Option<Arc<Pass>>,
    pub expires_at: Option<SystemTime>,
}

impl Standing {
    /// Waits until a condition fails. Returns the error that the subscription ends with.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn ended(&self) -> Error {
        let revoked = async {
            match &self.pass {
                Some(pass) => pass.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = revoked => error,
            error = expired(self.expires_at) => error,
        }
    }
}

/// Waits until `at`. Returns the error that the stream ends with. Never returns if `at` is `None`.
///
/// # Cancel safety
/// May be dropped at any point.
pub(crate) async fn expired(at: Option<SystemTime>) -> Error {
    let Some(at) = at else { return std::future::pending().await };
    time::sleep(at.duration_since(SystemTime::now()).unwrap_or_default()).await;
    Error::new(
        Reason::CredentialsExpired,
        "the credentials of the stream have expired; open it again with new credentials",
    )
}
