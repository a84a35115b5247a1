//! Writes positions back: about once a second what AUTO subscribers have taken, at once what a closed subscription had.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use tokio::time::{self, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{End, Inner, Subscribers, WRITES_AT_ONCE};
use crate::{
    error::{Reason, Result},
    limits::BOOKMARK_INTERVAL,
};

/// The sessions take turns within the interval, so that many of them do not trouble NATS all at once.
const TURNS: u32 = 20;
/// Positions written back at the same time while nobody waits for it.
const BOOKMARKS_AT_ONCE: usize = 2;

impl Subscribers {
    /// Writes positions back about once a second, and at once when a session was closed, until `stop`.
    pub(crate) async fn write_back(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = time::interval(BOOKMARK_INTERVAL / TURNS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => self.write_some(Inner::is_closed, WRITES_AT_ONCE).await,
                _ = tick.tick() => {
                    turn = (turn + 1) % TURNS;
                    let due = |session: &Inner| {
                        session.is_closed() || (session.turn(TURNS) == turn && session.unwritten().is_some())
                    };
                    self.write_some(due, BOOKMARKS_AT_ONCE).await;
                }
            }
        }
    }

    /// Writes back whatever is not yet written, once.
    pub(crate) async fn write_back_all(&self) {
        self.write_some(|_| true, WRITES_AT_ONCE).await;
    }

    async fn write_some(&self, choose: impl Fn(&Inner) -> bool, at_once: usize) {
        let chosen: Vec<_> = self.sessions().values().filter(|session| choose(session)).cloned().collect();
        stream::iter(chosen)
            .for_each_concurrent(at_once, |session| async move {
                if let Err(error) = self.write(&session).await {
                    debug!(subscriber = %session.ownership.subscriber, %error, "a position could not be written back yet");
                }
            })
            .await;
    }

    async fn write(&self, session: &Arc<Inner>) -> Result<()> {
        let closed = session.is_closed();
        let gone = match self.write_position(session).await {
            Ok(()) => false,
            Err(error) if matches!(error.reason(), Reason::SubscriberNotFound | Reason::RoomNotFound) => true,
            Err(error) => return Err(error),
        };
        if gone && !closed {
            return self.lose(session).await;
        }
        if closed {
            self.remove(session);
        }
        if closed && !gone {
            self.store.owners.close(&session.ownership).await?;
        }
        Ok(())
    }

    /// The consumer of an open subscription is gone.
    async fn lose(&self, session: &Arc<Inner>) -> Result<()> {
        let room = &session.registered.room;
        if self.store.owners.find(room, &session.ownership.subscriber).await?.is_none() {
            session.end(End::Forgotten);
            self.remove(session);
        } else if let Some(taken) = session.unwritten() {
            // another program deleted it; it is made anew by the next subscription, which must find this one
            session.has_written(taken);
        }
        Ok(())
    }

    pub(super) async fn write_position(&self, session: &Inner) -> Result<()> {
        let moving = self.moving(&session.key());
        let _one_at_a_time = moving.lock().await;
        let Some(taken) = session.unwritten().filter(|_| !session.is_ended()) else { return Ok(()) };
        let room = &session.registered.room;
        let subscriber = &session.ownership.subscriber;
        let position = if session.must_look() {
            self.move_forwards(room, subscriber, taken).await?
        } else {
            self.store.move_to(room, subscriber, taken).await?
        };
        session.has_written(position);
        Ok(())
    }
}
