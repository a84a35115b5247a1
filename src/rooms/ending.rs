//! What ends a subscription from outside, and the status that it ends with.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tokio_util::sync::CancellationToken;

use super::subscribers::Session;
use crate::{
    error::{Error, Reason},
    store::{Registered, not_found},
};

/// What ends a subscription from outside.
pub(super) struct Ending {
    pub session: Option<Arc<Session>>,
    pub registered: Arc<Registered>,
    pub draining: CancellationToken,
}

impl Ending {
    /// The status for whatever ends the subscription first.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn wait(&self, position: Option<u64>) -> Error {
        let superseded = async {
            match &self.session {
                Some(session) => session.superseded().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.registered.gone() => not_found(&self.registered.room.room_id),
            () = superseded => at(Error::new(
                Reason::TakenOver,
                "a newer subscription of this subscriber took over; what this one did not acknowledge comes again there",
            ), position),
            () = self.draining.cancelled() => draining(position),
        }
    }

    /// A log that is gone because the room was deleted is another thing than one that began anew.
    pub(super) async fn explain(&self, error: Error, position: u64) -> Error {
        if error.reason() == Reason::RoomRecreated
            && time::timeout(Duration::from_millis(500), self.registered.gone()).await.is_ok()
        {
            return not_found(&self.registered.room.room_id);
        }
        at(error, Some(position))
    }
}

pub(super) fn draining(position: Option<u64>) -> Error {
    at(
        Error::new(Reason::Draining, "this instance is stopping; subscribe again, on another instance or shortly"),
        position,
    )
}

pub(super) fn unavailable() -> Error {
    Error::new(Reason::NatsUnavailable, "the NATS connection is closed; subscribe again")
}

/// An error that says where the subscription stood.
fn at(error: Error, position: Option<u64>) -> Error {
    match position {
        Some(position) => error.with("position", position),
        None => error,
    }
}
