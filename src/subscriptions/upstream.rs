//! One upstream for each active room of this instance, shared by all its subscriptions.
//!
//! An upstream reads the room once, encodes each message once, and keeps the newest messages in a ring. It starts
//! with the first subscription and ends [`LINGER`] after the last one. A subscription takes the messages after its
//! position from the ring. If the ring no longer holds them, the subscription reads the log.
//!
//! A ring holds no message that the log no longer has. Expired messages leave the ring when they expire. Messages
//! that are removed through the service are known at once (`Registered::removals`). Messages that another program
//! removes are found by comparing the ring with the log: when a subscription opens, and every
//! [`RING_CHECK_INTERVAL`].
//!
//! A pull consumer without acknowledgements reads a persisted room (`store::Reader`). The table compares the
//! alternatives. The benchmark's row `upstream` measured them with nats-server 2.15.1 on two cores: the CPU seconds
//! of the NATS server for a million messages, and its CPU for a thousand idle rooms.
//!
//! | | one message | NATS, a million | 1000 idle | |
//! |---|---|---|---|---|
//! | core subscription to the room's subject | 50 us | 4.1 s | 0.6 % | has no sequences, and receives messages that are never stored |
//! | subscription to the stream's republish | 60 us | 7.9 s | 0.8 % | falls silent if another program removes the setting; any publisher can forge its sequences |
//! | pull consumer without acknowledgements | 51 us | 7.0 s | 2.3 % | reports when it is broken; reads the log and then continues with new messages |
//! | ordered push consumer | 48 us | 6.0 s | 2.6 % | the same, without the reader's choice of how much is under way |

mod page;
mod readers;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, OnceCell, watch},
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use self::readers::{ReachedPosition, Readers};
use super::{frame::Encode, log_batches::LogBatches};
use crate::{
    delivery::{Batch, BatchBuilder, Ring, RingBudget, RingLimits, Sizes},
    domain::{RoomId, RoomState},
    error::{Error, Result},
    limits::{FANOUT_BYTES_MAX, FANOUT_BYTES_TOTAL_MAX, FANOUT_MESSAGES_MAX, RING_CHECK_INTERVAL},
    metrics::DeliveryMetrics,
    store::{
        Store,
        log::ephemeral::{EphemeralEvent, EphemeralFeed},
        registry::known::Registered,
    },
    sync::lock,
};

/// How long an upstream continues after its last subscription, for a subscription that returns.
const LINGER: Duration = Duration::from_secs(5);
/// A ring is emptied after 5 s without a message; subscriptions that are behind then read the log.
const RING_IDLE: Duration = Duration::from_secs(5);
/// Minimum pause between two checks for expired messages.
const EXPIRE_PAUSE: Duration = Duration::from_millis(100);

const RING_LIMITS: RingLimits = RingLimits { messages_max: FANOUT_MESSAGES_MAX, bytes_max: FANOUT_BYTES_MAX };

/// A room, and the epoch of its log if it has one.
type UpstreamKey = (RoomId, Option<i64>);

/// The upstreams of this instance.
#[derive(Debug)]
pub(crate) struct Upstreams {
    store: Arc<Store>,
    encode: Encode,
    tasks: TaskTracker,
    draining: CancellationToken,
    budget: RingBudget,
    metrics: Arc<DeliveryMetrics>,
    active: Mutex<HashMap<UpstreamKey, Arc<Upstream>>>,
}

/// One room's upstream.
#[derive(Debug)]
struct Upstream {
    registered: Arc<Registered>,
    ring: Mutex<Ring>,
    /// Changes when the ring has new messages or the upstream ends. Its receivers are the subscriptions.
    changed: watch::Sender<()>,
    /// Notified when the ring is no longer empty.
    filled: Notify,
    /// Notifies the pages that wait for messages. They are no receivers of `changed`, because they keep no upstream.
    grown: Notify,
    started: OnceCell<()>,
    ended: OnceLock<Error>,
    /// The positions of the subscriptions.
    readers: Readers,
    metrics: Arc<DeliveryMetrics>,
}

impl Upstream {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }

    fn push(&self, batch: Arc<Batch>) {
        let mut ring = self.ring();
        let was_empty = ring.is_empty();
        ring.push(batch, SystemTime::now());
        drop(ring);
        if was_empty {
            self.filled.notify_one();
        }
        self.changed.send_replace(());
        self.grown.notify_waiters();
    }

    fn is_usable(&self) -> bool {
        self.ended.get().is_none() && !self.registered.is_gone()
    }
}

/// A subscription's share of its room's upstream.
#[derive(Debug)]
pub(crate) struct Tap {
    upstream: Arc<Upstream>,
    changed: watch::Receiver<()>,
    reached: ReachedPosition,
}

impl Tap {
    pub(crate) fn ring(&self) -> MutexGuard<'_, Ring> {
        self.upstream.ring()
    }

    /// Waits until the ring may hold new messages or the upstream has ended. Returns at once if that happened since
    /// the last return.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn changed(&mut self) {
        // the sender lives in the upstream, which this tap holds, so this never fails
        let _ = self.changed.changed().await;
    }

    /// Records the position that the subscription has reached, for the metrics.
    pub(crate) fn reached(&self, position: u64) {
        self.reached.set(position);
    }

    pub(crate) fn metrics(&self) -> &DeliveryMetrics {
        &self.upstream.metrics
    }

    /// The error with which the upstream ended, if it has ended.
    pub(crate) fn end(&self) -> Option<&Error> {
        self.upstream.ended.get()
    }
}

impl Upstreams {
    pub(crate) fn new(
        store: Store,
        encode: Encode,
        metrics: &Arc<DeliveryMetrics>,
        tasks: TaskTracker,
        draining: CancellationToken,
    ) -> Self {
        let (store, metrics) = (Arc::new(store), Arc::clone(metrics));
        Self {
            store,
            encode,
            tasks,
            draining,
            budget: RingBudget::new(FANOUT_BYTES_TOTAL_MAX),
            metrics,
            active: Mutex::default(),
        }
    }

    /// The store of the upstreams, shared with the readers of backlogs.
    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// Returns a tap of the upstream of a persisted room. `state` is a recent state of the log.
    pub(crate) fn of_log(self: &Arc<Self>, registered: &Arc<Registered>, state: &RoomState) -> Tap {
        let (epoch, last) = (state.epoch, state.last_sequence);
        let key = (registered.room.room_id.clone(), Some(epoch));
        let (tap, new) = self.tap(&key, registered, last);
        {
            let mut ring = tap.ring();
            ring.compare(state);
            ring.doubt(registered.doubted_through(epoch));
        }
        if new {
            let batches = LogBatches::new(&self.store, &registered.room, (epoch, last), self.encode, None);
            self.tasks.spawn(Arc::clone(self).run(key, Arc::clone(&tap.upstream), Feed::Log(Box::new(batches))));
        }
        tap
    }

    /// Returns a tap of the upstream of an ephemeral room. The upstream receives every message that is published
    /// after this returns.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`.
    pub(crate) async fn of_ephemeral(self: &Arc<Self>, registered: &Arc<Registered>) -> Result<Tap> {
        let key = (registered.room.room_id.clone(), None);
        let (tap, _) = self.tap(&key, registered, 0);
        let upstream = Arc::clone(&tap.upstream);
        // the first caller opens the feed and the others wait; if opening fails, the next caller tries again
        let start = || async {
            let live = self.store.live(&registered.room).await?;
            self.tasks.spawn(Arc::clone(self).run(key.clone(), Arc::clone(&upstream), Feed::Ephemeral(Box::new(live))));
            Ok::<_, Error>(())
        };
        let started = upstream.started.get_or_try_init(start).await;
        if let Err(error) = started {
            drop(tap);
            self.remove_if_unwanted(&key, &upstream);
            return Err(error);
        }
        Ok(tap)
    }

    /// Returns a tap of the room's upstream. True: the upstream is new.
    fn tap(&self, key: &UpstreamKey, registered: &Arc<Registered>, last: u64) -> (Tap, bool) {
        let mut active = self.active();
        let found = active.get(key).filter(|upstream| upstream.is_usable()).cloned();
        let new = found.is_none();
        let upstream = found.unwrap_or_else(|| {
            Arc::new(Upstream {
                registered: Arc::clone(registered),
                ring: Mutex::new(Ring::new(last, RING_LIMITS, &self.budget)),
                changed: watch::Sender::new(()),
                filled: Notify::new(),
                grown: Notify::new(),
                started: OnceCell::new(),
                ended: OnceLock::new(),
                readers: Readers::default(),
                metrics: Arc::clone(&self.metrics),
            })
        });
        if new {
            active.insert(key.clone(), Arc::clone(&upstream));
        }
        let newest = upstream.ring().last();
        let (changed, reached) = (upstream.changed.subscribe(), upstream.readers.add(newest));
        (Tap { upstream, changed, reached }, new)
    }

    fn active(&self) -> MutexGuard<'_, HashMap<UpstreamKey, Arc<Upstream>>> {
        lock(&self.active)
    }

    /// Feeds the ring until no subscription uses it, or the feed ends.
    async fn run(self: Arc<Self>, key: UpstreamKey, upstream: Arc<Upstream>, mut feed: Feed) {
        debug!(room = %key.0, "the instance starts to read the room for its subscriptions");
        let end = {
            let feeding = feed.run(&upstream, &self.store, self.encode);
            tokio::select! {
                error = feeding => Some(error),
                () = self.unwanted(&key, &upstream) => None,
            }
        };
        if let Some(error) = end {
            debug!(room = %key.0, %error, "the instance stops to read the room for its subscriptions");
            let _ = upstream.ended.set(error);
            remove(&mut self.active(), &key, &upstream);
            upstream.changed.send_replace(());
        }
    }

    /// Waits until the upstream has had no tap for [`LINGER`], or for less if the instance drains or the room is
    /// gone. Then removes the upstream.
    async fn unwanted(&self, key: &UpstreamKey, upstream: &Arc<Upstream>) {
        loop {
            upstream.changed.closed().await;
            tokio::select! {
                () = time::sleep(LINGER) => {}
                () = self.draining.cancelled() => {}
                () = upstream.registered.gone() => {}
            }
            if self.remove_if_unwanted(key, upstream) {
                return;
            }
        }
    }

    /// Removes the upstream if it has no tap. True: it was removed and can get no new tap.
    fn remove_if_unwanted(&self, key: &UpstreamKey, upstream: &Arc<Upstream>) -> bool {
        let mut active = self.active();
        let unwanted = upstream.changed.is_closed();
        if unwanted {
            remove(&mut active, key, upstream);
        }
        unwanted
    }
}

fn remove(active: &mut HashMap<UpstreamKey, Arc<Upstream>>, key: &UpstreamKey, upstream: &Arc<Upstream>) {
    if active.get(key).is_some_and(|found| Arc::ptr_eq(found, upstream)) {
        active.remove(key);
    }
}

/// The source of an upstream.
enum Feed {
    Log(Box<LogBatches>),
    Ephemeral(Box<EphemeralFeed>),
}

impl Feed {
    async fn run(&mut self, upstream: &Upstream, store: &Store, encode: Encode) -> Error {
        match self {
            Self::Log(batches) => {
                let tending = tend(upstream, store, batches.epoch());
                tokio::select! {
                    error = feed_from_log(batches, upstream) => error,
                    never = tending => match never {},
                }
            }
            Self::Ephemeral(live) => feed_from_subject(live, upstream, encode).await,
        }
    }
}

async fn feed_from_log(batches: &mut LogBatches, upstream: &Upstream) -> Error {
    loop {
        match time::timeout(RING_IDLE, batches.next()).await {
            Ok(Ok(read)) => upstream.push(read.batch),
            Ok(Err(error)) => return error,
            Err(_) => upstream.ring().clear(),
        }
    }
}

/// Removes messages from the ring that the log no longer has.
async fn tend(upstream: &Upstream, store: &Store, epoch: i64) -> Infallible {
    let registered = &upstream.registered;
    let mut changes = registered.changes();
    let mut connections = store.connections();
    let mut check_at = Instant::now() + RING_CHECK_INTERVAL;
    loop {
        let expires_in = {
            let (now, max_age) = (SystemTime::now(), registered.max_age());
            let mut ring = upstream.ring();
            ring.doubt(registered.doubted_through(epoch));
            ring.expire(now, max_age);
            (!ring.is_empty()).then(|| {
                ring.expires_at(max_age).map_or(RING_CHECK_INTERVAL, |at| at.duration_since(now).unwrap_or_default())
            })
        };
        let Some(expires_in) = expires_in else {
            upstream.filled.notified().await;
            connections.mark_unchanged();
            check_at = Instant::now() + RING_CHECK_INTERVAL;
            continue;
        };
        let until = check_at.min(Instant::now() + expires_in.max(EXPIRE_PAUSE));
        tokio::select! {
            () = time::sleep_until(until) => {}
            _ = changes.changed() => {}
            // a server that was down may have lost its newest messages, and give their sequences again
            Ok(()) = connections.changed() => {
                let mut ring = upstream.ring();
                let last = ring.last();
                ring.doubt(last);
            }
        }
        if Instant::now() >= check_at {
            Box::pin(check(upstream, store, epoch)).await;
            check_at = Instant::now() + RING_CHECK_INTERVAL;
        }
    }
}

/// Compares the ring with the log.
async fn check(upstream: &Upstream, store: &Store, epoch: i64) {
    // the room's settings may have changed since the upstream started
    let room = store.registry.known(&upstream.registered.room.room_id);
    let state = match &room {
        Some(registered) => store.log_state(&registered.room).await.ok(),
        None => None,
    };
    let mut ring = upstream.ring();
    if let Some(state) = state.filter(|state| state.epoch == epoch) {
        ring.compare(&state);
    }
    ring.turn();
}

async fn feed_from_subject(live: &mut EphemeralFeed, upstream: &Upstream, encode: Encode) -> Error {
    let room = &upstream.registered.room.room_id;
    let mut number = 0;
    loop {
        let mut batch = BatchBuilder::default();
        let mut next = Some(live.next().await);
        while let Some(event) = next {
            number += 1;
            match event {
                EphemeralEvent::Message(message) => {
                    let sizes = Sizes { payload: message.payload.len(), page: 0 };
                    batch.message(number, 0, sizes, |bytes| encode(room, None, message, bytes));
                }
                EphemeralEvent::Reconnected => batch.disconnected(number),
            }
            next = if batch.is_full() { None } else { live.take_ready() };
        }
        if let Some(batch) = batch.finish() {
            upstream.push(batch);
        }
    }
}
