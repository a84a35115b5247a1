//! Hears an ephemeral room for one subscription, however slow its reader is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use super::Frame;
use crate::{
    delivery::{LiveItem, LiveQueue},
    domain::{Gap, GapReason, Room},
    error::Result,
    limits::{SUBSCRIPTION_BYTES_MAX, SUBSCRIPTION_MESSAGES_MAX},
    store::{Live, LiveEvent, Store},
};

/// Hears an ephemeral room for a reader that may be slow.
pub(super) struct LiveFeed {
    shared: Arc<LiveShared>,
    _pump: AbortOnDropHandle<()>,
}

struct LiveShared {
    queue: Mutex<LiveQueue>,
    filled: Notify,
    closed: CancellationToken,
}

impl LiveFeed {
    /// Listens from now on; the hearing goes on in `tasks` until the feed is dropped.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE`.
    pub(super) async fn open(store: &Store, room: &Room, tasks: &TaskTracker) -> Result<Self> {
        let live = store.live(room).await?;
        let shared = Arc::new(LiveShared {
            queue: Mutex::new(LiveQueue::new(SUBSCRIPTION_MESSAGES_MAX, SUBSCRIPTION_BYTES_MAX)),
            filled: Notify::new(),
            closed: CancellationToken::new(),
        });
        let pump = tasks.spawn(pump(live, Arc::clone(&shared)));
        Ok(Self { shared, _pump: AbortOnDropHandle::new(pump) })
    }

    /// The next frame that waits.
    pub(super) fn pop(&self) -> Option<Frame> {
        self.shared.queue().pop().map(frame)
    }

    /// Returns when a frame may wait.
    pub(super) async fn filled(&self) {
        self.shared.filled.notified().await;
    }

    /// Completes when nothing will be heard any more.
    pub(super) async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }
}

impl LiveShared {
    fn queue(&self) -> MutexGuard<'_, LiveQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn pump(mut live: Live, shared: Arc<LiveShared>) {
    loop {
        match live.next().await {
            LiveEvent::Message(message) => shared.queue().push(message),
            LiveEvent::Reconnected => shared.queue().disconnected(),
            LiveEvent::Closed => break,
        }
        shared.filled.notify_one();
    }
    shared.closed.cancel();
}

fn frame(item: LiveItem) -> Frame {
    let gap = |reason, dropped| Frame::Gap(Gap { from: 0, to: 0, reason, dropped });
    match item {
        LiveItem::Message(message) => Frame::Message(message),
        LiveItem::Dropped(count) => gap(GapReason::SlowReader, count),
        LiveItem::Disconnected => gap(GapReason::Disconnected, 0),
    }
}
