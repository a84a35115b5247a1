//! Turns for reading backlogs. Together, the readers of this instance request fewer bytes than NATS buffers for a
//! connection.
//!
//! The NATS server closes a connection with more than `max_pending` waiting bytes. So a reader requests at most the
//! bytes of its turn. While other readers wait, a reader keeps its turn for [`BACKLOG_TURN_TIME`]. A reader whose
//! messages are not taken loses its turn and the messages that it has read ahead, and reads them again later.

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

/// How often a waiting reader checks for readers whose messages are not taken.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
const KIB: usize = 1024;

/// The turns of this instance. Cheap to clone.
#[derive(Clone, Debug)]
pub(in crate::store) struct Backlogs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In KiB.
    budget: Arc<Semaphore>,
    /// Number of waiting readers, of all callers.
    waiting: AtomicUsize,
    /// The readers that have a turn.
    users: Mutex<Vec<Weak<dyn TurnUser>>>,
}

/// How a reader gets its turns.
#[derive(Clone, Debug)]
pub(crate) struct BacklogTurns {
    backlogs: Backlogs,
    /// The turns that the reader's caller may have at the same time.
    of_caller: Option<Arc<Semaphore>>,
}

impl BacklogTurns {
    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(in crate::store) async fn turn(&self, message_bytes_max: usize) -> BacklogTurn {
        self.backlogs.turn(self.of_caller.as_ref(), message_bytes_max).await
    }
}

/// A reader that uses a turn, and can lose it.
trait TurnUser: Send + Sync {
    /// Gives the turn back if no message was requested since `moment`.
    fn give_back_if_idle_since(&self, moment: Instant);
}

/// The right to request `bytes` bytes of a backlog from NATS. Dropping it gives the turn back.
#[derive(Debug)]
pub(in crate::store) struct BacklogTurn {
    backlogs: Backlogs,
    pub bytes: usize,
    /// When the first message arrived. The time until then is not counted.
    since: Option<Instant>,
    _permit: OwnedSemaphorePermit,
    _of_caller: Option<OwnedSemaphorePermit>,
}

impl Backlogs {
    pub(in crate::store) fn new() -> Self {
        Self(Arc::new(Inner {
            budget: Arc::new(Semaphore::new(BACKLOGS_BYTES_MAX / KIB)),
            waiting: AtomicUsize::new(0),
            users: Mutex::default(),
        }))
    }

    /// Bytes that the turns of all readers may request now.
    pub(in crate::store) fn bytes(&self) -> usize {
        BACKLOGS_BYTES_MAX.saturating_sub(self.0.budget.available_permits() * KIB)
    }

    /// Turns for one caller. `of_caller` has one permit for each turn that the caller may have at the same time.
    pub(in crate::store) fn turns(&self, of_caller: Option<Arc<Semaphore>>) -> BacklogTurns {
        BacklogTurns { backlogs: self.clone(), of_caller }
    }

    /// Waits for a turn, in the order of the requests. A turn covers at least one message of the largest size, or all
    /// of the read-ahead if the budget allows it. `of_caller` bounds the turns of one caller.
    async fn turn(&self, of_caller: Option<&Arc<Semaphore>>, message_bytes_max: usize) -> BacklogTurn {
        let all = BACKLOGS_BYTES_MAX / KIB;
        let needed = message_bytes_max.div_ceil(KIB).min(all);
        let wanted = (READ_AHEAD_BYTES_MAX + message_bytes_max).div_ceil(KIB).min(all);
        let _waiting = WaitingReader::new(&self.0.waiting);
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
        BacklogTurn {
            backlogs: self.clone(),
            bytes: kib * KIB,
            since: None,
            _permit: permit,
            _of_caller: of_caller.flatten(),
        }
    }

    /// Waits for permits, and takes turns from idle users meanwhile. Never `None`, because no semaphore is closed.
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
        let users: Vec<_> = {
            let mut users = lock(&self.0.users);
            users.retain(|user| user.strong_count() > 0);
            users.iter().filter_map(Weak::upgrade).collect()
        };
        for user in users {
            user.give_back_if_idle_since(moment);
        }
    }
}

impl BacklogTurn {
    /// Returns true if another reader waits and this turn has lasted [`BACKLOG_TURN_TIME`].
    pub(in crate::store) fn is_over(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > BACKLOG_TURN_TIME)
            && self.backlogs.0.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Counts a waiting reader until it is dropped.
struct WaitingReader<'a>(&'a AtomicUsize);

impl<'a> WaitingReader<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for WaitingReader<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn permits(kib: usize) -> u32 {
    u32::try_from(kib).unwrap_or(u32::MAX)
}

/// A stream of messages that is read ahead while its turn lasts.
pub(in crate::store) struct ReadAhead<S: Stream> {
    slot: Arc<Slot<S>>,
}

struct Slot<S: Stream> {
    held: Mutex<Option<(Peekable<S>, Option<BacklogTurn>)>>,
    asked: Mutex<LastRequest>,
}

/// The time of the last request for a message, and the task that waits for one.
struct LastRequest {
    at: Instant,
    waiting: Option<Waker>,
}

impl<S: Stream<Item: Send> + Unpin + Send + 'static> ReadAhead<S> {
    /// Wraps a stream that belongs to `turn`. Without a turn it never ends.
    pub(in crate::store) fn new(stream: S, turn: Option<BacklogTurn>) -> Self {
        let backlogs = turn.as_ref().map(|turn| turn.backlogs.clone());
        let asked = LastRequest { at: Instant::now(), waiting: None };
        let slot = Arc::new(Slot { held: Mutex::new(Some((stream.peekable(), turn))), asked: Mutex::new(asked) });
        if let Some(backlogs) = backlogs {
            let user: Weak<dyn TurnUser> = Arc::downgrade(&(Arc::clone(&slot) as Arc<dyn TurnUser>));
            let mut users = lock(&backlogs.0.users);
            users.retain(|user| user.strong_count() > 0);
            users.push(user);
        }
        Self { slot }
    }

    /// Returns true if the turn was taken away or is over. The stream is then unusable.
    pub(in crate::store) fn is_over(&self) -> bool {
        lock(&self.slot.held).as_ref().is_none_or(|(_, turn)| turn.as_ref().is_some_and(BacklogTurn::is_over))
    }
}

impl<S: Stream + Unpin> ReadAhead<S> {
    /// Ready if [`Self::take`] returns a message, or the stream has ended.
    pub(in crate::store) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut held = lock(&self.slot.held);
        let Some((stream, turn)) = &mut *held else { return Poll::Ready(()) };
        let polled = Pin::new(stream).poll_peek(cx).map(drop);
        if turn.is_some() {
            let waiting = polled.is_pending().then(|| cx.waker().clone());
            *lock(&self.slot.asked) = LastRequest { at: Instant::now(), waiting };
        }
        polled
    }

    /// Takes the next message if it has arrived.
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

impl<S: Stream<Item: Send> + Send> TurnUser for Slot<S> {
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
