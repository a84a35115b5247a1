//! The right that an open subscription is based on: a membership, and credentials that expire.

use std::{sync::Arc, time::SystemTime};

use tokio::time;

use crate::{
    error::{Error, Reason},
    store::registry::members::pass::Pass,
};

/// What an open subscription stands on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    /// The membership, if it takes one.
    pub pass: Option<Arc<Pass>>,
    pub expires_at: Option<SystemTime>,
}

impl Standing {
    /// Completes when it ends, with the error that a subscription ends with.
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

/// Completes at this time, with the error that a stream ends with then; never, if there is none.
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
