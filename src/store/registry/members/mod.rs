//! The members of rooms. A key-value bucket stores them; every instance watches it into memory. Calls look members up
//! in memory. Without JetStream the bucket is in this process's memory, as its rooms are.

pub(crate) mod change;
mod known;
pub(crate) mod pass;
pub(crate) mod record;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::{
    change::MemberChange,
    known::KnownMembers,
    pass::Pass,
    record::{Grant, MemberRecord, MembershipRecord, Owners, OwnersRecord, member_key, owners_key},
};
use super::{
    changes::{self, Changes, SentChange},
    known::Registered,
};
use crate::{
    domain::{Member, MemberId, Membership, Role, Room, RoomId},
    error::{Error, Limit, Reason, Result},
    limits::{MEMBERS_PER_ROOM_MAX, OWNERS_PER_ROOM_MAX},
    nats::bucket::{Bucket, Buckets, Versioned},
    store::names::MEMBERS_BUCKET,
    sync::lock,
};

/// Number of attempts to make a change while other calls change the same value.
const ATTEMPTS: usize = 16;

#[derive(Clone, Debug)]
pub(crate) struct Members {
    bucket: Bucket<MembershipRecord>,
    known: Arc<Mutex<KnownMembers>>,
    changes: Changes,
}

impl Members {
    pub(in crate::store) fn new(buckets: &Buckets, changes: &Changes) -> Self {
        let bucket = Bucket::new(buckets, MEMBERS_BUCKET, "unibus: members by room and id");
        Self { bucket, known: Arc::default(), changes: changes.clone() }
    }

    /// Applies a change of another instance.
    pub(in crate::store) fn apply_change(&self, change: MemberChange) {
        change.apply(&mut lock(&self.known));
    }

    /// Watches the bucket until `stop`. `complete` fires when all existing entries are known.
    pub(in crate::store) async fn follow(self, stop: CancellationToken, complete: oneshot::Sender<()>) {
        let complete = || {
            let _ = complete.send(());
        };
        self.bucket.follow(&self.known, stop, complete).await;
    }

    /// The membership of `member` in the room, from memory.
    pub(crate) fn of(&self, room: &Room, member: &MemberId) -> Option<Membership> {
        lock(&self.known).of(room, member)
    }

    /// As [`Self::of`], with the member's pass, which ends when the member may no longer read.
    pub(crate) fn pass(&self, registered: &Arc<Registered>, member: &MemberId) -> Option<(Membership, Arc<Pass>)> {
        lock(&self.known).pass(registered, member)
    }

    /// Up to `limit` members of the room with an id after `after`, by ascending id, from memory.
    pub(crate) fn list(&self, room: &Room, after: Option<&MemberId>, limit: usize) -> Vec<Member> {
        lock(&self.known).list(room, after, limit)
    }

    /// Rooms after `after` that `member` may be in, beside those that it created.
    pub(crate) fn rooms_of(&self, member: &MemberId, after: Option<&RoomId>) -> BTreeSet<RoomId> {
        lock(&self.known).rooms_of(member, after)
    }

    /// Adds a member, or changes its role and what it may see. `rule` checks the owners list that the change is based
    /// on, and returns the grant to record. When this returns, this instance and all present instances that confirm
    /// in time enforce the change.
    ///
    /// # Errors
    /// The error of `rule`. `LAST_OWNER`, `LIMIT_REACHED`, `CONFLICT`: nothing was changed. `TIMEOUT`.
    pub(crate) async fn set(
        &self,
        room: &Room,
        member: &Member,
        rule: impl Fn(&Owners) -> Result<Grant>,
    ) -> Result<()> {
        let mut sent = Vec::new();
        let done = self.try_set(room, member, rule, &mut sent).await;
        join_all(sent.into_iter().map(SentChange::confirmed)).await;
        done
    }

    async fn try_set(
        &self,
        room: &Room,
        member: &Member,
        rule: impl Fn(&Owners) -> Result<Grant>,
        sent: &mut Vec<SentChange>,
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let (mut owners, revision) = self.owners(room).await?;
            let grant = rule(&owners)?;
            let is_owner = owners.contains_key(&member.id);
            let is_done = match (is_owner, member.membership.role) {
                (true, Role::Owner) => true,
                (false, Role::Owner) => {
                    if owners.len() >= OWNERS_PER_ROOM_MAX {
                        return Err(too_many(Limit::RoomOwners, OWNERS_PER_ROOM_MAX));
                    }
                    owners.insert(member.id.clone(), grant);
                    self.put_owners(room, owners, revision, sent).await?
                }
                (true, Role::Reader | Role::Writer) => {
                    check_not_last(&owners)?;
                    // the new value exists before the member stops being an owner
                    self.put_member(room, member, grant, sent).await? && {
                        owners.remove(&member.id);
                        self.put_owners(room, owners, revision, sent).await?
                    }
                }
                (false, Role::Reader | Role::Writer) => self.put_member(room, member, grant, sent).await?,
            };
            if is_done {
                return Ok(());
            }
        }
        Err(conflict())
    }

    /// Removes a member. `rule` checks the owners list that the change is based on. When this returns, this instance
    /// and all present instances that confirm in time enforce the change.
    ///
    /// # Errors
    /// The error of `rule`. `MEMBER_NOT_FOUND`, `LAST_OWNER`, `CONFLICT`: nothing was changed. `TIMEOUT`.
    pub(crate) async fn remove(
        &self,
        room: &Room,
        member: &MemberId,
        rule: impl Fn(&Owners) -> Result<()>,
    ) -> Result<()> {
        let mut sent = Vec::new();
        let done = self.try_remove(room, member, rule, &mut sent).await;
        join_all(sent.into_iter().map(SentChange::confirmed)).await;
        done
    }

    async fn try_remove(
        &self,
        room: &Room,
        member: &MemberId,
        rule: impl Fn(&Owners) -> Result<()>,
        sent: &mut Vec<SentChange>,
    ) -> Result<()> {
        let key = member_key(&room.room_id, member);
        let mut was_there = false;
        for _ in 0..ATTEMPTS {
            let (mut owners, revision) = self.owners(room).await?;
            rule(&owners)?;
            let is_owner = owners.contains_key(member);
            if is_owner {
                check_not_last(&owners)?;
            }
            // an owner stays an owner until it is removed, so it never has a lower role meanwhile
            if let Some(found) = self.bucket.get(&key).await? {
                was_there |= found.value.is_of(room);
                if !self.delete(&room.room_id, member, &key, found.revision, sent).await? {
                    continue;
                }
            }
            if is_owner {
                owners.remove(member);
                if !self.put_owners(room, owners, revision, sent).await? {
                    continue;
                }
            }
            if was_there || is_owner {
                return Ok(());
            }
            return Err(Error::new(
                Reason::MemberNotFound,
                "`member_id`: the room has no such member; ListMembers shows the members",
            ));
        }
        Err(conflict())
    }

    /// Deletes all members of a room.
    pub(in crate::store) async fn delete_room(&self, room: &RoomId) -> Result<()> {
        self.bucket.purge_below(&room.key()).await?;
        // the watch does not report a purge; it reports this deletion, so that memory drops the members
        self.bucket.mark_deleted(&owners_key(room)).await
    }

    /// Reads the owners, and the revision of their value. Without a value, the creator is the owner.
    async fn owners(&self, room: &Room) -> Result<(Owners, Option<u64>)> {
        let found = self.bucket.get(&owners_key(&room.room_id)).await?;
        let revision = found.as_ref().map(|found| found.revision);
        let present = found.filter(|found| found.value.is_of(room)).map(|found| found.value);
        if let Some(MembershipRecord::Owners(record)) = present {
            return Ok((record.owners, revision));
        }
        let creator = MemberId::parse("creator", room.creator.clone()).ok();
        let grant = Grant { since: room.created_at, by: room.creator.clone() };
        Ok((creator.into_iter().map(|creator| (creator, grant.clone())).collect(), revision))
    }

    async fn put_owners(
        &self,
        room: &Room,
        owners: Owners,
        expected: Option<u64>,
        sent: &mut Vec<SentChange>,
    ) -> Result<bool> {
        let record = OwnersRecord { room_id: room.room_id.clone(), room_created_at: room.created_at, owners };
        self.put(&owners_key(&room.room_id), MembershipRecord::Owners(record), expected, sent).await
    }

    async fn put_member(&self, room: &Room, member: &Member, grant: Grant, sent: &mut Vec<SentChange>) -> Result<bool> {
        let key = member_key(&room.room_id, &member.id);
        let found = self.bucket.get(&key).await?;
        let expected = found.as_ref().map(|found| found.revision);
        let Membership { role, visible } = member.membership;
        let mut record = MemberRecord {
            room_id: room.room_id.clone(),
            room_created_at: room.created_at,
            member_id: member.id.clone(),
            role,
            visible,
            grant,
        };
        if let Some(Versioned { value: MembershipRecord::Member(present), revision }) = found
            && present.room_id == room.room_id
            && present.room_created_at == room.created_at
        {
            record.grant.since = present.grant.since;
            if (present.role, present.visible) == (role, visible) {
                // an earlier call may have written the value without informing the other instances
                self.spread(&key, MembershipRecord::Member(present), revision, sent).await;
                return Ok(true);
            }
        } else if lock(&self.known).count(&room.room_id) >= MEMBERS_PER_ROOM_MAX {
            return Err(too_many(Limit::RoomMembers, MEMBERS_PER_ROOM_MAX));
        }
        self.put(&key, MembershipRecord::Member(record), expected, sent).await
    }

    /// False: another call changed the value first.
    async fn put(
        &self,
        key: &str,
        value: MembershipRecord,
        expected: Option<u64>,
        sent: &mut Vec<SentChange>,
    ) -> Result<bool> {
        let revision = match expected {
            Some(expected) => self.bucket.put(key, &value, Some(expected)).await?,
            None => self.bucket.create(key, &value).await?,
        };
        let Some(revision) = revision else { return Ok(false) };
        self.spread(key, value, revision, sent).await;
        Ok(true)
    }

    /// Applies a written value, here and on the other instances.
    async fn spread(&self, key: &str, value: MembershipRecord, revision: u64, sent: &mut Vec<SentChange>) {
        lock(&self.known).put(key, Versioned { value: value.clone(), revision });
        sent.push(self.changes.send_change(changes::Change::Member(MemberChange::put(value, revision))).await);
    }

    /// False: another call changed the value first.
    async fn delete(
        &self,
        room: &RoomId,
        member: &MemberId,
        key: &str,
        expected: u64,
        sent: &mut Vec<SentChange>,
    ) -> Result<bool> {
        if !self.bucket.delete(key, expected).await? {
            return Ok(false);
        }
        lock(&self.known).deleted(room, member, expected);
        sent.push(
            self.changes.send_change(changes::Change::Member(MemberChange::deleted(room, member, expected))).await,
        );
        Ok(true)
    }
}

fn check_not_last(owners: &Owners) -> Result<()> {
    if owners.len() > 1 {
        return Ok(());
    }
    Err(Error::new(
        Reason::LastOwner,
        "`member_id`: is the only owner of the room; make another member an owner first, or delete the room",
    ))
}

fn too_many(limit: Limit, max: usize) -> Error {
    let message = format!("the room has as many {} as it may have ({max}); remove one first", limit.name());
    Error::limit_reached(limit, message)
}

fn conflict() -> Error {
    Error::new(Reason::Conflict, "other calls change the members at this moment; call again")
}
