//! The durable subscribers that this instance holds: their open subscriptions, and the code that moves positions.
//!
//! The holder moves a subscriber's position, one move at a time. Only a seek moves it backwards. Other instances send
//! requests to the holder. In `ACK_MODE_AUTO`, positions are collected and written periodically. An end, an
//! Acknowledge, a take-over and a drain write the position at once.

mod commands;
mod endpoints;
pub(crate) mod list;
mod peers;
mod recreate;
pub(crate) mod session;
mod write_back;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak, atomic::AtomicU64},
};

use tokio::sync::Mutex as AsyncMutex;
use tracing::warn;

use self::{
    endpoints::EndpointSubscribers,
    session::{SessionEnd, SessionState, SubscriberSession},
    write_back::WriteQueue,
};
use crate::{
    domain::{NatsName, Room, RoomId, SubscriberId},
    error::{Error, Reason, Result},
    metrics::DeliveryMetrics,
    store::{
        Store,
        registry::known::Registered,
        subscribers::{
            durables::Binding,
            holders::Holding,
            selector::{Resolved, SubscriberSelector},
            subscriber::Subscriber,
        },
    },
    sync::lock,
};

/// Number of attempts to bind a subscription whose subscriber is deleted at the same time.
const ATTEMPTS: usize = 8;
/// Maximum number of positions that are written, and of requests of other instances that are served, at the same
/// time.
const WRITES_AT_ONCE: usize = 32;

/// The key of a subscriber in memory: its room and its NATS name.
type SubscriberKey = (RoomId, NatsName);

fn key(subscriber: &Subscriber) -> SubscriberKey {
    (subscriber.room_id.clone(), subscriber.name.clone())
}

/// The durable subscribers that this instance holds.
#[derive(Debug)]
pub(crate) struct Subscribers {
    store: Store,
    sessions: Mutex<HashMap<SubscriberKey, Arc<SessionState>>>,
    /// One lock for each subscriber whose position is being moved.
    moves: Mutex<HashMap<SubscriberKey, Weak<AsyncMutex<()>>>>,
    queue: WriteQueue,
    endpoints: EndpointSubscribers,
    metrics: Arc<DeliveryMetrics>,
}

impl Subscribers {
    /// Creates an empty set. Each endpoint may have `max_of_endpoint` durable subscribers.
    pub(crate) fn new(store: Store, max_of_endpoint: Option<u32>, metrics: &Arc<DeliveryMetrics>) -> Self {
        let (sessions, moves) = (Mutex::default(), Mutex::default());
        Self {
            store,
            sessions,
            moves,
            queue: WriteQueue::default(),
            endpoints: EndpointSubscribers::new(max_of_endpoint),
            metrics: Arc::clone(metrics),
        }
    }

    /// Changes the bound on the durable subscribers of each endpoint.
    pub(crate) fn set_max_of_endpoint(&self, max: Option<u32>) {
        self.endpoints.set_max(max);
    }

    /// Finds the subscriber with this id. Does not ask NATS if the subscriber has an open subscription on this
    /// instance.
    pub(crate) async fn find(
        &self,
        room: &Room,
        id: &SubscriberId,
        selector: &SubscriberSelector,
    ) -> Result<Subscriber> {
        let open = {
            let sessions = self.sessions();
            let names = NatsName::of_subscriber(id, selector.endpoint.as_ref());
            let mut open = names.into_iter().filter_map(|name| sessions.get(&(room.room_id.clone(), name)));
            let found =
                open.find(|open| open.holding.subscriber.id == *id && selector.is_exact(&open.holding.subscriber));
            found.map(|session| session.holding.subscriber.clone())
        };
        match open {
            Some(subscriber) => Ok(subscriber),
            None => Ok(self.store.subscriber(room, id, selector).await?.subscriber),
        }
    }

    /// Opens the one subscription of a durable subscriber. Takes over from the open subscription, if there is one.
    /// `epoch` is the epoch of the room's log. `start` returns the start position of a new subscriber.
    ///
    /// # Errors
    /// `STREAM_INCOMPATIBLE`, `LIMIT_REACHED`, `CONFLICT`, and those of `start`.
    pub(crate) async fn open<F>(
        self: &Arc<Self>,
        registered: &Arc<Registered>,
        epoch: i64,
        subscriber: &SubscriberId,
        selector: &SubscriberSelector,
        start: impl Fn() -> F,
    ) -> Result<SubscriberSession>
    where
        F: Future<Output = Result<u64>>,
    {
        let room = &registered.room;
        for _ in 0..ATTEMPTS {
            let resolved = self.store.subscriber(room, subscriber, selector).await?;
            let first_position = if resolved.is_new {
                // an invalid start must leave nothing behind
                self.endpoints.check(resolved.subscriber.endpoint.as_ref(), &self.store.registry)?;
                Some(start().await?)
            } else {
                None
            };
            if let Some(session) = self.try_open(registered, epoch, resolved, selector, first_position, &start).await? {
                return Ok(session);
            }
        }
        Err(Error::new(Reason::Conflict, "other calls delete the subscriber at this moment; call again"))
    }

    /// Tries to open the subscription once. Returns `None` if the subscriber was deleted at the same time, or if
    /// another subscriber got the NATS name.
    async fn try_open<F>(
        self: &Arc<Self>,
        registered: &Arc<Registered>,
        epoch: i64,
        resolved: Resolved,
        selector: &SubscriberSelector,
        first_position: Option<u64>,
        start: impl Fn() -> F,
    ) -> Result<Option<SubscriberSession>>
    where
        F: Future<Output = Result<u64>>,
    {
        let Resolved { subscriber, entry, is_new } = &resolved;
        let room = &registered.room;
        let key = key(subscriber);
        let session = Some(uuid::Uuid::new_v4().simple().to_string());
        let mut holding = self.holding(subscriber, session);
        holding.begins_at = first_position.filter(|position| *position > 0);
        let claimed = self.store.holders.claim_as_read(&holding, entry.clone()).await?;
        let Some((before, mut revision)) = claimed else { return Ok(None) };
        if before.is_none()
            && self.store.subscriber(room, &subscriber.id, selector).await?.subscriber.name != subscriber.name
        {
            // another call bound the subscriber under another NATS name at the same time; a newer claim keeps this one
            let _has_newer_claim = !self.store.holders.delete(&holding, revision).await?;
            return Ok(None);
        }
        self.endpoints.add(&holding);
        holding.generation = Some(revision);
        holding.begins_at = holding.begins_at.or(before.as_ref().and_then(|before| before.begins_at));
        // a call that claimed the subscriber in between has created its consumer
        let is_new = *is_new && before.is_none();
        let is_unused = is_new || before.as_ref().is_some_and(|before| before.begins_at.is_some());
        match before {
            Some(before) if before.instance == holding.instance => self.release(&key).await,
            Some(before) => self.ask_to_release(&before).await,
            None => {}
        }
        let existing = if is_new { None } else { self.store.binding(room, subscriber).await? };
        let binding = if let Some(binding) = existing {
            binding
        } else {
            // another program may have deleted the consumer
            let position = if let Some(position) = first_position { position } else { start().await? };
            let Some(recorded) = self.record_start(&mut holding, revision, position).await? else { return Ok(None) };
            revision = recorded;
            self.store.create_binding(room, subscriber).await?
        };
        let binding = if is_unused { self.as_unused(room, binding).await? } else { binding };
        let position = self.move_to_start(room, &holding, &binding).await?;
        if holding.begins_at.take().is_some()
            && let Some(settled) = self.store.holders.settle(&holding, revision).await?
        {
            revision = settled;
        }
        let inner = SessionState::new(Arc::clone(registered), epoch, (holding, revision), position, &self.metrics);
        let inner = Arc::new(inner);
        self.keep_newest(key, &inner);
        // a newer claim, or a deletion, may have come before this session could be found
        match self.store.holders.find(subscriber).await? {
            Some(holder) if holder.session == inner.holding.session => {}
            Some(_) => {
                inner.end(SessionEnd::TakenOver);
                self.remove(&inner);
            }
            None => {
                inner.end(SessionEnd::Deleted);
                self.remove(&inner);
                return Ok(None);
            }
        }
        Ok(Some(SubscriberSession {
            inner,
            subscribers: Arc::downgrade(self),
            position,
            resumed: !binding.created,
            seek_number: AtomicU64::default(),
        }))
    }

    /// Records the start position of a consumer before it is created. If the call stops in between, the next call moves
    /// the consumer there. Returns the revision of the holding; `None` if it has changed.
    async fn record_start(&self, holding: &mut Holding, revision: u64, position: u64) -> Result<Option<u64>> {
        let begins_at = Some(position).filter(|position| *position > 0);
        if holding.begins_at == begins_at {
            return Ok(Some(revision));
        }
        holding.begins_at = begins_at;
        self.store.holders.record(holding, revision).await
    }

    /// Corrects the binding of a consumer that no subscription has used yet. If the first messages of the log were removed,
    /// NATS sets the ack floor of a new consumer before the first stored message, and not to 0.
    async fn as_unused(&self, room: &Room, binding: Binding) -> Result<Binding> {
        let created = binding.created || binding.position < self.store.log_state(room).await?.first_sequence;
        Ok(Binding { created, ..binding })
    }

    /// Moves a consumer that is not at its start position yet. Returns the position.
    async fn move_to_start(&self, room: &Room, holding: &Holding, binding: &Binding) -> Result<u64> {
        let is_at_start = binding.position == 0 || binding.created;
        let Some(begins_at) = holding.begins_at.filter(|_| is_at_start) else { return Ok(binding.position) };
        let moved = self.store.move_to(room, &holding.subscriber, begins_at).await;
        if moved.is_err() && binding.created {
            // a subscriber at a wrong start position is worse than none
            let _ = self.store.delete_consumer(room, &holding.subscriber).await;
        }
        moved
    }

    /// A holding with this instance as the holder.
    fn holding(&self, subscriber: &Subscriber, session: Option<String>) -> Holding {
        let (subscriber, instance) = (subscriber.clone(), self.store.instance().to_owned());
        Holding { subscriber, instance, session, begins_at: None, generation: None }
    }

    fn keep_newest(&self, key: SubscriberKey, session: &Arc<SessionState>) {
        let mut open = self.sessions();
        match open.get(&key) {
            Some(newer) if newer.revision > session.revision => session.end(SessionEnd::TakenOver),
            Some(_) | None => {
                if let Some(older) = open.insert(key, Arc::clone(session)) {
                    older.end(SessionEnd::TakenOver);
                }
            }
        }
    }

    fn remove(&self, session: &Arc<SessionState>) {
        let mut open = self.sessions();
        if is_held(&open, session) {
            open.remove(&session.key());
        }
    }

    /// Returns true if this is the subscriber's current session on this instance.
    fn holds(&self, session: &Arc<SessionState>) -> bool {
        is_held(&self.sessions(), session)
    }

    /// Ends the subscriber's open subscription on this instance and writes its position.
    async fn release(&self, key: &SubscriberKey) {
        let session = self.sessions().get(key).cloned();
        if let Some(session) = session {
            self.let_go(&session).await;
        }
        // a move that still runs started while this instance was the holder; wait for it
        drop(self.moving(key).lock().await);
    }

    /// Ends a session that a newer session takes over from, and writes its position.
    async fn let_go(&self, session: &Arc<SessionState>) {
        session.release();
        if let Err(error) = self.write_last_position(session).await {
            let subscriber = &session.holding.subscriber;
            warn!(%subscriber, %error, "the last position was not written; the next subscription gets some messages again");
        }
        session.end(SessionEnd::TakenOver);
        self.remove(session);
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SubscriberKey, Arc<SessionState>>> {
        lock(&self.sessions)
    }

    /// The lock under which the subscriber's position is moved.
    fn moving(&self, key: &SubscriberKey) -> Arc<AsyncMutex<()>> {
        let mut moves = lock(&self.moves);
        if let Some(lock) = moves.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        moves.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        moves.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }
}

fn is_held(open: &HashMap<SubscriberKey, Arc<SessionState>>, session: &Arc<SessionState>) -> bool {
    open.get(&session.key()).is_some_and(|found| Arc::ptr_eq(found, session))
}
