//! The store: rooms on JetStream. Only `store` and `nats` name `async_nats`. The store does not use tonic.
//!
//! The connections are in `nats/links`. A room's stream is checked once and then trusted. If JetStream reports that
//! the stream is missing, the store checks in the registry that the room exists. Only then does it create the stream
//! again.

pub(crate) mod log;
mod names;
pub(crate) mod peers;
pub(crate) mod publish;
pub(crate) mod registry;
pub(crate) mod sessions;
pub(crate) mod signatures;
pub(crate) mod subscribers;
#[cfg(test)]
mod tests;
pub(crate) mod usage;
mod watchdog;

use std::{ops::Deref, sync::Arc, time::SystemTime};

use bytes::Bytes;
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use self::{
    log::{
        backlogs::{BacklogTurns, Backlogs},
        ephemeral::EphemeralFeed,
        excerpt::Excerpts,
        high_water_marks::{self, HighWaterMarks},
        history::{self, PageLimits},
        reader::LogReader,
        streams::{self, FoundStream},
    },
    peers::{PeerListener, Peers},
    publish::{Publisher, order::PublishOrder, pending::Pending},
    registry::{
        Registry,
        changes::{self, Changes},
        known::Registered,
        members::Members,
    },
    signatures::Signatures,
    subscribers::{
        durable_list::{self, DurablePage},
        durables::{self, Binding},
        holders::Holders,
        peers::PeerRequest,
        selector::{self, Resolved, SubscriberSelector},
        subscriber::Subscriber,
    },
    watchdog::Watchdog,
};
use crate::{
    domain::{
        Acknowledged, Caller, Draft, Durability, Page, PageRequest, PublishAcks, Room, RoomState, SubscriberId,
        SubscriberToken,
    },
    error::{Reason, Result},
    limits::{BATCH_BYTES_MAX, NATS_REQUEST_TIMEOUT},
    metrics::PublishMetrics,
    nats::{
        Nats, bucket::Buckets, embedded::disk::Disk, error::unavailable, reserve::Reserve, storage_gate::StorageGate,
    },
};

/// The store of everything in NATS. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Inner>);

/// The state that the clones of [`Store`] share.
#[derive(Debug)]
pub(crate) struct Inner {
    nats: Nats,
    instance: Arc<str>,
    pub(crate) registry: Registry,
    pub(crate) holders: Holders,
    pub(crate) members: Members,
    pub(crate) peers: Peers,
    changes: Changes,
    marks: HighWaterMarks,
    gate: StorageGate,
    publisher: Arc<Publisher>,
    signatures: Signatures,
    backlogs: Backlogs,
    tasks: TaskTracker,
}

impl Deref for Store {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        let Self(inner) = self;
        inner
    }
}

impl Store {
    /// Opens the store of the NATS account. The tasks that follow its buckets run in `tasks` until `stop`.
    pub(crate) async fn open(
        nats: Nats,
        replicas: usize,
        durability: Durability,
        disk: Option<Disk>,
        metrics: &Arc<PublishMetrics>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<(Self, PeerListener<PeerRequest>)> {
        let instance: Arc<str> = uuid::Uuid::new_v4().simple().to_string().into();
        let peers = Peers::new(&nats, &instance);
        let peer_requests = peers.listen().await?;
        let gate = StorageGate::new(disk);
        let reserve = Reserve::new(&nats, replicas, &gate);
        let buckets = Buckets { nats: nats.clone(), replicas, reserve: reserve.clone() };
        let signatures = Signatures::new(&buckets);
        let (complete, known) = oneshot::channel();
        tasks.spawn(signatures.clone().follow(stop.clone(), complete));
        // before any read, so that every later change of another instance is received
        let changes = Changes::new(&nats, &signatures, &instance);
        let listener = changes::Listener::open(&changes).await?;
        let registry = Registry::new(&buckets, &changes);
        registry.check_replicas().await?;
        if time::timeout(NATS_REQUEST_TIMEOUT, known).await.is_err() {
            warn!(
                "the key that signs the sender of messages is not known yet; until then only callers without an id can publish"
            );
        }
        let members = Members::new(&buckets, &changes);
        tasks.spawn(listener.run(registry.clone(), members.clone(), tasks.clone(), stop.clone()));
        let marks = HighWaterMarks::new(&nats, &registry);
        let (publisher, acks) =
            Publisher::new(&nats, &marks, &signatures, gate.clone(), durability, metrics, tasks).await?;
        tasks.spawn(acks.run(stop.clone()));
        let (complete, known) = oneshot::channel();
        tasks.spawn(registry.clone().follow(stop.clone(), complete));
        let (members_complete, members_known) = oneshot::channel();
        tasks.spawn(members.clone().follow(stop.clone(), members_complete));
        known.await.map_err(|_| unavailable())?;
        members_known.await.map_err(|_| unavailable())?;
        if nats.has_jetstream() {
            tasks.spawn(reserve.keep_full(stop.clone()));
            tasks.spawn(Watchdog::new(&nats, &registry, &marks).await?.run(stop.clone()));
        }
        let holders = Holders::new(&buckets);
        Ok((
            Self(Arc::new(Inner {
                nats,
                instance,
                registry,
                holders,
                members,
                peers,
                changes,
                marks,
                gate,
                publisher,
                signatures,
                backlogs: Backlogs::new(),
                tasks: tasks.clone(),
            })),
            peer_requests,
        ))
    }

    /// Finds the durable subscriber with this id. If it does not exist, the result has the NATS name that it gets when
    /// it is bound.
    pub(crate) async fn subscriber(
        &self,
        room: &Room,
        id: &SubscriberId,
        selector: &SubscriberSelector,
    ) -> Result<Resolved> {
        selector::resolve(&self.nats, &self.holders, room, id, selector).await
    }

    /// Runs a task. The service waits for it when it stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The name of this instance.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn has_jetstream(&self) -> bool {
        self.nats.has_jetstream()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.nats.is_connected()
    }

    /// Returns an error if the disk of the embedded server has no space.
    ///
    /// # Errors
    /// `STORAGE_FULL`.
    pub(crate) fn require_space(&self) -> Result<()> {
        self.gate.require_space()
    }

    /// The disk of the embedded server.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.gate.disk()
    }

    /// Returns true if the NATS client's task has ended, so that it never reconnects.
    pub(crate) async fn has_died(&self) -> bool {
        self.nats.has_died().await
    }

    /// The number of connections to NATS that were made. Changes at each reconnection.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.nats.connections()
    }

    /// Maximum payload of the NATS server, without headers.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.nats.payload_bytes_max()
    }

    /// Returns an error if JetStream is not available.
    pub(crate) fn require_jetstream(&self) -> Result<()> {
        self.nats.require_jetstream()
    }

    /// The stream that a new room would adopt.
    pub(crate) async fn adoptable(&self, room: &Room) -> Result<Option<FoundStream>> {
        streams::find(&self.nats, room).await
    }

    /// Creates or adopts the room's log.
    pub(crate) async fn create_log(&self, room: &Room) -> Result<RoomState> {
        streams::create(&self.nats, room).await
    }

    /// The state of the room's log. If another program changed the log's stream, the stream is repaired first.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND` if the room was deleted meanwhile.
    pub(crate) async fn log_state(&self, room: &Room) -> Result<RoomState> {
        self.marks.state(room).await
    }

    /// As [`Self::log_state`]. Calls at the same time share requests; each gets an answer to a request that was sent after
    /// the call began.
    ///
    /// # Errors
    /// As [`Self::log_state`].
    pub(crate) async fn shared_log_state(&self, room: &Room) -> Result<RoomState> {
        self.marks.shared_state(room).await
    }

    /// Waits for a state in which `sequence` is stored. Returns the newest state after a bounded wait.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND` if the room was deleted meanwhile.
    pub(crate) async fn log_reaching(&self, room: &Room, sequence: u64, state: RoomState) -> Result<RoomState> {
        self.marks.reaching(room, sequence, state).await
    }

    /// The time of the clock that dates the room's messages.
    pub(crate) async fn log_clock(&self, room: &Room) -> Result<SystemTime> {
        if let Some(time) = streams::clock(&self.nats, room).await? {
            return Ok(time);
        }
        self.ensure_log(room).await?;
        streams::clock(&self.nats, room).await?.ok_or_else(unavailable)
    }

    /// Configures the room's stream as the registry says.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND` if the room was deleted meanwhile.
    pub(crate) async fn ensure_log(&self, room: &Room) -> Result<RoomState> {
        self.marks.ensure(room).await
    }

    /// Applies the settings of `room`, which is not registered yet, to its log.
    ///
    /// # Errors
    /// `REPLICAS_UNAVAILABLE` and the account's limits. The log was not changed.
    pub(crate) async fn update_log(&self, room: &Room) -> Result<()> {
        streams::update(&self.nats, room).await
    }

    /// Removes every message up to and including `through`. Returns the number of removed messages.
    ///
    /// # Errors
    /// `REMOVAL_DENIED`.
    pub(crate) async fn purge(&self, room: &Room, through: u64) -> Result<u64> {
        streams::purge(&self.nats, room, through).await
    }

    /// Removes one message of the log with this `epoch`. False: it does not exist.
    ///
    /// # Errors
    /// `REMOVAL_DENIED`.
    pub(crate) async fn delete_message(&self, registered: &Registered, epoch: i64, sequence: u64) -> Result<bool> {
        let deleted = streams::delete_message(&self.nats, &registered.room, sequence).await;
        match deleted {
            Ok(true) => {
                registered.deleted(epoch, sequence);
                let room_id = registered.room.room_id.clone();
                self.changes
                    .send_change(changes::Change::MessageDeleted { room_id, epoch, sequence })
                    .await
                    .confirmed()
                    .await;
            }
            // the message may be gone although this instance got no notice
            Ok(false) | Err(_) => registered.doubt(epoch, sequence),
        }
        deleted
    }

    /// Deletes the room's log with everything in it, and the room's members.
    pub(crate) async fn delete_log(&self, room: &Room) -> Result<()> {
        if self.nats.has_jetstream() {
            streams::delete(&self.nats, room).await?;
            self.marks.remove(&room.room_id);
            self.holders.delete_room(&room.room_id).await?;
        }
        // last, because only members may finish the deletion
        self.members.delete_room(&room.room_id).await
    }

    /// Refuses retention bounds that are too small for any message of this caller.
    ///
    /// # Errors
    /// `INVALID_FIELD` that names a field of `field`.
    pub(crate) fn check_bounds(&self, room: &Room, caller: &Caller, field: &str) -> Result<()> {
        let smallest = Draft { payload: Bytes::from_static(b"x"), ..Draft::default() };
        self.publisher.check_bounds(room, smallest.by(caller), field)
    }

    /// The publish order of a new client. Its messages to one room are stored in the order in which they are
    /// [enqueued](Self::enqueue).
    pub(crate) fn publish_order(&self) -> PublishOrder {
        self.publisher.order()
    }

    /// Publishes a message: enqueues it in a persisted room, or sends it in an ephemeral room.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`: nothing was done.
    ///
    /// # Cancel safety
    /// A call that is dropped has not stored the message.
    pub(crate) async fn enqueue(
        &self,
        registered: &Arc<Registered>,
        draft: Draft,
        order: Option<PublishOrder>,
        acks: PublishAcks,
        deadline: Instant,
    ) -> Result<Pending> {
        if registered.room.persist {
            return self.publisher.enqueue(registered, draft, order, acks, deadline).await;
        }
        // boxed, because it would make the future of every stored message larger
        Box::pin(self.publisher.send(&registered.room, draft, deadline)).await.map(Pending::sent)
    }

    /// Stores all messages in adjacent sequences, or none.
    ///
    /// # Errors
    /// `OUTCOME_UNKNOWN`: all messages are stored, or none. Any other error: none.
    pub(crate) async fn store_all(
        &self,
        registered: &Arc<Registered>,
        drafts: Vec<Draft>,
        deadline: Instant,
    ) -> Result<Vec<Acknowledged>> {
        self.publisher.store_all(registered, drafts, deadline).await
    }

    /// Reads a page of history. `state` is a recent state of the log.
    pub(crate) async fn page(
        &self,
        room: &Room,
        state: RoomState,
        want: PageRequest,
        limits: PageLimits,
    ) -> Result<Page> {
        match history::page(self.excerpts(room, state), want, limits).await {
            // nothing answers direct gets if another program has disabled them; repair the stream, once
            Err(error) if error.reason() == Reason::NatsUnavailable && self.is_connected() => {
                let state = self.ensure_log(room).await?;
                history::page(self.excerpts(room, state), want, limits).await
            }
            page => page,
        }
    }

    /// The sequence of the first message stored at or after `time`.
    pub(crate) async fn first_since(&self, room: &Room, state: RoomState, time: SystemTime) -> Result<Option<u64>> {
        history::first_since(self.excerpts(room, state), time).await
    }

    /// The state of the log, if nothing is stored after `position`.
    pub(crate) async fn nothing_after(&self, room: &Room, position: u64) -> Result<Option<RoomState>> {
        if high_water_marks::is_replicated(room) {
            let listing = self.marks.list(room).await?;
            return Ok(listing.first_from(position + 1).is_none().then_some(listing.state));
        }
        let state = self.log_state(room).await?;
        let follows = self.excerpts(room, state).exists_after(position).await?;
        Ok((!follows).then_some(state))
    }

    fn excerpts<'a>(&'a self, room: &'a Room, state: RoomState) -> Excerpts<'a> {
        Excerpts { nats: &self.nats, marks: &self.marks, signatures: &self.signatures, room, state }
    }

    /// Maximum bytes of a batch. A batch may exceed its bound by less than one message.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        BATCH_BYTES_MAX + self.nats.client.max_payload()
    }

    /// A reader of the messages after `position` in the log with this `epoch`. A reader of a backlog waits for its
    /// turns.
    pub(crate) fn reader(&self, room: &Room, epoch: i64, position: u64, turns: Option<BacklogTurns>) -> LogReader {
        LogReader::new(&self.nats, &self.marks, &self.signatures, &self.tasks, turns, room, (epoch, position))
    }

    /// Turns for the backlogs of one caller. `of_caller` has one permit for each turn that the caller may have at the
    /// same time.
    pub(crate) fn turns(&self, of_caller: Option<Arc<Semaphore>>) -> BacklogTurns {
        self.backlogs.turns(of_caller)
    }

    /// Subscribes to an ephemeral room.
    pub(crate) async fn live(&self, room: &Room) -> Result<EphemeralFeed> {
        EphemeralFeed::open(&self.nats, &self.signatures, room).await
    }

    /// A durable subscriber's position. Creates the consumer if it is missing.
    pub(crate) async fn bind(&self, room: &Room, subscriber: &Subscriber) -> Result<Binding> {
        durables::bind(&self.nats, room, subscriber).await
    }

    /// As [`Self::bind`], for a subscriber whose consumer was missing a moment ago. Asks NATS once instead of twice.
    pub(crate) async fn create_binding(&self, room: &Room, subscriber: &Subscriber) -> Result<Binding> {
        durables::create(&self.nats, room, subscriber).await
    }

    /// The binding of a durable subscriber; `None` if its consumer is missing.
    ///
    /// # Errors
    /// `STREAM_INCOMPATIBLE`.
    pub(crate) async fn binding(&self, room: &Room, subscriber: &Subscriber) -> Result<Option<Binding>> {
        durables::existing(&self.nats, room, subscriber).await
    }

    /// A durable subscriber's position.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`.
    pub(crate) async fn position(&self, room: &Room, subscriber: &Subscriber) -> Result<u64> {
        durables::position(&self.nats, room, subscriber).await?.ok_or_else(|| durables::not_found(&subscriber.id))
    }

    /// Moves a durable subscriber's position.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`.
    pub(crate) async fn move_to(&self, room: &Room, subscriber: &Subscriber, position: u64) -> Result<u64> {
        durables::move_to(&self.nats, room, subscriber, position).await
    }

    /// Deletes a durable subscriber's consumer. False: there was none.
    pub(crate) async fn delete_consumer(&self, room: &Room, subscriber: &Subscriber) -> Result<bool> {
        durables::delete(&self.nats, room, subscriber).await
    }

    /// A page of the durable consumers of the room for whose NATS name `is_wanted` is true.
    pub(crate) async fn durables(
        &self,
        room: &Room,
        after: Option<&SubscriberToken>,
        state: &RoomState,
        limit: usize,
        is_wanted: &(dyn Fn(&str) -> bool + Sync),
    ) -> Result<DurablePage> {
        durable_list::page(&self.nats, room, after, state, limit, is_wanted).await
    }
}
