//! The consumer of a subscriber that another program deleted while a subscription is open: made again, at its position.
//!
//! The position lives in the consumer alone. While a subscription is open the instance that owns it knows the position too, so
//! that no deletion from outside costs one. A subscriber that is deleted through the service stays deleted: its holding goes
//! with it.

use std::sync::Arc;

use tracing::warn;

use super::{Subscribers, session::Inner};
use crate::error::{Reason, Result};

impl Subscribers {
    /// The position that `moved` tells, unless it failed for want of the consumer of an open subscription: then the consumer
    /// is made again, at `position` or after it. Under the subscriber's lock.
    ///
    /// # Errors
    /// Those of `moved`; `SUBSCRIBER_NOT_FOUND` where no subscription is open, or it was taken over, the subscriber was deleted
    /// through the service, or the log began another life.
    pub(super) async fn or_again(
        &self,
        moved: Result<u64>,
        session: Option<&Arc<Inner>>,
        position: u64,
    ) -> Result<u64> {
        match (moved, session) {
            (Err(missing), Some(session)) if missing.reason() == Reason::SubscriberNotFound && !session.is_ended() => {
                self.make_again(session, position).await?.ok_or(missing)
            }
            (moved, _) => moved,
        }
    }

    /// The position that the subscriber has then; `None` if the session is no longer the one that decides.
    async fn make_again(&self, session: &Arc<Inner>, position: u64) -> Result<Option<u64>> {
        let (room, subscriber) = (&session.registered.room, &session.holding.subscriber);
        if !self.decides(session).await? || self.store.log_state(room).await?.epoch != session.epoch {
            return Ok(None);
        }
        let bookmark = self.store.bind(room, subscriber).await?;
        let position = if bookmark.position >= position {
            bookmark.position
        } else {
            self.store.move_to(room, subscriber, position).await?
        };
        // it may have been deleted through another instance since: then nothing must be left of it
        if !self.decides(session).await? {
            if bookmark.created {
                self.store.forget(room, subscriber).await?;
            }
            return Ok(None);
        }
        warn!(
            room = %room.room_id, %subscriber, position,
            "another program deleted the NATS consumer of an open subscriber; it was created again at its position"
        );
        Ok(Some(position))
    }

    /// Whether the session is still the subscriber's open one, or the newer one waits for its last position.
    async fn decides(&self, session: &Inner) -> Result<bool> {
        let subscriber = &session.holding.subscriber;
        let holder = self.store.holders.find(subscriber).await?;
        Ok(holder.is_some_and(|holder| session.is_releasing() || holder.session == session.holding.session))
    }
}
