//! Proves the sender of a message, so that no other program on NATS can forge it.
//!
//! The service signs the messages of known callers with a key that only its instances have. It reports a sender only
//! if the signature matches the message: the room and its creation time, the sender, id, headers and payload, and a
//! signing time near the time of storage. So a program on NATS cannot forge a message of a sender. It can at most
//! store an unchanged copy of a message that it has read, within [`SIGNATURE_TIME_TOLERANCE`] of the signing. If the
//! message has an id, it cannot do even that, because the room remembers ids for longer.
//!
//! The keys are in a key-value bucket that every instance watches. The newest key signs, and every key verifies. If
//! the bucket loses a key, any instance that still knows the key writes it back.

mod key;
pub(crate) mod seal;
pub(crate) mod stamp;
#[cfg(test)]
pub(super) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, oneshot},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    key::SigningKey,
    seal::{Content, Seal},
};
use crate::{
    domain::{Draft, Message, Room},
    error::Result,
    limits::SIGNATURE_TIME_TOLERANCE,
    nats::{
        bucket::{
            Bucket, Buckets, Versioned,
            follow::{Mirror, WatchProgress},
        },
        error::unavailable,
    },
    store::names::SECRETS_BUCKET,
    sync::lock,
};

/// The prefix of a key's name in the bucket. The rest of the name is the key's number.
const PREFIX: &str = "sender.";
/// Minimum time before a missing key is looked up again, because any publisher can name an unknown key.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Delay before the keys are written again after a failure.
const TEND_DELAY: Duration = Duration::from_secs(1);

/// Signs and verifies. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Signatures {
    bucket: Bucket<SigningKey>,
    known: Arc<Mutex<KnownKeys>>,
}

#[derive(Debug, Default)]
struct KnownKeys {
    /// The keys by number. The greatest number is the newest key.
    keys: BTreeMap<u64, Arc<SigningKey>>,
    progress: WatchProgress,
    /// Keys that were missing when the bucket was read from its beginning, and that it has not got since.
    missing: BTreeSet<u64>,
    /// Notified when the bucket may lack a key.
    lacking: Arc<Notify>,
    /// When a key was last looked up and not found.
    looked_at: Option<Instant>,
}

/// The result of an attribution.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attribution {
    Done,
    /// The message is signed with a key that this instance does not know. [`Signatures::learn`] the key, and try
    /// again.
    UnknownKey,
}

impl Signatures {
    pub(super) fn new(buckets: &Buckets) -> Self {
        let description = "unibus: keys that sign who published a message";
        Self { bucket: Bucket::new(buckets, SECRETS_BUCKET, description), known: Arc::default() }
    }

    /// Watches the bucket until `stop`, and writes missing keys: a first key, and keys that the bucket lost.
    /// `complete` fires when there is a key.
    pub(super) async fn follow(self, stop: CancellationToken, complete: oneshot::Sender<()>) {
        let lacking = Arc::clone(&lock(&self.known).lacking);
        let watching = self.bucket.clone().follow(&self.known, stop, || {});
        let tending = async {
            let mut complete = Some(complete);
            loop {
                lacking.notified().await;
                while let Err(error) = self.tend().await {
                    warn!(
                        error = error.with_causes(),
                        "the signing keys could not be written to their bucket, trying again"
                    );
                    time::sleep(TEND_DELAY).await;
                }
                if let Some(complete) = complete.take() {
                    let _ = complete.send(());
                }
            }
        };
        tokio::select! {
            () = watching => {}
            () = tending => {}
        }
    }

    /// Writes the keys that the bucket lacks and this instance knows. Creates a key if there is none.
    async fn tend(&self) -> Result<()> {
        let missing = lock(&self.known).missing();
        for (id, key) in missing {
            // overwrites nothing, because the key of another instance is the same
            if self.bucket.put(&name(id), &key, None).await?.is_some() {
                info!(key = id, "a signing key was missing in its bucket and was written again");
            }
        }
        if !lock(&self.known).keys.is_empty() {
            return Ok(());
        }
        let id = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let key = SigningKey::generate()?;
        if self.bucket.put(&name(id), &key, None).await?.is_some() {
            self.remember(id, key);
        } else if let Some(found) = self.bucket.get(&name(id)).await? {
            self.remember(id, found.value);
        }
        Ok(())
    }

    fn remember(&self, id: u64, key: SigningKey) {
        lock(&self.known).keys.insert(id, Arc::new(key));
    }

    /// Signs a message before it is published. `None` if the sender is unknown.
    ///
    /// # Errors
    /// `NATS_UNAVAILABLE` while there is no key.
    pub(super) fn seal(&self, room: &Room, draft: &Draft) -> Result<Option<Seal>> {
        let Some(sender) = &draft.sender else { return Ok(None) };
        let newest = lock(&self.known).keys.last_key_value().map(|(id, key)| (*id, Arc::clone(key)));
        let (id, key) = newest.ok_or_else(unavailable)?;
        let content = Content {
            room,
            message_id: draft.message_id.as_deref().unwrap_or_default(),
            headers: &draft.headers,
            payload: &draft.payload,
        };
        Ok(Some(Seal::new(id, &key, sender.as_str(), SystemTime::now(), content)))
    }

    /// Sets the sender of the message, if the seal proves it.
    pub(super) fn attribute(&self, room: &Room, message: &mut Message, seal: &Seal) -> Attribution {
        let key = {
            let known = lock(&self.known);
            match known.keys.get(&seal.key) {
                Some(key) => Arc::clone(key),
                None if known.looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) => return Attribution::Done,
                None => return Attribution::UnknownKey,
            }
        };
        if seal.distance(message.published_at) <= SIGNATURE_TIME_TOLERANCE {
            let content =
                Content { room, message_id: &message.message_id, headers: &message.headers, payload: &message.payload };
            message.sender = seal.open(&key, content).unwrap_or_default();
        }
        Attribution::Done
    }

    /// As [`Self::attribute`], but learns an unknown key first.
    pub(super) async fn attribute_surely(&self, room: &Room, message: &mut Message, seal: &Seal) {
        if self.attribute(room, message, seal) == Attribution::UnknownKey {
            self.learn(seal.key).await;
            self.attribute(room, message, seal);
        }
    }

    /// Reads the key with this number from the bucket.
    ///
    /// # Cancel safety
    /// May be dropped at any point. No key is learned then.
    pub(super) async fn learn(&self, key: u64) {
        if let Ok(Some(found)) = self.bucket.get(&name(key)).await {
            self.remember(key, found.value);
        } else {
            lock(&self.known).looked_at = Some(Instant::now());
        }
    }
}

impl Mirror<SigningKey> for KnownKeys {
    fn progress(&mut self) -> &mut WatchProgress {
        &mut self.progress
    }

    fn on_put(&mut self, name: &str, key: Versioned<SigningKey>) {
        let Some(id) = key_number(name) else {
            warn!(name, "the bucket of signing keys has a value under a name that is not a key number; it is ignored");
            return;
        };
        self.progress.note(|| name.to_owned());
        self.missing.remove(&id);
        self.keys.insert(id, Arc::new(key.value));
    }

    fn on_delete(&mut self, name: &str, _: u64) {
        if let Some(id) = key_number(name) {
            // not written back, even if another call learns the key at this moment from an older answer
            self.progress.note(|| name.to_owned());
            self.missing.remove(&id);
            self.keys.remove(&id);
        }
        if self.keys.is_empty() {
            self.lacking.notify_one();
        }
    }

    /// No key is dropped. Keys that the bucket lost are written back.
    fn on_complete(&mut self, noted: &HashSet<String>) {
        self.missing = self.keys.keys().copied().filter(|id| !noted.contains(&name(*id))).collect();
        self.lacking.notify_one();
    }
}

impl KnownKeys {
    fn missing(&self) -> Vec<(u64, Arc<SigningKey>)> {
        let missing = self.keys.iter().filter(|(id, _)| self.missing.contains(id));
        missing.map(|(id, key)| (*id, Arc::clone(key))).collect()
    }
}

fn name(id: u64) -> String {
    format!("{PREFIX}{id}")
}

fn key_number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}
