//! Bounds the bytes that the rooms of a creator hold.
//!
//! NATS knows the stored bytes. Every few seconds, an instance reads them for the creators to whose rooms it
//! publishes. In between it counts its own publishes. Publishes of other instances are counted a few seconds late.
//!
//! No room gets a `max_bytes` for this, because nats-server reserves that much storage for the stream.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::{
    domain::RoomId,
    error::{Error, Limit, Result},
    limits::{STORED_BYTES_INTERVAL, STORED_OVERHEAD_BYTES},
    store::{Store, registry::known::Registered},
    sync::{LiveBound, lock},
};

/// Before a publish is refused, the sizes are read again, unless they were read within this time.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Maximum number of rooms of one creator whose sizes this instance reads in a second. With many rooms, the sizes are
/// read less often.
const SIZES_READ_PER_SECOND: u32 = 50;
const SIZES_READ_AT_ONCE: usize = 8;
/// Number of creators in memory before idle ones are dropped.
const CREATORS_UNPRUNED: usize = 10_000;

/// The bound, and the usage of each creator. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct StoredBytes {
    max: Arc<LiveBound>,
    creators: Arc<Mutex<HashMap<String, Usage>>>,
    reading: Arc<Mutex<HashSet<String>>>,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    /// The bytes that NATS reported.
    bytes: u64,
    read_at: Instant,
    /// How long the reported bytes are valid.
    lasts: Duration,
    /// Bytes that this instance has published since `read_at`.
    published: u64,
}

impl Usage {
    fn total(&self) -> u64 {
        self.bytes.saturating_add(self.published)
    }
}

impl StoredBytes {
    pub(super) fn new(max: Option<u64>) -> Self {
        Self { max: Arc::new(LiveBound::new(max)), creators: Arc::default(), reading: Arc::default() }
    }

    /// Changes the bound.
    pub(super) fn set_max(&self, max: Option<u64>) {
        self.max.set(max);
    }

    /// Counts messages before they are published to the room.
    ///
    /// # Errors
    /// `LIMIT_REACHED` if the rooms of the room's creator would hold more than the bound. Nothing was counted.
    pub(super) async fn take(
        &self,
        store: &Store,
        registered: &Registered,
        messages: usize,
        bytes: usize,
    ) -> Result<()> {
        let Some(max) = self.max.get() else { return Ok(()) };
        let room = &registered.room;
        if room.creator.is_empty() || !room.persist {
            return Ok(());
        }
        let overhead = messages.saturating_mul(STORED_OVERHEAD_BYTES + room.subject.as_str().len());
        let bytes = u64::try_from(bytes.saturating_add(overhead)).unwrap_or(u64::MAX);
        for _ in 0..2 {
            let known = {
                let mut creators = lock(&self.creators);
                match creators.get_mut(&room.creator) {
                    Some(usage) if usage.total().saturating_add(bytes) <= max => {
                        usage.published += bytes;
                        Some((usage.read_at.elapsed() > usage.lasts, true))
                    }
                    Some(usage) => Some((usage.read_at.elapsed() > REFUSED_FOR, false)),
                    None => None,
                }
            };
            match known {
                Some((false, true)) => return Ok(()),
                Some((true, true)) => {
                    self.read_sizes_in_background(store, &room.creator);
                    return Ok(());
                }
                Some((false, false)) => break,
                Some((true, false)) | None => Box::pin(self.read_sizes(store, &room.creator)).await,
            }
        }
        Err(Error::limit_reached(
            Limit::StoredBytesOfCaller,
            format!(
                "the rooms of this room's creator hold as many bytes as --limit-stored-bytes allows ({max}); \
                 purge or delete a room, or set `retention.max_bytes` of the rooms"
            ),
        ))
    }

    /// Reads the sizes in the background, unless a read is under way.
    fn read_sizes_in_background(&self, store: &Store, creator: &str) {
        if !lock(&self.reading).insert(creator.to_owned()) {
            return;
        }
        let (this, store, creator) = (self.clone(), store.clone(), creator.to_owned());
        let reading_store = store.clone();
        store.spawn(async move {
            this.read_sizes(&reading_store, &creator).await;
            lock(&this.reading).remove(&creator);
        });
    }

    /// Reads the sizes of the creator's rooms. A room without an answer counts as empty, because its publishes fail
    /// anyway.
    async fn read_sizes(&self, store: &Store, creator: &str) {
        let read_at = Instant::now();
        let published_before = lock(&self.creators).get(creator).map_or(0, |usage| usage.published);
        let rooms: Vec<RoomId> = store.registry.created_by(creator, None).into_iter().collect();
        let lasts = STORED_BYTES_INTERVAL
            .max(Duration::from_secs(1) * u32::try_from(rooms.len()).unwrap_or(u32::MAX) / SIZES_READ_PER_SECOND);
        let sizes = rooms.into_iter().map(|room| async move {
            let registered = store.registry.known(&room).filter(|registered| registered.room.persist)?;
            store.log_state(&registered.room).await.ok().map(|state| state.bytes)
        });
        let sizes: Vec<Option<u64>> = stream::iter(sizes).buffer_unordered(SIZES_READ_AT_ONCE).collect().await;
        let bytes = sizes.into_iter().flatten().fold(0, u64::saturating_add);
        let mut creators = lock(&self.creators);
        if creators.len() >= CREATORS_UNPRUNED {
            creators.retain(|_, usage| usage.read_at.elapsed() < 2 * usage.lasts);
        }
        // messages that were published meanwhile may be missing in the answer
        let published = creators.get(creator).map_or(0, |usage| usage.published.saturating_sub(published_before));
        creators.insert(creator.to_owned(), Usage { bytes, read_at, lasts, published });
    }
}
