//! Which instance owns a durable subscriber, and under which name the subscriber was bound.
//!
//! The owner alone moves the subscriber's position, so positions never race, and has its one open subscription. Ownership
//! changes by compare-and-set in a key-value bucket; every instance watches the bucket.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Buckets, Change};
use crate::{
    domain::{Room, RoomId, SubscriberId},
    error::{Error, Reason, Result},
};

/// How often a lost compare-and-set is tried again.
const ATTEMPTS: usize = 32;

/// A subscriber's value in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ownership {
    pub room_id: RoomId,
    pub subscriber: SubscriberId,
    /// The owning instance.
    pub instance: String,
    /// The open subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Where a subscriber begins that is being made: its consumer may be there, and not yet at this position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_at: Option<u64>,
}

impl Ownership {
    /// Its key in the bucket.
    pub(crate) fn key(&self) -> String {
        key(&self.room_id, &self.subscriber)
    }
}

/// What the bucket's watch tells.
#[derive(Debug)]
pub(crate) enum OwnerChange {
    /// Who owns a subscriber, with the revision.
    Owned(Ownership, u64),
    /// The subscriber with this key was deleted, with the revision.
    Forgotten(String, u64),
}

/// What the bucket has of one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub ownership: Ownership,
    /// When the subscriber was bound, or its subscription closed, whichever was last.
    pub changed_at: SystemTime,
}

#[derive(Clone, Debug)]
pub(crate) struct Owners {
    bucket: Bucket<Ownership>,
}

impl Owners {
    pub(super) fn new(buckets: &Buckets) -> Self {
        let description = "unibus: owners of durable subscribers by mapped room and subscriber";
        Self { bucket: Bucket::new(buckets, "unibus_subscribers", description) }
    }

    /// Who owns the subscriber.
    ///
    /// # Errors
    /// `SUBSCRIBER_NAME_TAKEN`.
    pub(crate) async fn find(&self, room: &Room, subscriber: &SubscriberId) -> Result<Option<Ownership>> {
        Ok(self.find_with_revision(room, subscriber).await?.map(|(found, _)| found))
    }

    /// As [`Self::find`], with the revision for [`Self::forget`].
    pub(crate) async fn find_with_revision(
        &self,
        room: &Room,
        subscriber: &SubscriberId,
    ) -> Result<Option<(Ownership, u64)>> {
        let Some(found) = self.bucket.get(&key(&room.room_id, subscriber)).await? else { return Ok(None) };
        Ok(same_name(room, subscriber, found.value)?.map(|ownership| (ownership, found.revision)))
    }

    /// What there is of the room's subscribers with these mapped names, in no order.
    pub(crate) async fn of(&self, room: &RoomId, mapped: impl IntoIterator<Item = &str>) -> Result<Vec<Owned>> {
        let keys: Vec<String> = mapped.into_iter().map(|name| format!("{}.{name}", room.mapped())).collect();
        let found = self.bucket.get_many(&keys).await?;
        let owned = found.into_iter().map(|(ownership, changed_at)| Owned { ownership, changed_at });
        Ok(owned.filter(|owned| owned.ownership.room_id == *room).collect())
    }

    /// Forgets a subscriber, unless somebody claimed it meanwhile.
    pub(crate) async fn forget(&self, ownership: &Ownership, revision: u64) -> Result<()> {
        self.bucket.delete(&ownership.key(), revision).await.map(drop)
    }

    /// Makes `wanted` the owner; answers with the one before, and the revision that the claim has. What was begun and not
    /// settled of a subscriber is kept.
    ///
    /// # Errors
    /// `SUBSCRIBER_NAME_TAKEN`, `CONFLICT`.
    pub(crate) async fn claim(&self, room: &Room, wanted: &Ownership) -> Result<(Option<Ownership>, u64)> {
        let key = key(&room.room_id, &wanted.subscriber);
        for _ in 0..ATTEMPTS {
            let found = self.bucket.get(&key).await?;
            let revision = found.as_ref().map(|found| found.revision);
            let before = match found {
                Some(found) => same_name(room, &wanted.subscriber, found.value)?,
                None => None,
            };
            let begun = before.as_ref().and_then(|before| before.begins_at);
            let wanted = Ownership { begins_at: wanted.begins_at.or(begun), ..wanted.clone() };
            if let Some(revision) = self.bucket.put(&key, &wanted, revision).await? {
                return Ok((before, revision));
            }
        }
        Err(Error::new(
            Reason::Conflict,
            "several subscriptions of this subscriber were opened at the same moment; try again",
        ))
    }

    /// Notes that the subscriber is at its position; answers with the new revision. `None`: somebody claimed it meanwhile.
    pub(crate) async fn settle(&self, ownership: &Ownership, revision: u64) -> Result<Option<u64>> {
        let settled = Ownership { begins_at: None, ..ownership.clone() };
        self.bucket.put(&ownership.key(), &settled, Some(revision)).await
    }

    /// Notes that the subscription `before` has ended, if it is still the open one.
    pub(crate) async fn close(&self, before: &Ownership) -> Result<()> {
        let key = key(&before.room_id, &before.subscriber);
        match self.bucket.get(&key).await? {
            Some(found) if found.value == *before => {
                let closed = Ownership { session: None, ..before.clone() };
                self.bucket.put(&key, &closed, Some(found.revision)).await.map(drop)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Forgets all subscribers of a room.
    pub(crate) async fn forget_room(&self, room: &RoomId) -> Result<()> {
        self.bucket.purge_below(&room.mapped()).await
    }

    /// Tells `apply` each ownership with its revision, now and whenever it changes, until `stop`.
    pub(crate) async fn follow(self, stop: CancellationToken, mut apply: impl FnMut(OwnerChange)) {
        self.bucket
            .watch(stop, |change| match change {
                Change::Put(_, ownership) => apply(OwnerChange::Owned(ownership.value, ownership.revision)),
                Change::Delete(key, revision) => apply(OwnerChange::Forgotten(key, revision)),
                Change::Restart | Change::Complete => {}
            })
            .await;
    }
}

fn key(room: &RoomId, subscriber: &SubscriberId) -> String {
    format!("{}.{}", room.mapped(), subscriber.mapped())
}

/// `found` if it is the subscriber's; `None` if it is left over from a former room of the same mapped name.
fn same_name(room: &Room, subscriber: &SubscriberId, found: Ownership) -> Result<Option<Ownership>> {
    if found.room_id != room.room_id {
        Ok(None)
    } else if found.subscriber == *subscriber {
        Ok(Some(found))
    } else {
        Err(Error::new(
            Reason::SubscriberNameTaken,
            "subscriber: maps to the NATS name of another subscriber of the room; choose one that differs in letters, \
             digits or underscores",
        ))
    }
}
