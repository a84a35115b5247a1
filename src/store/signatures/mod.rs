//! Who published a message, in a way that no other program on NATS can forge.
//!
//! The service signs what a known caller publishes, with a key that only its instances have, and says who published a message
//! only where the signature is of this very message: of its room and the room's creation, its sender, id, headers and
//! payload, and of a time near that at which it was stored. So a program on NATS cannot put words into a sender's mouth. It
//! can at most have a message that it has read stored once more as it was, and within [`SIGNATURE_TIME_TOLERANCE`] of its
//! signing; not even that where the message has an id, since the room remembers ids for longer.
//!
//! Keys live in a key-value bucket that every instance watches. The newest signs, and all of them count when a message is
//! read. What the bucket loses, any instance that still knows it puts back.

mod key;
pub(crate) mod seal;
pub(crate) mod stamp;
#[cfg(test)]
mod tests;

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
            follow::{Mirror, Told},
        },
        error::unavailable,
    },
    store::names::SECRETS_BUCKET,
    sync::lock,
};

/// What a key's name in the bucket begins with; the rest is its number.
const PREFIX: &str = "sender.";
/// A key that the bucket did not have is not looked for again so soon: whoever may publish can name any.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long after a failure the bucket is tended again.
const TEND_DELAY: Duration = Duration::from_secs(1);

/// Signs and verifies. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Signatures {
    bucket: Bucket<SigningKey>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// By number: the greatest is the newest.
    keys: BTreeMap<u64, Arc<SigningKey>>,
    told: Told,
    /// Keys that the bucket did not have when it was read from its beginning, and has not got since.
    missing: BTreeSet<u64>,
    /// The bucket may lack a key.
    lacking: Arc<Notify>,
    /// When a key was looked for that is not there.
    looked_at: Option<Instant>,
}

/// Whether it is known who published a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attribution {
    Done,
    /// It is signed with a key that this instance has not heard of yet: [`Signatures::learn`] it, and ask again.
    UnknownKey,
}

impl Signatures {
    pub(super) fn new(buckets: &Buckets) -> Self {
        let description = "unibus: keys that sign who published a message";
        Self { bucket: Bucket::new(buckets, SECRETS_BUCKET, description), known: Arc::default() }
    }

    /// Follows the bucket until `stop`, and puts into it what it lacks: a first key, and what it lost. `complete` fires when
    /// there is a key.
    pub(super) async fn follow(self, stop: CancellationToken, complete: oneshot::Sender<()>) {
        let lacking = Arc::clone(&lock(&self.known).lacking);
        let watching = self.bucket.clone().follow(&self.known, stop, || {});
        let tending = async {
            let mut complete = Some(complete);
            loop {
                lacking.notified().await;
                while let Err(error) = self.tend().await {
                    warn!(%error, "the signing keys could not be written to their bucket, trying again");
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

    /// Puts into the bucket what it does not have and this instance does; a new key if there is none at all.
    async fn tend(&self) -> Result<()> {
        let missing = lock(&self.known).missing();
        for (id, key) in missing {
            // nothing is overwritten: what another instance put back is the same
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

    /// Signs a message that is about to be published; `None` if nobody is known to publish it.
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

    /// Says in the message who published it, if the seal proves that.
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

    /// As [`Self::attribute`], learning the key first if need be.
    pub(super) async fn attribute_surely(&self, room: &Room, message: &mut Message, seal: &Seal) {
        if self.attribute(room, message, seal) == Attribution::UnknownKey {
            self.learn(seal.key).await;
            self.attribute(room, message, seal);
        }
    }

    /// Looks into the bucket for the key of this number.
    ///
    /// # Cancel safety
    /// May be dropped at any point; nothing is learnt then.
    pub(super) async fn learn(&self, key: u64) {
        if let Ok(Some(found)) = self.bucket.get(&name(key)).await {
            self.remember(key, found.value);
        } else {
            lock(&self.known).looked_at = Some(Instant::now());
        }
    }
}

impl Mirror<SigningKey> for Known {
    fn told(&mut self) -> &mut Told {
        &mut self.told
    }

    fn on_put(&mut self, name: &str, key: Versioned<SigningKey>) {
        let Some(id) = number(name) else {
            warn!(name, "the bucket of signing keys has a value under a name that is not a key number; it is ignored");
            return;
        };
        self.told.note(|| name.to_owned());
        self.missing.remove(&id);
        self.keys.insert(id, Arc::new(key.value));
    }

    fn on_delete(&mut self, name: &str, _: u64) {
        if let Some(id) = number(name) {
            // not put back, even if somebody learns it at this moment from an older answer
            self.told.note(|| name.to_owned());
            self.missing.remove(&id);
            self.keys.remove(&id);
        }
        if self.keys.is_empty() {
            self.lacking.notify_one();
        }
    }

    /// Nothing is given up: what the bucket lost is put back.
    fn on_complete(&mut self, noted: &HashSet<String>) {
        self.missing = self.keys.keys().copied().filter(|id| !noted.contains(&name(*id))).collect();
        self.lacking.notify_one();
    }
}

impl Known {
    fn missing(&self) -> Vec<(u64, Arc<SigningKey>)> {
        let missing = self.keys.iter().filter(|(id, _)| self.missing.contains(id));
        missing.map(|(id, key)| (*id, Arc::clone(key))).collect()
    }
}

fn name(id: u64) -> String {
    format!("{PREFIX}{id}")
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}
