//! Publishes to JetStream and to core NATS. An acknowledgement of JetStream is believed only if it names the room's
//! stream.
//!
//! A message of a persisted room goes through the room's queue (`room_queue`). One worker at a time empties the queue
//! in order (`worker`), in groups or runs where they are faster (`group`, `run`).

mod acks;
mod atomic;
mod driver;
mod group;
mod mismatch;
pub(crate) mod order;
mod outbox;
pub(crate) mod pending;
mod plain_rooms;
pub(crate) mod room_queue;
mod run;
pub(crate) mod wire;
mod worker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::{
    runtime::Handle,
    time::{self, Instant},
};
use tokio_util::task::TaskTracker;

use self::{
    acks::{AckListener, Acks},
    driver::Driver,
    mismatch::Expectation,
    order::PublishOrder,
    outbox::Outbox,
    pending::Pending,
    plain_rooms::PlainRooms,
    room_queue::{QueueUsage, RoomQueues, Ticket, Work},
    wire::Outgoing,
    worker::Worker,
};
use super::{log::high_water_marks::HighWaterMarks, registry::known::Registered, signatures::Signatures};
use crate::{
    domain::{Acknowledged, Draft, Durability, PublishAcks, Room},
    error::{Error, Result},
    metrics::{PublishMetrics, RoomKind},
    nats::{Nats, error::unavailable, storage_gate::StorageGate},
    traces::{self, TraceStep},
};

/// Publishes to all rooms for this process.
#[derive(Debug)]
pub(crate) struct Publisher {
    outbox: Outbox,
    signatures: Signatures,
    plain_rooms: PlainRooms,
    marks: HighWaterMarks,
    room_queues: RoomQueues,
    gate: StorageGate,
    durability: Durability,
    orders: AtomicU64,
    metrics: Arc<PublishMetrics>,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Publisher {
    /// Creates a publisher, and the listener for its acknowledgements. `durability` is the meaning of an
    /// acknowledgement in a room with one replica.
    pub(super) async fn new(
        nats: &Nats,
        marks: &HighWaterMarks,
        signatures: &Signatures,
        gate: StorageGate,
        durability: Durability,
        metrics: &Arc<PublishMetrics>,
        tasks: &TaskTracker,
    ) -> Result<(Arc<Self>, AckListener)> {
        let (acks, listener) = Acks::open(nats).await?;
        let publisher = Self {
            outbox: Outbox { nats: nats.clone(), acks },
            signatures: signatures.clone(),
            plain_rooms: PlainRooms::default(),
            marks: marks.clone(),
            room_queues: RoomQueues::default(),
            gate,
            durability,
            orders: AtomicU64::default(),
            metrics: Arc::clone(metrics),
            tasks: tasks.clone(),
            runtime: Handle::current(),
        };
        Ok((Arc::new(publisher), listener))
    }

    /// The publish order of a new call.
    pub(super) fn order(&self) -> PublishOrder {
        PublishOrder(self.orders.fetch_add(1, Ordering::Relaxed))
    }

    /// What waits in the queues of all rooms.
    pub(super) fn queue_usage(&self) -> QueueUsage {
        self.room_queues.usage()
    }

    /// Sends a message of an ephemeral room to its current subscribers.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`; nothing was sent.
    pub(super) async fn send(&self, room: &Room, draft: Draft, deadline: Instant) -> Result<Acknowledged> {
        let bytes = draft.bytes() as u64;
        let outgoing = self.seal(room, draft)?;
        let nats = &self.outbox.nats;
        let mut span = traces::step(TraceStep::Send);
        let sending = async {
            nats.ready().await?;
            let (headers, payload) = (wire::headers(&outgoing), outgoing.draft.payload);
            let subject = room.subject.as_str().to_owned();
            let sent = if headers.is_empty() {
                nats.client.publish(subject, payload).await
            } else {
                nats.client.publish_with_headers(subject, headers, payload).await
            };
            sent.map_err(|error| unavailable().because(error))
        };
        let sent = time::timeout_at(deadline, sending).await.map_err(|elapsed| unavailable().because(elapsed));
        sent.flatten().inspect_err(|error| span.fail(error.reason().name()))?;
        self.metrics.messages.inc(RoomKind::Ephemeral);
        self.metrics.bytes.inc_by(RoomKind::Ephemeral, bytes);
        Ok(acknowledged(0, false, Durability::None))
    }

    /// Enqueues a message in its room. It is stored after all messages that were enqueued before. [`Pending`] returns
    /// the outcome, by the deadline. Messages of one [`PublishOrder`] are stored in the order in which they were
    /// enqueued, even when NATS restarts.
    ///
    /// # Errors
    /// `STORAGE_FULL`. `NATS_UNAVAILABLE` if the queue stays full. Nothing was done.
    ///
    /// # Cancel safety
    /// A call that is dropped has published nothing. A [`Pending`] that is dropped may have.
    pub(super) async fn enqueue(
        self: &Arc<Self>,
        registered: &Arc<Registered>,
        draft: Draft,
        order: Option<PublishOrder>,
        acks: PublishAcks,
        deadline: Instant,
    ) -> Result<Pending> {
        let expectation = Expectation::of(&draft);
        let outgoing = self.seal(&registered.room, draft)?;
        wire::check_kept(&registered.room, &outgoing, "payload")?;
        let ticket = self.enqueue_work(registered, Work::One(Box::new(outgoing)), order, acks, deadline).await?;
        Ok(Pending::new(self, registered, expectation, ticket))
    }

    /// Refuses retention bounds that are too small for any message of this publisher.
    ///
    /// # Errors
    /// `INVALID_FIELD` that names a field of `field`.
    pub(super) fn check_bounds(&self, room: &Room, smallest: Draft, field: &str) -> Result<()> {
        if room.content_bytes_max().is_none() {
            return Ok(());
        }
        let outgoing = self.seal(room, smallest)?;
        let Err(error) = wire::check_kept(room, &outgoing, field) else { return Ok(()) };
        let description =
            "is too small for any message, since NATS adds subject, headers and 34 bytes; give a larger bound";
        Err(Error::field(format!("{field}.max_bytes"), description).because(error))
    }

    /// Signs the message for its sender.
    fn seal(&self, room: &Room, draft: Draft) -> Result<Outgoing> {
        let seal = self.signatures.seal(room, &draft)?;
        Ok(Outgoing { draft, seal })
    }

    async fn enqueue_work(
        self: &Arc<Self>,
        registered: &Arc<Registered>,
        work: Work,
        order: Option<PublishOrder>,
        acks: PublishAcks,
        deadline: Instant,
    ) -> Result<Ticket> {
        self.gate.admit(&registered.room)?;
        let room_queue = self.room_queues.get(registered.room.stream.to_string());
        let (mut ticket, needs_worker) = room_queue.enqueue(registered, work, order, acks, deadline).await?;
        if needs_worker {
            let groups = group::is_faster(self.durability, &registered.room);
            let mark = self.marks.mark(&registered.room);
            let worker = Worker::new(room_queue, Arc::clone(self), groups, mark).run();
            if order.is_none() {
                // the caller of a single message waits for its outcome at once, and runs the worker meanwhile
                ticket.driver = Some(Driver::new(worker, &self.tasks, &self.runtime));
            } else {
                self.tasks.spawn(worker);
            }
        }
        Ok(ticket)
    }

    fn durability_of(&self, room: &Room) -> Durability {
        match (self.durability, room.replicas) {
            (Durability::Synced, 2..) => Durability::QuorumSynced,
            (Durability::Buffered, 2..) => Durability::Quorum,
            (durability, _) => durability,
        }
    }
}

fn acknowledged(sequence: u64, duplicate: bool, durability: Durability) -> Acknowledged {
    Acknowledged { sequence, duplicate, published_at: SystemTime::now(), durability }
}
