//! The open subscription of a durable subscriber, as the code that moves its position sees it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{SubscriberKey, Subscribers};
use crate::{
    error::{Error, Reason},
    metrics::DeliveryMetrics,
    store::{registry::known::Registered, subscribers::holders::Holding},
    sync::lock,
};

/// An open subscription's position is read before a write at most this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The open subscription of a durable subscriber. Dropping it closes the subscription and writes its position.
#[derive(Debug)]
pub(crate) struct SubscriberSession {
    pub(super) inner: Arc<SessionState>,
    pub(super) subscribers: Weak<Subscribers>,
    /// The start position of the subscription.
    pub position: u64,
    /// The subscriber existed before.
    pub resumed: bool,
    /// The seek after which the current frames were read.
    pub(super) seek_number: AtomicU64,
}

/// A position in the frames that were read after one seek.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SeekPosition {
    seek: u64,
    position: u64,
}

/// A move of the position in either direction, while the subscription is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seek {
    /// The number of the seek in this subscription, from 1. 0 is the opening of the subscription.
    pub number: u64,
    /// The next messages follow this sequence.
    pub position: u64,
}

/// The reason why a session ended from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// A newer subscription of the same subscriber took over.
    TakenOver,
    /// The subscriber was deleted.
    Deleted,
}

#[derive(Debug)]
pub(super) struct SessionState {
    pub registered: Arc<Registered>,
    /// The epoch of the log.
    pub epoch: i64,
    pub holding: Holding,
    /// The revision of the claim. Earlier entries of the bucket's watch do not concern this session.
    pub revision: u64,
    progress: Mutex<Progress>,
    sought: watch::Sender<Seek>,
    end: OnceLock<SessionEnd>,
    ended: CancellationToken,
    closed: AtomicBool,
    /// A newer subscription has claimed the subscriber, and waits for this one's last position.
    releasing: AtomicBool,
    metrics: Arc<DeliveryMetrics>,
}

#[derive(Debug)]
struct Progress {
    /// The number of the newest seek. Progress on frames of earlier seeks is ignored.
    seek: u64,
    /// The client's stream has taken everything up to this sequence.
    taken: u64,
    written: u64,
    moved_at: SystemTime,
    looked_at: Option<Instant>,
    /// The session is in the write queue.
    queued: bool,
}

impl Progress {
    fn new(position: u64) -> Self {
        Self {
            seek: 0,
            taken: position,
            written: position,
            moved_at: SystemTime::now(),
            looked_at: None,
            queued: false,
        }
    }

    fn unwritten(&self) -> Option<u64> {
        (self.taken > self.written).then_some(self.taken)
    }

    fn has_taken(&mut self, seek: u64, position: u64) {
        if seek == self.seek {
            self.taken = self.taken.max(position);
        }
    }

    /// Returns true if there is a position to write and the session is not queued. Marks it as queued.
    fn is_news(&mut self) -> bool {
        let news = !self.queued && self.unwritten().is_some();
        self.queued |= news;
        news
    }

    /// Updates `queued` after a write. Returns true if there is another position to write.
    fn is_still_unwritten(&mut self) -> bool {
        self.queued = self.unwritten().is_some();
        self.queued
    }

    fn has_written(&mut self, position: u64) {
        if position > self.written {
            self.written = position;
            self.moved_at = SystemTime::now();
        }
        self.taken = self.taken.max(position);
    }

    fn has_sought(&mut self, position: u64) -> u64 {
        *self = Self { seek: self.seek + 1, queued: self.queued, ..Self::new(position) };
        self.seek
    }
}

impl SessionState {
    pub(super) fn new(
        registered: Arc<Registered>,
        epoch: i64,
        (holding, revision): (Holding, u64),
        position: u64,
        metrics: &Arc<DeliveryMetrics>,
    ) -> Self {
        Self {
            registered,
            epoch,
            holding,
            revision,
            progress: Mutex::new(Progress::new(position)),
            sought: watch::Sender::new(Seek { number: 0, position }),
            end: OnceLock::new(),
            ended: CancellationToken::new(),
            closed: AtomicBool::new(false),
            releasing: AtomicBool::new(false),
            metrics: Arc::clone(metrics),
        }
    }

    pub(super) fn key(&self) -> SubscriberKey {
        crate::subscriptions::subscribers::key(&self.holding.subscriber)
    }

    /// The position that was taken and is not written yet.
    pub(super) fn unwritten(&self) -> Option<u64> {
        self.progress().unwritten()
    }

    /// The newest known position of the subscriber.
    pub(super) fn written(&self) -> u64 {
        self.progress().written
    }

    /// Records that the subscriber's position is at least `position`. Requires the subscriber's lock.
    pub(super) fn has_written(&self, position: u64) {
        self.progress().has_written(position);
    }

    /// Records a seek to `position`. Progress on earlier frames is ignored. Requires the subscriber's lock.
    pub(super) fn has_sought(&self, position: u64) {
        let number = self.progress().has_sought(position);
        self.sought.send_replace(Seek { number, position });
    }

    /// Returns true if the position must be read before it is written, because a native peer that uses the same
    /// durable may have moved it further. If the peer moved it since the last read, a write moves it back. The peer
    /// then gets messages again that it had acknowledged.
    pub(super) fn must_look(&self) -> bool {
        let looked_at = &mut self.progress().looked_at;
        let must = looked_at.is_none_or(|looked_at| looked_at.elapsed() > LOOK_INTERVAL)
            || self.is_closed()
            || self.is_releasing();
        if must {
            *looked_at = Some(Instant::now());
        }
        must
    }

    /// Returns true if there is another position to write after a write. The session must then be queued again.
    pub(super) fn is_still_unwritten(&self) -> bool {
        self.progress().is_still_unwritten()
    }

    pub(super) fn moved_at(&self) -> SystemTime {
        self.progress().moved_at
    }

    /// Ends the subscription. Only the first reason is kept.
    pub(super) fn end(&self, why: SessionEnd) {
        if self.end.set(why).is_ok() && why == SessionEnd::TakenOver && !self.is_closed() {
            self.metrics.take_overs.inc();
        }
        self.ended.cancel();
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn release(&self) {
        self.releasing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_releasing(&self) -> bool {
        self.releasing.load(Ordering::Relaxed)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }
}

impl SubscriberSession {
    /// The number of this subscription among those of the subscriber: a newer one has a greater number.
    pub(crate) fn generation(&self) -> u64 {
        self.inner.holding.generation.unwrap_or_default()
    }

    /// The mark of a frame that is sent now and ends at `position`.
    pub(crate) fn seek_position(&self, position: u64) -> SeekPosition {
        SeekPosition { seek: self.seek_number(), position }
    }

    /// Records that the client's stream has taken everything up to the mark. Ignores a mark from before the newest
    /// seek, because it must not undo that seek.
    pub(crate) fn taken(&self, SeekPosition { seek, position }: SeekPosition) {
        let news = {
            let mut progress = self.inner.progress();
            progress.has_taken(seek, position);
            progress.is_news()
        };
        if news && let Some(subscribers) = self.subscribers.upgrade() {
            subscribers.queue.moved(&self.inner);
        }
    }

    /// Sets the seek after which the current frames were read.
    pub(crate) fn follow(&self, seek: Seek) {
        self.seek_number.store(seek.number, Ordering::Relaxed);
    }

    /// The number of the seek after which the current frames were read.
    pub(crate) fn seek_number(&self) -> u64 {
        self.seek_number.load(Ordering::Relaxed)
    }

    /// Waits for a seek with a number above `after_seek`, and returns the newest. The first `after_seek` is 0.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn sought(&self, after_seek: u64) -> Seek {
        let mut seeks = self.inner.sought.subscribe();
        let found = seeks.wait_for(|newest| newest.number > after_seek).await.map(|newest| *newest);
        match found {
            Ok(newest) => newest,
            // the sender lives in the session, so this cannot fail
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until the subscription must end. Returns the error that it ends with.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn ended(&self) -> Error {
        self.inner.ended.cancelled().await;
        match self.inner.end.get() {
            Some(SessionEnd::Deleted) => Error::new(
                Reason::SubscriberNotFound,
                "`subscriber`: the durable subscriber was deleted while this subscription was open; subscribe again to create it",
            ),
            Some(SessionEnd::TakenOver) | None => Error::new(
                Reason::TakenOver,
                "a newer subscription of this subscriber took over; it gets the messages that this one did not acknowledge",
            ),
        }
    }
}

impl Drop for SubscriberSession {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::Relaxed);
        if let Some(subscribers) = self.subscribers.upgrade() {
            subscribers.queue.closed(&self.inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_before_a_seek_does_not_undo_it() {
        let mut progress = Progress::new(0);
        progress.has_taken(0, 10);
        assert_eq!(progress.unwritten(), Some(10));
        assert_eq!(progress.has_sought(3), 1);
        assert_eq!(progress.unwritten(), None);
        // the frame was on its way to the client when the position was moved
        progress.has_taken(0, 12);
        assert_eq!(progress.unwritten(), None);
        progress.has_taken(1, 5);
        assert_eq!(progress.unwritten(), Some(5));
        progress.has_written(5);
        assert_eq!(progress.unwritten(), None);
    }

    #[test]
    fn an_acknowledgement_counts_for_what_is_taken_too() {
        let mut progress = Progress::new(2);
        progress.has_written(7);
        progress.has_taken(0, 6);
        assert_eq!(progress.unwritten(), None);
        progress.has_taken(0, 8);
        assert_eq!(progress.unwritten(), Some(8));
    }
}
