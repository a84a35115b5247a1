//! Turns at reading backlogs: together, the readers of this instance ask NATS for less than it keeps for a connection.
//!
//! The NATS server closes a connection for which more than its `max_pending` waits. So a reader asks for no more bytes than its
//! turn holds. While others wait for a turn, a reader keeps its turn for a second; a reader from whom nobody takes messages
//! loses the turn, together with the messages that it has read ahead, and reads them again later.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream::Peekable};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};

use crate::{
    limits::{BACKLOG_TURN_TIME, BACKLOGS_BYTES_MAX, READ_AHEAD_BYTES_MAX},
    sync::lock,
};

/// How often one who waits for a turn looks for readers from whom nobody takes messages.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const KIB: usize = 1024;

/// The turns of this instance. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store) struct Backlogs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In KiB.
    budget: Arc<Semaphore>,
    /// How many wait, of all callers.
    waiting: AtomicUsize,
    /// What holds a turn now.
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

/// How a reader gets its turns.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    backlogs: Backlogs,
    /// The turns that the reader's caller may have at the same time.
    of_caller: Option<Arc<Semaphore>>,
}

impl Turns {
    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(in crate::store) async fn turn(&self, message_bytes_max: usize) -> Turn {
        self.backlogs.turn(self.of_caller.as_ref(), message_bytes_max).await
    }
}

/// Something that holds a turn, and can lose it.
trait Holder: Send + Sync {
    /// Gives the turn back, if nobody has asked for a message since this moment.
    fn give_back_if_idle_since(&self, moment: Instant);
}

/// The right to ask NATS for so many bytes of a backlog. Dropping it gives it back.
#[derive(Debug)]
pub(in crate::store) struct Turn {
    backlogs: Backlogs,
    pub bytes: usize,
    /// When the first message came: what it takes to begin is not the reader's time.
    since: Option<Instant>,
    _permit: OwnedSemaphorePermit,
    _of_caller: Option<OwnedSemaphorePermit>,
}

impl Backlogs {
    pub(in crate::store) fn new() -> Self {
        Self(Arc::new(Inner {
            budget: Arc::new(Semaphore::new(BACKLOGS_BYTES_MAX / KIB)),
            waiting: AtomicUsize::new(0),
            holders: Mutex::default(),
        }))
    }

    /// Turns, of which a caller may have as many at the same time as `of_caller` has permits.
    pub(in crate::store) fn turns(&self, of_caller: Option<Arc<Semaphore>>) -> Turns {
        Turns { backlogs: self.clone(), of_caller }
    }

    /// Waits for a turn, in the order in which readers ask. A turn is for one message of the largest size at least, and for all
    /// that is read ahead where nobody else reads. `of_caller` bounds the turns of one caller.
    async fn turn(&self, of_caller: Option<&Arc<Semaphore>>, message_bytes_max: usize) -> Turn {
        let all = BACKLOGS_BYTES_MAX / KIB;
        let needed = message_bytes_max.div_ceil(KIB).min(all);
        let wanted = (READ_AHEAD_BYTES_MAX + message_bytes_max).div_ceil(KIB).min(all);
        let _waiting = Waiting::new(&self.0.waiting);
        let of_caller = match of_caller {
            Some(places) => Some(self.acquire(Arc::clone(places), 1).await),
            None => None,
        };
        let wanted_permit = Arc::clone(&self.0.budget).try_acquire_many_owned(permits(wanted)).ok();
        let (kib, permit) = match wanted_permit {
            Some(permit) => (wanted, Some(permit)),
            None => (needed, self.acquire(Arc::clone(&self.0.budget), permits(needed)).await),
        };
        let Some(permit) = permit else { return std::future::pending().await };
        Turn { backlogs: self.clone(), bytes: kib * KIB, since: None, _permit: permit, _of_caller: of_caller.flatten() }
    }

    /// Waits for these permits, and takes turns away from idle holders meanwhile. `None` never comes: nobody closes a semaphore.
    async fn acquire(&self, semaphore: Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
        let acquiring = semaphore.acquire_many_owned(permits);
        tokio::pin!(acquiring);
        loop {
            if let Ok(acquired) = time::timeout(LOOK_INTERVAL, &mut acquiring).await {
                return acquired.ok();
            }
            self.take_from_idle();
        }
    }

    fn take_from_idle(&self) {
        let Some(moment) = Instant::now().checked_sub(BACKLOG_TURN_TIME) else { return };
        let holders: Vec<_> = {
            let mut holders = lock(&self.0.holders);
            holders.retain(|holder| holder.strong_count() > 0);
            holders.iter().filter_map(Weak::upgrade).collect()
        };
        for holder in holders {
            holder.give_back_if_idle_since(moment);
        }
    }
}

impl Turn {
    /// Whether somebody waits for a turn, and this one has lasted long enough.
    pub(in crate::store) fn is_over(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > BACKLOG_TURN_TIME)
            && self.backlogs.0.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Counts one who waits for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn permits(kib: usize) -> u32 {
    u32::try_from(kib).unwrap_or(u32::MAX)
}

/// A stream of messages that is read ahead for as long as its turn lasts.
pub(in crate::store) struct Taken<S: Stream> {
    slot: Arc<Slot<S>>,
}

struct Slot<S: Stream> {
    held: Mutex<Option<(Peekable<S>, Option<Turn>)>>,
    asked: Mutex<Asked>,
}

/// When somebody asked for a message the last time, and who waits for one.
struct Asked {
    at: Instant,
    waiting: Option<Waker>,
}

impl<S: Stream<Item: Send> + Unpin + Send + 'static> Taken<S> {
    /// The stream, which belongs to this turn; without a turn it lasts for ever.
    pub(in crate::store) fn new(stream: S, turn: Option<Turn>) -> Self {
        let backlogs = turn.as_ref().map(|turn| turn.backlogs.clone());
        let asked = Asked { at: Instant::now(), waiting: None };
        let slot = Arc::new(Slot { held: Mutex::new(Some((stream.peekable(), turn))), asked: Mutex::new(asked) });
        if let Some(backlogs) = backlogs {
            let holder: Weak<dyn Holder> = Arc::downgrade(&(Arc::clone(&slot) as Arc<dyn Holder>));
            let mut holders = lock(&backlogs.0.holders);
            holders.retain(|holder| holder.strong_count() > 0);
            holders.push(holder);
        }
        Self { slot }
    }

    /// Whether the turn was taken away, or is over; the stream is then of no use.
    pub(in crate::store) fn is_over(&self) -> bool {
        lock(&self.slot.held).as_ref().is_none_or(|(_, turn)| turn.as_ref().is_some_and(Turn::is_over))
    }
}

impl<S: Stream + Unpin> Taken<S> {
    /// Ready when [`Self::take`] gives a message, or never will again.
    pub(in crate::store) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut held = lock(&self.slot.held);
        let Some((stream, turn)) = &mut *held else { return Poll::Ready(()) };
        let polled = Pin::new(stream).poll_peek(cx).map(drop);
        if turn.is_some() {
            let waiting = polled.is_pending().then(|| cx.waker().clone());
            *lock(&self.slot.asked) = Asked { at: Instant::now(), waiting };
        }
        polled
    }

    /// The next message if it is here.
    pub(in crate::store) fn take(&self) -> Poll<Option<S::Item>> {
        let mut held = lock(&self.slot.held);
        let Some((stream, turn)) = &mut *held else { return Poll::Ready(None) };
        let taken = stream.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
        if let Some(turn) = turn {
            let now = Instant::now();
            lock(&self.slot.asked).at = now;
            if taken.is_ready() {
                turn.since.get_or_insert(now);
            }
        }
        taken
    }
}

impl<S: Stream<Item: Send> + Send> Holder for Slot<S> {
    fn give_back_if_idle_since(&self, moment: Instant) {
        let mut held = lock(&self.held);
        let mut asked = lock(&self.asked);
        if asked.at >= moment {
            return;
        }
        let given_back = held.take();
        let waiting = asked.waiting.take();
        drop((held, asked));
        drop(given_back);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}
