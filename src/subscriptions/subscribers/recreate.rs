//! Creates a subscriber's consumer again, at its position, if another program deletes it while a subscription is
//! open.
//!
//! Only the consumer stores the position. While a subscription is open, the holder also knows the position, so a
//! deletion from outside does not lose it. A subscriber that is deleted through the service stays deleted, because
//! its holding is deleted with it.

use std::sync::Arc;

use tracing::warn;

use super::{Subscribers, session::SessionState};
use crate::error::{Reason, Result};

impl Subscribers {
    /// Returns `moved`. If it failed because the consumer of an open subscription is missing, creates the consumer
    /// again, at `position` or later. Requires the subscriber's lock.
    ///
    /// # Errors
    /// Those of `moved`. `SUBSCRIBER_NOT_FOUND` if no subscription is open, the subscription was taken over, the
    /// subscriber was deleted through the service, or the log has another epoch.
    pub(super) async fn or_recreate(
        &self,
        moved: Result<u64>,
        session: Option<&Arc<SessionState>>,
        position: u64,
    ) -> Result<u64> {
        match (moved, session) {
            (Err(missing), Some(session)) if missing.reason() == Reason::SubscriberNotFound && !session.is_ended() => {
                self.recreate(session, position).await?.ok_or(missing)
            }
            (moved, _) => moved,
        }
    }

    /// Returns the subscriber's new position. `None` if the session may no longer move the position.
    async fn recreate(&self, session: &Arc<SessionState>, position: u64) -> Result<Option<u64>> {
        let (room, subscriber) = (&session.registered.room, &session.holding.subscriber);
        if !self.decides(session).await? || self.store.log_state(room).await?.epoch != session.epoch {
            return Ok(None);
        }
        let binding = self.store.bind(room, subscriber).await?;
        let position = if binding.position >= position {
            binding.position
        } else {
            self.store.move_to(room, subscriber, position).await?
        };
        // another instance may have deleted the subscriber meanwhile; then its consumer must not remain
        if !self.decides(session).await? {
            if binding.created {
                self.store.delete_consumer(room, subscriber).await?;
            }
            return Ok(None);
        }
        warn!(
            room = %room.room_id, %subscriber, position,
            "another program deleted the NATS consumer of an open subscriber; it was created again at its position"
        );
        Ok(Some(position))
    }

    /// Returns true if the session is the subscriber's open one, or if a newer session waits for its last position.
    async fn decides(&self, session: &SessionState) -> Result<bool> {
        let subscriber = &session.holding.subscriber;
        let holder = self.store.holders.find(subscriber).await?;
        Ok(holder.is_some_and(|holder| session.is_releasing() || holder.session == session.holding.session))
    }
}
