//! Durable subscribers of this instance: their open subscriptions, and the one place that moves positions.
//!
//! The instance that owns a subscriber moves its position, one move at a time, only forwards. Others ask it. AUTO positions
//! are gathered and written back about once a second; an end, an Acknowledge, a take-over and a drain write at once.

mod peers;
mod write_back;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    domain::{Room, RoomId, SubscriberId},
    error::{Error, Reason, Result},
    store::{Ownership, PeerReply, PeerRequest, Registered, Store},
};

/// How often an acknowledgement follows a subscriber that changes its owner.
const ATTEMPTS: usize = 6;
/// Positions written back, and requests of other instances served, at the same time.
const WRITES_AT_ONCE: usize = 32;

type Key = (RoomId, SubscriberId);

/// The open subscription of a durable subscriber. Dropping it closes it, and writes its position back.
#[derive(Debug)]
pub(crate) struct Session {
    inner: Arc<Inner>,
    subscribers: Weak<Subscribers>,
    /// Where the subscription starts.
    pub position: u64,
    /// The subscriber was there before.
    pub resumed: bool,
}

#[derive(Debug)]
struct Inner {
    registered: Arc<Registered>,
    ownership: Ownership,
    /// Revision of the claim: what is older in the bucket's watch says nothing about this session.
    revision: u64,
    /// Everything up to here was taken by the client's stream.
    taken: AtomicU64,
    written: AtomicU64,
    superseded: CancellationToken,
    closed: AtomicBool,
}

impl Inner {
    fn key(&self) -> Key {
        (self.ownership.room_id.clone(), self.ownership.subscriber.clone())
    }

    fn is_dirty(&self) -> bool {
        self.taken.load(Ordering::Relaxed) > self.written.load(Ordering::Relaxed)
    }
}

impl Session {
    /// The client's stream has taken everything up to `position`.
    pub(crate) fn taken(&self, position: u64) {
        self.inner.taken.fetch_max(position, Ordering::Relaxed);
    }

    /// Completes when a newer subscription took over.
    pub(crate) async fn superseded(&self) {
        self.inner.superseded.cancelled().await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.inner.closed.store(true, Ordering::Relaxed);
        if let Some(subscribers) = self.subscribers.upgrade() {
            subscribers.wake.notify_one();
        }
    }
}

/// The durable subscribers that this instance owns.
#[derive(Debug)]
pub(crate) struct Subscribers {
    store: Store,
    sessions: Mutex<HashMap<Key, Arc<Inner>>>,
    /// One lock for each subscriber whose position is being moved.
    moves: Mutex<HashMap<Key, Weak<AsyncMutex<()>>>>,
    /// A session was closed.
    wake: Notify,
}

impl Subscribers {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, sessions: Mutex::default(), moves: Mutex::default(), wake: Notify::new() }
    }

    /// Opens the one subscription of a durable subscriber, taking over from the one that is open. `start` tells where a
    /// new subscriber begins.
    ///
    /// # Errors
    /// `SUBSCRIBER_NAME_TAKEN`, `STREAM_INCOMPATIBLE`, `LIMIT_REACHED`, `CONFLICT`, and those of `start`.
    pub(crate) async fn open<F>(
        self: &Arc<Self>,
        registered: &Arc<Registered>,
        subscriber: &SubscriberId,
        start: impl FnOnce() -> F,
    ) -> Result<Session>
    where
        F: Future<Output = Result<u64>>,
    {
        let room = &registered.room;
        let key = (room.room_id.clone(), subscriber.clone());
        // a bad start must not leave anything behind
        self.store.owners.find(room, subscriber).await?;
        let first_position = match self.store.position(room, subscriber).await {
            Ok(_) => None,
            Err(error) if error.reason() == Reason::SubscriberNotFound => Some(start().await?),
            Err(error) => return Err(error),
        };
        let ownership = self.ownership(room, subscriber, Some(uuid::Uuid::new_v4().simple().to_string()));
        let (before, revision) = self.store.owners.claim(room, &ownership).await?;
        match before {
            Some(before) if before.instance == ownership.instance => self.release(&key).await,
            Some(before) => self.ask_to_release(&before).await,
            None => {}
        }
        let bookmark = self.store.bind(room, subscriber).await?;
        let position = match first_position.filter(|_| bookmark.created) {
            Some(position) if position > 0 => {
                let moved = self.store.move_to(room, subscriber, position).await;
                if moved.is_err() {
                    // a subscriber that begins elsewhere than it asked for is worse than none
                    let _ = self.store.forget(room, subscriber).await;
                }
                moved?
            }
            Some(_) | None => bookmark.position,
        };
        let inner = Arc::new(Inner {
            registered: Arc::clone(registered),
            ownership,
            revision,
            taken: AtomicU64::new(position),
            written: AtomicU64::new(position),
            superseded: CancellationToken::new(),
            closed: AtomicBool::new(false),
        });
        self.keep_newest(key, &inner);
        // a newer claim may have come before this session could be found
        let owner = self.store.owners.find(room, subscriber).await?;
        if owner.is_none_or(|owner| owner.session != inner.ownership.session) {
            inner.superseded.cancel();
            self.remove(&inner);
        }
        Ok(Session { inner, subscribers: Arc::downgrade(self), position, resumed: !bookmark.created })
    }

    /// This instance as the owner.
    fn ownership(&self, room: &Room, subscriber: &SubscriberId, session: Option<String>) -> Ownership {
        Ownership {
            room_id: room.room_id.clone(),
            subscriber: subscriber.clone(),
            instance: self.store.instance().to_owned(),
            session,
        }
    }

    fn keep_newest(&self, key: Key, session: &Arc<Inner>) {
        let mut open = self.sessions();
        match open.get(&key) {
            Some(newer) if newer.revision > session.revision => session.superseded.cancel(),
            Some(_) | None => {
                if let Some(older) = open.insert(key, Arc::clone(session)) {
                    older.superseded.cancel();
                }
            }
        }
    }

    /// Everything up to `sequence` is processed; answers with the position.
    ///
    /// # Errors
    /// `SUBSCRIBER_NOT_FOUND`, `SUBSCRIBER_NAME_TAKEN`, `TIMEOUT`, `CONFLICT`.
    pub(crate) async fn acknowledge(&self, room: &Room, subscriber: &SubscriberId, sequence: u64) -> Result<u64> {
        for _ in 0..ATTEMPTS {
            if let Some(position) = self.acknowledge_as_owner(room, subscriber, sequence).await? {
                return Ok(position);
            }
            // before anything is written for it, the subscriber must exist
            self.store.position(room, subscriber).await?;
            let owner = self.store.owners.find(room, subscriber).await?;
            if let Some(owner) = owner.filter(|owner| owner.instance != self.store.instance()) {
                let request = PeerRequest::Acknowledge {
                    room_id: room.room_id.clone(),
                    subscriber: subscriber.clone(),
                    sequence,
                };
                match self.store.ask(&owner.instance, &request).await? {
                    Some(PeerReply::Position(position)) => return Ok(position),
                    Some(PeerReply::NotMine) => continue,
                    Some(PeerReply::Released) => {
                        return Err(Error::internal().because("an owner released instead of acknowledging"));
                    }
                    Some(PeerReply::Failed(reason)) => {
                        return Err(Error::new(
                            Reason::Timeout,
                            "the instance that owns the subscriber could not move its position; try again",
                        )
                        .because(reason));
                    }
                    None => {}
                }
            }
            self.store.owners.claim(room, &self.ownership(room, subscriber, None)).await?;
        }
        Err(Error::new(Reason::Conflict, "the subscriber changes its owner too often at this moment; try again"))
    }

    /// Moves the position forwards if this instance owns the subscriber; `None` if it does not.
    async fn acknowledge_as_owner(&self, room: &Room, subscriber: &SubscriberId, sequence: u64) -> Result<Option<u64>> {
        let key = (room.room_id.clone(), subscriber.clone());
        let moving = self.moving(&key);
        let _one_at_a_time = moving.lock().await;
        // asked under the lock: a release waits for it, so an owner that was asked to let go never moves again
        let owner = self.store.owners.find(room, subscriber).await?;
        if owner.is_none_or(|owner| owner.instance != self.store.instance()) {
            return Ok(None);
        }
        let position = self.move_forwards(room, subscriber, sequence).await?;
        if let Some(session) = self.sessions().get(&key) {
            session.taken.fetch_max(position, Ordering::Relaxed);
            session.written.fetch_max(position, Ordering::Relaxed);
        }
        Ok(Some(position))
    }

    /// The floor is read first, since a native peer may have moved it further.
    async fn move_forwards(&self, room: &Room, subscriber: &SubscriberId, sequence: u64) -> Result<u64> {
        let position = self.store.position(room, subscriber).await?;
        if position >= sequence {
            return Ok(position);
        }
        self.store.move_to(room, subscriber, sequence).await
    }

    fn remove(&self, session: &Arc<Inner>) {
        let mut open = self.sessions();
        if open.get(&session.key()).is_some_and(|found| Arc::ptr_eq(found, session)) {
            open.remove(&session.key());
        }
    }

    /// Ends the subscriber's open subscription on this instance and writes its position.
    async fn release(&self, key: &Key) {
        let session = self.sessions().get(key).cloned();
        if let Some(session) = session {
            if let Err(error) = self.write_position(&session).await {
                warn!(subscriber = %key.1, %error, "the last position was not written; some messages will come again");
            }
            session.superseded.cancel();
            self.remove(&session);
        }
        // whoever still moves the position was the owner when it began; wait for it
        drop(self.moving(key).lock().await);
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Key, Arc<Inner>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock under which the subscriber's position is moved.
    fn moving(&self, key: &Key) -> Arc<AsyncMutex<()>> {
        let mut moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = moves.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        moves.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(AsyncMutex::new(()));
        moves.insert(key.clone(), Arc::downgrade(&lock));
        lock
    }
}
