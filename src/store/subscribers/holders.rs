//! Which instance holds a durable subscriber, and which endpoint it belongs to.
//!
//! Only the holder moves the subscriber's position. The holder also has the subscriber's one open subscription. The
//! holder changes by compare-and-set in a key-value bucket. Every instance watches the bucket.
//!
//! Within an instance a lock orders the moves of one subscriber. Between instances, an instance reads the bucket under
//! that lock before each move, and moves the position only if it is the holder. The request to NATS (`CONSUMER.RESET`)
//! carries only a sequence, so NATS cannot check the holder. One case therefore remains: an instance that freezes
//! between its check and its request can move the position after another instance has become the holder.
//!
//! The subscriptions of a subscriber have numbers, their generations: the revision of the bucket with which each became
//! the subscriber's newest. Revisions grow in the whole bucket, so the generations grow across instances, restarts, and
//! deletions of the subscriber.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::subscriber::Subscriber;
use crate::{
    domain::{NatsName, RoomId},
    error::{Error, Reason, Result},
    nats::bucket::{Bucket, Buckets, Versioned, WatchEvent},
    store::names::SUBSCRIBERS_BUCKET,
};

/// Number of attempts when a compare-and-set fails.
const ATTEMPTS: usize = 32;

/// A subscriber's value in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    #[serde(flatten)]
    pub subscriber: Subscriber,
    /// The holder.
    pub instance: String,
    /// The id of the open subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The start position of a subscriber that is being created. Its consumer may exist and not be there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_at: Option<u64>,
    /// The generation of the newest subscription, which may have ended. In the bucket, the entry that a subscription is
    /// opened with does not have it, because it is the revision of that entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

impl Holding {
    /// The subscriber's key in the bucket.
    pub(crate) fn key(&self) -> String {
        self.subscriber.key()
    }

    /// Refuses an acknowledgement of a subscription that is older than the newest one.
    ///
    /// # Errors
    /// `TAKEN_OVER`.
    pub(crate) fn check_generation(&self, given: Option<u64>) -> Result<()> {
        if given.is_some() && given < self.generation { Err(taken_over()) } else { Ok(()) }
    }
}

/// The error for an acknowledgement of a subscription that is no longer the newest.
pub(crate) fn taken_over() -> Error {
    Error::new(
        Reason::TakenOver,
        "`generation`: a newer subscription of the subscriber took over, so the acknowledgement does not count; the position is unchanged",
    )
}

impl Versioned<Holding> {
    /// The entry as it was read, with the generation that its revision stands for.
    fn with_generation(mut self) -> Self {
        if self.value.session.is_some() {
            self.value.generation.get_or_insert(self.revision);
        }
        self
    }
}

impl Subscriber {
    /// The key in the bucket. Every subscriber with this NATS name in the room has the same key.
    fn key(&self) -> String {
        key(&self.room_id, &self.name)
    }
}

/// A change that the bucket's watch reports.
#[derive(Debug)]
pub(crate) enum HolderChange {
    /// The watch restarts. Every existing entry follows.
    Restarted,
    /// The holding of a subscriber, and its revision.
    Held(Holding, u64),
    /// The subscriber with this key was deleted, at this revision.
    Deleted(String, u64),
}

/// The bucket's entry of one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct HolderEntry {
    pub holding: Versioned<Holding>,
    /// The time of the last change: the subscriber was bound, or its subscription closed.
    pub changed_at: SystemTime,
}

#[derive(Clone, Debug)]
pub(crate) struct Holders {
    bucket: Bucket<Holding>,
}

impl Holders {
    pub(in crate::store) fn new(buckets: &Buckets) -> Self {
        let description = "unibus: durable subscribers by room and name in NATS";
        Self { bucket: Bucket::new(buckets, SUBSCRIBERS_BUCKET, description) }
    }

    /// The holding of the subscriber. `None` also if another subscriber has the NATS name.
    pub(crate) async fn find(&self, subscriber: &Subscriber) -> Result<Option<Holding>> {
        Ok(self.find_with_revision(subscriber).await?.map(|(found, _)| found))
    }

    /// The holding with this NATS name, whichever subscriber it belongs to.
    pub(in crate::store) async fn named(&self, room: &RoomId, name: &NatsName) -> Result<Option<Versioned<Holding>>> {
        let found = self.read(&key(room, name)).await?;
        Ok(found.filter(|found| found.value.subscriber.name == *name))
    }

    async fn read(&self, key: &str) -> Result<Option<Versioned<Holding>>> {
        Ok(self.bucket.get(key).await?.map(Versioned::with_generation))
    }

    /// As [`Self::find`], with the revision that [`Self::delete`] needs.
    pub(crate) async fn find_with_revision(&self, subscriber: &Subscriber) -> Result<Option<(Holding, u64)>> {
        let found = self.named(&subscriber.room_id, &subscriber.name).await?;
        let same = found.filter(|found| found.value.subscriber.is_same(subscriber));
        Ok(same.map(|found| (found.value, found.revision)))
    }

    /// The entries with these NATS names in the room, in no order.
    pub(crate) async fn of(
        &self,
        room: &RoomId,
        names: impl IntoIterator<Item = &NatsName>,
    ) -> Result<Vec<HolderEntry>> {
        let keys: Vec<String> = names.into_iter().map(|name| key(room, name)).collect();
        let found = self.bucket.get_many(&keys).await?;
        let entries = found
            .into_iter()
            .map(|(holding, changed_at)| HolderEntry { holding: holding.with_generation(), changed_at });
        // an entry counts under its own name alone
        Ok(entries.filter(|entry| keys.contains(&entry.holding.value.key())).collect())
    }

    /// Deletes the entry. Returns false if it changed after `revision`, and still exists.
    pub(crate) async fn delete(&self, holding: &Holding, revision: u64) -> Result<bool> {
        self.bucket.delete(&holding.key(), revision).await
    }

    /// Makes `wanted` the holder. Returns the previous holder and the new revision, which is the generation of the
    /// subscription if `wanted` opens one. Keeps an unfinished start position. Returns `None` if another subscriber got
    /// the NATS name meanwhile.
    ///
    /// # Errors
    /// `CONFLICT`.
    pub(crate) async fn claim(&self, wanted: &Holding) -> Result<Option<(Option<Holding>, u64)>> {
        let entry = self.read(&wanted.key()).await?;
        self.claim_as_read(wanted, entry).await
    }

    /// As [`Self::claim`], without a request for the entry. `entry` was read a moment ago; if it has changed since, it
    /// is read again.
    pub(crate) async fn claim_as_read(
        &self,
        wanted: &Holding,
        mut entry: Option<Versioned<Holding>>,
    ) -> Result<Option<(Option<Holding>, u64)>> {
        let key = wanted.key();
        for _ in 0..ATTEMPTS {
            if entry.as_ref().is_some_and(|found| !found.value.subscriber.is_same(&wanted.subscriber)) {
                return Ok(None);
            }
            let revision = entry.as_ref().map(|found| found.revision);
            let before = entry.map(|found| found.value);
            let begun = before.as_ref().and_then(|before| before.begins_at);
            let newest = before.as_ref().and_then(|before| before.generation);
            let wanted = Holding {
                begins_at: wanted.begins_at.or(begun),
                generation: if wanted.session.is_some() { None } else { newest },
                ..wanted.clone()
            };
            if let Some(revision) = self.bucket.put(&key, &wanted, revision).await? {
                return Ok(Some((before, revision)));
            }
            entry = self.read(&key).await?;
        }
        Err(Error::new(
            Reason::Conflict,
            "several subscriptions of this subscriber are opened at this moment; subscribe again",
        ))
    }

    /// Writes the holding. Returns the new revision, or `None` if the entry changed after `revision`.
    pub(crate) async fn record(&self, holding: &Holding, revision: u64) -> Result<Option<u64>> {
        self.bucket.put(&holding.key(), holding, Some(revision)).await
    }

    /// Records that the subscriber is at its start position. Returns the new revision, or `None` if the entry changed
    /// after `revision`.
    pub(crate) async fn settle(&self, holding: &Holding, revision: u64) -> Result<Option<u64>> {
        self.record(&Holding { begins_at: None, ..holding.clone() }, revision).await
    }

    /// Records that the subscription of `before` has ended, if it is still the open one.
    pub(crate) async fn close(&self, before: &Holding) -> Result<()> {
        let key = before.key();
        match self.read(&key).await? {
            Some(found) if found.value == *before => {
                let closed = Holding { session: None, ..before.clone() };
                self.bucket.put(&key, &closed, Some(found.revision)).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Deletes the entries of all subscribers of a room.
    pub(crate) async fn delete_room(&self, room: &RoomId) -> Result<()> {
        self.bucket.purge_below(&room.key()).await
    }

    /// Calls `apply` with each holding and its revision, now and at each change, until `stop`.
    pub(crate) async fn follow(self, stop: CancellationToken, mut apply: impl FnMut(HolderChange)) {
        self.bucket
            .watch(stop, |change| match change {
                WatchEvent::Put(_, holding) => apply(HolderChange::Held(holding.value, holding.revision)),
                WatchEvent::Delete(key, revision) => apply(HolderChange::Deleted(key, revision)),
                WatchEvent::Restart => apply(HolderChange::Restarted),
                WatchEvent::Complete => {}
            })
            .await;
    }
}

fn key(room: &RoomId, name: &NatsName) -> String {
    format!("{}.{name}", room.key())
}
