//! Writes positions: periodically for open `ACK_MODE_AUTO` subscriptions, at once for closed ones.
//!
//! Each position waits `BOOKMARK_INTERVAL`. With many positions it waits longer: the instance writes
//! `BOOKMARKS_PER_SECOND`, or more if one would exceed `BOOKMARK_AGE_MAX`. The bound leaves the NATS server's time to
//! the messages.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::Notify,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Subscribers, WRITES_AT_ONCE,
    session::{SessionEnd, SessionState},
};
use crate::{
    error::{Reason, Result},
    limits::{BOOKMARK_AGE_MAX, BOOKMARK_INTERVAL, BOOKMARKS_PER_SECOND},
    sync::lock,
};

/// How often the queue is checked.
const TICK: Duration = Duration::from_millis(50);
/// Maximum number of concurrent writes for open subscriptions.
const BOOKMARKS_AT_ONCE: usize = 2;

/// The sessions whose position must be written.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    waiting: Mutex<WaitingSessions>,
    /// A session was closed.
    closed: Notify,
}

#[derive(Debug, Default)]
struct WaitingSessions {
    /// Open sessions, each once, with the time when they were queued. In the order of these times.
    open: VecDeque<(Instant, Arc<SessionState>)>,
    closed: Vec<Arc<SessionState>>,
}

impl WriteQueue {
    /// Queues an open session whose position has moved.
    pub(super) fn moved(&self, session: &Arc<SessionState>) {
        self.waiting().open.push_back((Instant::now(), Arc::clone(session)));
    }

    /// Queues a closed session.
    pub(super) fn closed(&self, session: &Arc<SessionState>) {
        self.waiting().closed.push(Arc::clone(session));
        self.closed.notify_one();
    }

    /// Takes the open sessions that must be written in this tick.
    fn due(&self) -> Vec<Arc<SessionState>> {
        let open = &mut self.waiting().open;
        let now = Instant::now();
        let ripe = open.partition_point(|(since, _)| now.duration_since(*since) >= BOOKMARK_INTERVAL);
        open.drain(..ripe.min(turns(open.len()))).map(|(_, session)| session).collect()
    }

    fn take_closed(&self) -> Vec<Arc<SessionState>> {
        std::mem::take(&mut self.waiting().closed)
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingSessions> {
        lock(&self.waiting)
    }
}

/// The number of sessions to write in one tick when `waiting` sessions wait.
fn turns(waiting: usize) -> usize {
    let ticks = |span: Duration| usize::try_from(span.as_millis() / TICK.as_millis()).unwrap_or(usize::MAX);
    (BOOKMARKS_PER_SECOND / ticks(Duration::from_secs(1))).max(waiting.div_ceil(ticks(BOOKMARK_AGE_MAX)))
}

impl Subscribers {
    /// Writes positions periodically, and at once when a session was closed, until `stop`.
    pub(crate) async fn write_back(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                () = stop.cancelled() => return,
                () = self.queue.closed.notified() => Vec::new(),
                _ = tick.tick() => self.queue.due(),
            };
            // failed writes are tried again at the next tick
            self.write_all(self.queue.take_closed(), WRITES_AT_ONCE).await;
            self.write_all(due, BOOKMARKS_AT_ONCE).await;
        }
    }

    /// Writes each unwritten position once.
    pub(crate) async fn write_back_all(&self) {
        let sessions = self.sessions().values().cloned().collect();
        self.write_all(sessions, WRITES_AT_ONCE).await;
    }

    async fn write_all(&self, sessions: Vec<Arc<SessionState>>, at_once: usize) {
        stream::iter(sessions)
            .for_each_concurrent(at_once, |session| async move {
                if !self.holds(&session) {
                    return; // taken over or deleted meanwhile
                }
                let written = self.write(&session).await;
                if let Err(error) = &written {
                    let subscriber = &session.holding.subscriber;
                    debug!(%subscriber, %error, "the position could not be written; it will be written later");
                }
                if !self.holds(&session) {
                    return;
                }
                if session.is_closed() {
                    self.queue.waiting().closed.push(session);
                } else if session.is_still_unwritten() {
                    self.queue.moved(&session);
                }
            })
            .await;
    }

    async fn write(&self, session: &Arc<SessionState>) -> Result<()> {
        let closed = session.is_closed();
        let written = if closed { self.write_last_position(session).await } else { self.write_position(session).await };
        let gone = match written {
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
            self.store.holders.close(&session.holding).await?;
        }
        Ok(())
    }

    /// Handles a missing consumer of an open subscription that must not be created again.
    async fn lose(&self, session: &Arc<SessionState>) -> Result<()> {
        if self.store.holders.find(&session.holding.subscriber).await?.is_none() {
            session.end(SessionEnd::Deleted);
            self.remove(session);
        } else if let Some(taken) = session.unwritten() {
            // the subscription ends by itself, because it was taken over or the log has another epoch
            session.has_written(taken);
        }
        Ok(())
    }

    /// Writes the taken position, if it is not written yet.
    async fn write_position(&self, session: &Arc<SessionState>) -> Result<()> {
        let moving = self.moving(&session.key());
        let _one_at_a_time = moving.lock().await;
        self.write_unwritten(session).await.map(drop)
    }

    /// As [`Self::write_position`]. If another program has deleted the consumer, creates it again at the position,
    /// even when there is nothing to write.
    pub(super) async fn write_last_position(&self, session: &Arc<SessionState>) -> Result<()> {
        let moving = self.moving(&session.key());
        let _one_at_a_time = moving.lock().await;
        if self.write_unwritten(session).await? || session.is_ended() {
            return Ok(());
        }
        let (room, subscriber) = (&session.registered.room, &session.holding.subscriber);
        let found = self.store.position(room, subscriber).await;
        self.or_recreate(found, Some(session), session.written()).await.map(drop)
    }

    /// Writes the taken position. Returns false if there was nothing to write. Requires the subscriber's lock.
    async fn write_unwritten(&self, session: &Arc<SessionState>) -> Result<bool> {
        let Some(taken) = session.unwritten().filter(|_| !session.is_ended()) else { return Ok(false) };
        let room = &session.registered.room;
        let subscriber = &session.holding.subscriber;
        let moved = if session.must_look() {
            self.move_forwards(room, subscriber, taken).await
        } else {
            self.store.move_to(room, subscriber, taken).await
        };
        let position = self.or_recreate(moved, Some(session), taken).await?;
        session.has_written(position);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::turns;

    #[test]
    fn a_few_are_written_at_once_and_many_at_a_bounded_rate_and_age() {
        for (waiting, written) in [(0, 5), (1, 5), (100, 5), (1000, 5), (1001, 6), (100_000, 500)] {
            assert_eq!(turns(waiting), written, "{waiting} wait");
        }
    }
}
