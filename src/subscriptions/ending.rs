//! The events that end a subscription from outside, and the status for each.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    limit::CountedPlace,
    standing::Standing,
    subscribers::session::{Seek, SubscriberSession},
};
use crate::{
    error::{Error, Reason},
    store::registry::{known::Registered, not_found},
};

/// The events that can end a subscription from outside.
#[derive(Clone)]
pub(crate) struct Ending {
    pub session: Option<Arc<SubscriberSession>>,
    pub registered: Arc<Registered>,
    pub draining: CancellationToken,
    pub standing: Standing,
    /// Released when the subscription is dropped.
    #[expect(dead_code, reason = "held, not read")]
    pub place: Arc<CountedPlace>,
}

/// Why a subscription ends.
pub(crate) enum SubscriptionEnd {
    Gone(Error),
    /// A new subscription can continue at this one's position.
    Resumable(Error),
    /// The subscriber's position was moved by a seek.
    Sought(Seek),
}

impl SubscriptionEnd {
    /// The status, with the position to resume from.
    pub(crate) fn at(self, position: u64) -> Error {
        match self {
            Self::Gone(error) => error,
            Self::Resumable(error) => error.with("position", position),
            Self::Sought(seek) => moved().with("position", seek.position),
        }
    }
}

impl From<SubscriptionEnd> for Error {
    fn from(end: SubscriptionEnd) -> Self {
        match end {
            SubscriptionEnd::Gone(error) | SubscriptionEnd::Resumable(error) => error,
            SubscriptionEnd::Sought(_) => moved(),
        }
    }
}

impl Ending {
    /// The number of the seek after which the current frames were read. 0 if there was no seek.
    pub(crate) fn seek_number(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.seek_number())
    }

    /// Sets the seek after which the current frames were read.
    pub(crate) fn follow(&self, seek: Seek) {
        if let Some(session) = &self.session {
            session.follow(seek);
        }
    }

    /// Waits for the first event that ends the subscription, or for a seek with a number above `after_seek`.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn wait(&self, after_seek: u64) -> SubscriptionEnd {
        let ended = async {
            match &self.session {
                Some(session) => session.ended().await,
                None => std::future::pending().await,
            }
        };
        let sought = async {
            match &self.session {
                Some(session) => session.sought(after_seek).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.registered.gone() => SubscriptionEnd::Gone(not_found(&self.registered.room.room_id)),
            error = ended => SubscriptionEnd::Resumable(error),
            error = self.standing.ended() => SubscriptionEnd::Resumable(error),
            () = self.draining.cancelled() => SubscriptionEnd::Resumable(draining()),
            newest = sought => SubscriptionEnd::Sought(newest),
        }
    }

    /// Returns the status for a failed read. Distinguishes a deleted room from a log that was created again.
    pub(crate) async fn explain(&self, error: &Error, position: u64) -> Error {
        if error.reason() == Reason::RoomRecreated
            && time::timeout(Duration::from_millis(500), self.registered.gone()).await.is_ok()
        {
            return not_found(&self.registered.room.room_id);
        }
        went_silent(error.without_cause()).with("position", position)
    }
}

/// Converts `TIMEOUT` to `NATS_UNAVAILABLE`: a timeout of a read leaves nothing half done.
pub(crate) fn went_silent(error: Error) -> Error {
    if error.reason() != Reason::Timeout {
        return error;
    }
    Error::new(Reason::NatsUnavailable, "NATS did not answer in time; subscribe again").because(error)
}

/// A future that is waited for repeatedly, beside another event that happens more often. It is polled only after its
/// own waker was woken.
pub(crate) struct PolledWhenWoken<F>(FuturesUnordered<Pin<Box<F>>>);

impl<F: Future> PolledWhenWoken<F> {
    pub(crate) fn new(future: F) -> Self {
        // boxed, because the set would allocate the size of the future again
        Self(FuturesUnordered::from_iter([Box::pin(future)]))
    }

    /// Returns the future's output once. Later calls never return.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn wait(&mut self) -> F::Output {
        match self.0.next().await {
            Some(output) => output,
            None => std::future::pending().await,
        }
    }
}

fn moved() -> Error {
    Error::new(Reason::SubscribeAgain, "the position of the subscriber was moved; subscribe again to continue there")
}

pub(crate) fn draining() -> Error {
    Error::new(Reason::Draining, "this instance is stopping; subscribe again, on another instance or a little later")
}
