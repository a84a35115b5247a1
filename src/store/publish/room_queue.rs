//! The queue of one room: the publishes that wait, in order, bounded by count and by bytes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

use async_nats::jetstream;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    driver::Driver,
    order::{Ordered, PublishOrder},
    wire::{Outgoing, outcome_unknown},
};
use crate::{
    domain::PublishAcks,
    error::{Error, Result},
    limits::{ACK_TIME_MIN, ROOM_QUEUE_BYTES_MAX, ROOM_QUEUE_MESSAGES_MAX},
    nats::error::unavailable,
    store::registry::known::Registered,
    sync::lock,
    traces::{self, Parent},
};

/// The messages of one job. They are stored as a whole or not at all.
#[derive(Debug)]
pub(super) enum Work {
    One(Box<Outgoing>),
    /// Two or more messages, as one atomic batch.
    All(Arc<[Outgoing]>),
}

/// The outcome of a [`Job`].
#[derive(Debug)]
pub(super) enum Outcome {
    /// `sequence` is the sequence of the last message.
    Stored {
        sequence: u64,
        duplicate: bool,
    },
    /// The sequence is not known.
    StoredUnnumbered,
    Refused(jetstream::Error),
    Failed(Error),
}

impl Work {
    /// Returns true if NATS could answer the message inside a run as it answers it outside.
    fn is_plain(&self) -> bool {
        let Self::One(message) = self else { return false };
        let draft = &message.draft;
        draft.message_id.is_none() && draft.expected_last_sequence.is_none() && draft.ttl.is_none()
    }
}

/// The state of a job: waiting, sent to NATS, or taken back. The caller can take back a job that was not sent.
#[derive(Debug, Default)]
struct SendState {
    state: AtomicU8,
    /// When a traced job was sent for the first time. `None`: the job is not traced.
    sent_at: Option<OnceLock<Instant>>,
}

impl SendState {
    const WAITING: u8 = 0;
    const SENT: u8 = 1;
    const TAKEN_BACK: u8 = 2;

    fn new(is_traced: bool) -> Self {
        Self { state: AtomicU8::new(Self::WAITING), sent_at: is_traced.then(OnceLock::new) }
    }

    fn leave_waiting(&self, to: u8) -> bool {
        self.state.compare_exchange(Self::WAITING, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The caller's side of a job.
#[derive(Debug)]
pub(super) struct Ticket {
    outcome: oneshot::Receiver<Outcome>,
    state: Arc<SendState>,
    /// The worker of the queue, if this caller runs it while it waits.
    pub driver: Option<Driver>,
    pub deadline: Instant,
    /// `None`: the publish is not traced.
    trace: Option<Box<PublishTrace>>,
}

/// What the spans of a traced publish need. They are made when this is dropped.
#[derive(Debug)]
struct PublishTrace {
    parent: Parent,
    enqueued: Instant,
    state: Arc<SendState>,
    messages: usize,
    failure: Option<&'static str>,
}

impl Drop for PublishTrace {
    fn drop(&mut self) {
        let sent = self.state.sent_at.as_ref().and_then(OnceLock::get).map(|sent| sent.into_std());
        traces::publish_steps(&self.parent, self.enqueued.into_std(), sent, self.messages, self.failure);
    }
}

impl Ticket {
    /// Waits for the outcome, until the deadline at the latest.
    ///
    /// # Cancel safety
    /// A call that is dropped may have stored the messages.
    pub(super) async fn outcome(&mut self) -> Outcome {
        let outcome = self.untraced_outcome().await;
        if let Some(mut trace) = self.trace.take() {
            trace.failure = match &outcome {
                Outcome::Stored { .. } | Outcome::StoredUnnumbered => None,
                Outcome::Refused(_) => Some("refused"),
                Outcome::Failed(error) => Some(error.reason().name()),
            };
        }
        outcome
    }

    async fn untraced_outcome(&mut self) -> Outcome {
        let (driver, outcome) = (&mut self.driver, &mut self.outcome);
        let outcome = async {
            if let Some(driver) = driver {
                tokio::select! {
                    biased;
                    () = driver => {}
                    outcome = &mut *outcome => return outcome,
                }
            }
            outcome.await
        };
        match timeout_at(self.deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            // the service was stopped, or the worker was delayed
            Ok(Err(_)) | Err(_) if self.state.leave_waiting(SendState::TAKEN_BACK) => Outcome::Failed(unavailable()),
            Ok(Err(_)) | Err(_) => Outcome::Failed(outcome_unknown()),
        }
    }
}

/// A place in a room's queue: permits for messages and for bytes.
type QueuePlace = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// A publish that waits in a room's queue.
#[derive(Debug)]
pub(super) struct Job {
    pub registered: Arc<Registered>,
    pub work: Work,
    pub order: Option<PublishOrder>,
    /// True: the job may be part of a run, because its caller does without the sequence.
    pub may_join_run: bool,
    pub bytes: usize,
    pub since: Instant,
    pub deadline: Instant,
    tell: oneshot::Sender<Outcome>,
    state: Arc<SendState>,
    _place: QueuePlace,
}

/// The latest time to send a job with this deadline, so that its acknowledgement can come in time.
pub(super) fn send_by(deadline: Instant) -> Instant {
    deadline - ACK_TIME_MIN
}

impl Ordered for Job {
    fn order(&self) -> Option<PublishOrder> {
        self.order
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn send_by(&self) -> Instant {
        send_by(self.deadline)
    }
}

impl Job {
    /// Reports the outcome. The caller may have gone.
    pub(super) fn tell(self, outcome: Outcome) {
        let _ = self.tell.send(outcome);
    }

    /// Reports that nothing was done.
    pub(super) fn tell_unavailable(self) {
        self.tell(Outcome::Failed(unavailable()));
    }

    /// The number of messages.
    pub(super) fn messages(&self) -> usize {
        match &self.work {
            Work::One(_) => 1,
            Work::All(messages) => messages.len(),
        }
    }

    /// Returns true if the caller has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.tell.is_closed()
    }

    /// Marks the job as sent, just before it is sent. False: the caller took it back.
    pub(super) fn begin(&self) -> bool {
        let begins = self.state.leave_waiting(SendState::SENT);
        if begins && let Some(sent_at) = &self.state.sent_at {
            sent_at.get_or_init(Instant::now);
        }
        begins
    }

    /// Marks the job as waiting. It is certainly not stored, and will be sent again.
    pub(super) fn mark_waiting(&self) {
        self.state.state.store(SendState::WAITING, Ordering::Release);
    }
}

/// The waiting jobs of a queue, and whether a worker serves it.
#[derive(Debug, Default)]
pub(super) struct WaitingJobs {
    pub jobs: VecDeque<Job>,
    pub is_served: bool,
}

/// What waits in the queues of all rooms.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct QueueUsage {
    pub queues: usize,
    pub messages: usize,
    pub bytes: usize,
    /// The used part of the queue that is closest to one of its bounds, from 0 to 1.
    pub fullest: f64,
}

/// One room's queue. It exists while jobs or a worker use it.
#[derive(Debug)]
pub(super) struct RoomQueue {
    /// The room's stream.
    pub stream: Arc<str>,
    pub waiting: Mutex<WaitingJobs>,
    /// Notified of every new job.
    pub wake: Notify,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    room_queues: RoomQueues,
}

impl Drop for RoomQueue {
    fn drop(&mut self) {
        let mut room_queues = lock(&self.room_queues.0);
        // another queue may have been created since the last reference to this one was dropped
        if room_queues.get(&self.stream).is_some_and(|room_queue| room_queue.strong_count() == 0) {
            room_queues.remove(&self.stream);
        }
    }
}

/// The queues of this process, by stream name.
#[derive(Clone, Debug, Default)]
pub(super) struct RoomQueues(Arc<Mutex<HashMap<Arc<str>, Weak<RoomQueue>>>>);

impl RoomQueues {
    pub(super) fn usage(&self) -> QueueUsage {
        // collected, because dropping the last reference to a queue takes the lock
        let queues: Vec<Arc<RoomQueue>> = lock(&self.0).values().filter_map(Weak::upgrade).collect();
        queues.iter().fold(QueueUsage::default(), |all, queue| {
            let (messages, bytes) = queue.used();
            let fullest = part(messages, ROOM_QUEUE_MESSAGES_MAX).max(part(bytes, ROOM_QUEUE_BYTES_MAX));
            QueueUsage {
                queues: all.queues + 1,
                messages: all.messages + messages,
                bytes: all.bytes + bytes,
                fullest: all.fullest.max(fullest),
            }
        })
    }

    /// Returns the queue of this stream. Creates it if it is missing.
    pub(super) fn get(&self, stream: String) -> Arc<RoomQueue> {
        let mut room_queues = lock(&self.0);
        if let Some(room_queue) = room_queues.get(stream.as_str()).and_then(Weak::upgrade) {
            return room_queue;
        }
        let stream: Arc<str> = stream.into();
        let room_queue = Arc::new(RoomQueue {
            stream: Arc::clone(&stream),
            waiting: Mutex::default(),
            wake: Notify::new(),
            places: Arc::new(Semaphore::new(ROOM_QUEUE_MESSAGES_MAX)),
            bytes: Arc::new(Semaphore::new(ROOM_QUEUE_BYTES_MAX)),
            room_queues: self.clone(),
        });
        room_queues.insert(stream, Arc::downgrade(&room_queue));
        room_queue
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn part(used: usize, max: usize) -> f64 {
    used as f64 / max as f64
}

impl RoomQueue {
    /// The messages and bytes that wait or are under way.
    fn used(&self) -> (usize, usize) {
        let messages = ROOM_QUEUE_MESSAGES_MAX.saturating_sub(self.places.available_permits());
        (messages, ROOM_QUEUE_BYTES_MAX.saturating_sub(self.bytes.available_permits()))
    }

    /// Waits for a place and enqueues the job. Returns the caller's ticket, and true if the caller must start a
    /// worker.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` if the queue stays full until the latest time to send. Nothing was done.
    ///
    /// # Cancel safety
    /// A call that is dropped has enqueued nothing.
    pub(super) async fn enqueue(
        &self,
        registered: &Arc<Registered>,
        work: Work,
        order: Option<PublishOrder>,
        acks: PublishAcks,
        deadline: Instant,
    ) -> Result<(Ticket, bool)> {
        let since = Instant::now();
        let (count, bytes) = match &work {
            Work::One(message) => (1, message.draft.bytes()),
            Work::All(messages) => (messages.len(), messages.iter().map(|message| message.draft.bytes()).sum()),
        };
        let share = |wanted: usize, all: usize| u32::try_from(wanted.min(all)).unwrap_or(u32::MAX);
        let wanted = (share(count, ROOM_QUEUE_MESSAGES_MAX), share(bytes, ROOM_QUEUE_BYTES_MAX));
        let place = match self.try_place(wanted) {
            Some(place) => place,
            None => Box::pin(timeout_at(send_by(deadline), self.place(wanted)))
                .await
                .ok()
                .flatten()
                .ok_or_else(unavailable)?,
        };
        let (tell, outcome) = oneshot::channel();
        // the messages of a stream or batch are not traced one by one
        let parent = if order.is_none() { traces::current() } else { None };
        let (registered, state) = (Arc::clone(registered), Arc::new(SendState::new(parent.is_some())));
        let trace = parent.map(|parent| {
            let state = Arc::clone(&state);
            Box::new(PublishTrace { parent, enqueued: since, state, messages: count, failure: Some("given up") })
        });
        let ticket = Ticket { outcome, state: Arc::clone(&state), driver: None, deadline, trace };
        let may_join_run = acks == PublishAcks::Cumulative && work.is_plain();
        let job = Job { registered, work, order, may_join_run, bytes, since, deadline, tell, state, _place: place };
        let mut waiting = lock(&self.waiting);
        waiting.jobs.push_back(job);
        let needs_worker = !std::mem::replace(&mut waiting.is_served, true);
        drop(waiting);
        self.wake.notify_one();
        Ok((ticket, needs_worker))
    }

    /// Takes a place for `messages` messages and `bytes` bytes, if there is one.
    fn try_place(&self, (messages, bytes): (u32, u32)) -> Option<QueuePlace> {
        let messages = Arc::clone(&self.places).try_acquire_many_owned(messages).ok()?;
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok()?;
        Some((messages, bytes))
    }

    /// As [`Self::try_place`], but waits for a place.
    async fn place(&self, (messages, bytes): (u32, u32)) -> Option<QueuePlace> {
        let messages = Arc::clone(&self.places).acquire_many_owned(messages).await.ok()?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok()?;
        Some((messages, bytes))
    }

    /// Puts jobs back before all others.
    pub(super) fn put_back(&self, jobs: Vec<Job>) {
        let mut waiting = lock(&self.waiting);
        for job in jobs.into_iter().rev() {
            waiting.jobs.push_front(job);
        }
    }
}
