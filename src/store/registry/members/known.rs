//! The members of all rooms in memory, by room and by member.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, Weak},
    time::SystemTime,
};

use super::{
    pass::Pass,
    record::{Grant, MembershipRecord, ParsedKey, member_key, owners_key, read_key},
};
use crate::{
    domain::{Member, MemberId, Membership, Role, Room, RoomId, Visible},
    nats::bucket::{
        Versioned,
        follow::{Mirror, WatchProgress},
    },
    store::registry::known::Registered,
};

/// Number of passes of a room before unused passes are removed.
const PASSES_UNPRUNED: usize = 64;

/// A value of the bucket, with the room's creation time. Values of an earlier room with the same id are ignored.
#[derive(Clone, Debug)]
struct RoomEntry<T> {
    value: T,
    room_created_at: SystemTime,
    revision: u64,
}

#[derive(Debug, Default)]
struct RoomMembers {
    owners: Option<RoomEntry<BTreeMap<MemberId, Grant>>>,
    /// `None`: the member was deleted, and the watch has not reported it yet.
    members: BTreeMap<MemberId, RoomEntry<Option<Membership>>>,
    passes: HashMap<MemberId, Weak<Pass>>,
    prune_at: usize,
}

#[derive(Debug, Default)]
pub(super) struct KnownMembers {
    rooms: HashMap<RoomId, RoomMembers>,
    rooms_of: HashMap<MemberId, BTreeSet<RoomId>>,
    progress: WatchProgress,
}

impl Mirror<MembershipRecord> for KnownMembers {
    fn progress(&mut self) -> &mut WatchProgress {
        &mut self.progress
    }

    fn on_put(&mut self, key: &str, record: Versioned<MembershipRecord>) {
        self.put(key, record);
    }

    /// The deletion of the owners' value marks the end of the room.
    fn on_delete(&mut self, key: &str, revision: u64) {
        let Some(key) = read_key(key) else { return };
        let (ParsedKey::Owners { room } | ParsedKey::Member { room, .. }) = &key;
        let Some(members) = self.rooms.get_mut(room) else { return };
        let changed = match &key {
            ParsedKey::Owners { .. } => members.remove_where(|_, entry| entry < revision),
            ParsedKey::Member { member, .. } => {
                members.remove_where(|of, entry| of == Some(member) && entry < revision)
            }
        };
        self.settle(room, &changed);
    }

    fn on_complete(&mut self, noted: &HashSet<String>) {
        for room in self.rooms.keys().cloned().collect::<Vec<_>>() {
            let Some(members) = self.rooms.get_mut(&room) else { continue };
            let changed = members.remove_where(|member, _| {
                !noted.contains(&member.map_or_else(|| owners_key(&room), |member| member_key(&room, member)))
            });
            self.settle(&room, &changed);
        }
    }
}

impl KnownMembers {
    /// The membership of `member` in the room.
    pub(super) fn of(&self, room: &Room, member: &MemberId) -> Option<Membership> {
        let members = self.rooms.get(&room.room_id);
        let is_owner = match members.and_then(|members| members.owners_of(room)) {
            Some(owners) => owners.contains_key(member),
            None => room.creator == member.as_str(),
        };
        if is_owner {
            return Some(OWNER);
        }
        let found = members?.members.get(member)?;
        found.value.filter(|_| found.room_created_at == room.created_at)
    }

    /// Up to `limit` members with an id after `after`, by ascending id.
    pub(super) fn list(&self, room: &Room, after: Option<&MemberId>, limit: usize) -> Vec<Member> {
        let mut found: BTreeMap<MemberId, Membership> = BTreeMap::new();
        let members = self.rooms.get(&room.room_id);
        let is_after = |id: &MemberId| after.is_none_or(|after| id > after);
        if let Some(members) = members {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let present = members.members.range((from, Bound::Unbounded)).filter_map(|(id, entry)| {
                let membership = entry.value.filter(|_| entry.room_created_at == room.created_at)?;
                Some((id.clone(), membership))
            });
            found.extend(present.take(limit));
        }
        let creator = || MemberId::parse("creator", room.creator.clone()).ok().into_iter().collect();
        let owners: Vec<MemberId> = match members.and_then(|members| members.owners_of(room)) {
            Some(owners) => owners.keys().cloned().collect(),
            None => creator(),
        };
        found.extend(owners.into_iter().filter(is_after).map(|id| (id, OWNER)));
        found.into_iter().take(limit).map(|(id, membership)| Member { id, membership }).collect()
    }

    /// Number of member entries of the room. Every member that is not an owner has one.
    pub(super) fn count(&self, room: &RoomId) -> usize {
        self.rooms.get(room).map_or(0, |members| members.members.len())
    }

    /// Rooms after `after` in which the bucket names `member`. The membership may have ended. Rooms that `member`
    /// created and owns alone are missing.
    pub(super) fn rooms_of(&self, member: &MemberId, after: Option<&RoomId>) -> BTreeSet<RoomId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rooms = self.rooms_of.get(member).into_iter();
        rooms.flat_map(|rooms| rooms.range((from, Bound::Unbounded))).cloned().collect()
    }

    /// The pass of a member. `None` if it is not a member.
    pub(super) fn pass(&mut self, registered: &Arc<Registered>, member: &MemberId) -> Option<(Membership, Arc<Pass>)> {
        let membership = self.of(&registered.room, member)?;
        let members = self.rooms.entry(registered.room.room_id.clone()).or_default();
        let present = members.passes.get(member).and_then(Weak::upgrade);
        if let Some(pass) = present
            && pass.registered.room.created_at == registered.room.created_at
            && pass.follow(Some(membership))
        {
            return Some((membership, pass));
        }
        if members.passes.len() >= members.prune_at.max(PASSES_UNPRUNED) {
            members.passes.retain(|_, pass| pass.strong_count() > 0);
            members.prune_at = members.passes.len() * 2;
        }
        let pass = Arc::new(Pass::new(registered, membership.visible));
        members.passes.insert(member.clone(), Arc::downgrade(&pass));
        Some((membership, pass))
    }

    pub(super) fn put(&mut self, key: &str, record: Versioned<MembershipRecord>) {
        self.progress.note(|| key.to_owned());
        let room = record.value.room_id().clone();
        let members = self.rooms.entry(room.clone()).or_default();
        let revision = record.revision;
        let changed = match record.value {
            MembershipRecord::Member(record) => {
                let member = record.member_id;
                if members.members.get(&member).is_some_and(|present| present.revision >= revision) {
                    return;
                }
                // only the owners' value names owners
                let role = record.role.min(Role::Writer);
                let membership = Membership { role, visible: record.visible };
                let entry = RoomEntry { value: Some(membership), room_created_at: record.room_created_at, revision };
                members.members.insert(member.clone(), entry);
                BTreeSet::from([member])
            }
            MembershipRecord::Owners(record) => {
                if members.owners.as_ref().is_some_and(|present| present.revision >= revision) {
                    return;
                }
                let mut changed: BTreeSet<_> = record.owners.keys().cloned().collect();
                let entry = RoomEntry { value: record.owners, room_created_at: record.room_created_at, revision };
                let before = members.owners.replace(entry);
                changed.extend(before.into_iter().flat_map(|before| before.value.into_keys()));
                // the creator may no longer be an owner
                changed.extend(members.passes.keys().cloned());
                changed
            }
        };
        self.settle(&room, &changed);
    }

    /// Applies a value that another instance has put. Ignores a revision that the watch has already reported, because
    /// the value may have been deleted since.
    pub(super) fn put_received(&mut self, key: &str, record: Versioned<MembershipRecord>) {
        if !self.progress.has_reported(record.revision) {
            self.put(key, record);
        }
    }

    /// Records that an instance has deleted the value with this revision. The deletion is remembered until the watch
    /// reports it, so that a late report of an earlier put is ignored.
    pub(super) fn deleted(&mut self, room: &RoomId, member: &MemberId, revision: u64) {
        let present = self.rooms.get_mut(room).and_then(|members| members.members.get_mut(member));
        match present {
            Some(entry) if entry.revision <= revision => {
                *entry = RoomEntry { value: None, revision, ..entry.clone() };
            }
            None if !self.progress.has_reported(revision) => {
                let entry = RoomEntry { value: None, room_created_at: SystemTime::UNIX_EPOCH, revision };
                self.rooms.entry(room.clone()).or_default().members.insert(member.clone(), entry);
            }
            Some(_) | None => {}
        }
        self.settle(room, &BTreeSet::from([member.clone()]));
    }

    /// Updates the index and the passes after these members of the room changed.
    fn settle(&mut self, room: &RoomId, changed: &BTreeSet<MemberId>) {
        for member in changed {
            let Some(members) = self.rooms.get(room) else { return };
            let pass = members.passes.get(member).cloned();
            let is_named = members.members.get(member).is_some_and(|entry| entry.value.is_some())
                || members.owners.as_ref().is_some_and(|owners| owners.value.contains_key(member));
            let rooms = self.rooms_of.entry(member.clone()).or_default();
            if is_named {
                rooms.insert(room.clone());
            } else {
                rooms.remove(room);
            }
            if rooms.is_empty() {
                self.rooms_of.remove(member);
            }
            let Some(pass) = pass else { continue };
            let goes_on = pass.upgrade().is_some_and(|pass| pass.follow(self.of(&pass.registered.room, member)));
            if !goes_on && let Some(members) = self.rooms.get_mut(room) {
                members.passes.remove(member);
            }
        }
        if self.rooms.get(room).is_some_and(RoomMembers::is_empty) {
            self.rooms.remove(room);
        }
    }
}

const OWNER: Membership = Membership { role: Role::Owner, visible: Visible { from: 0, epoch: 0 } };

impl RoomMembers {
    fn owners_of(&self, room: &Room) -> Option<&BTreeMap<MemberId, Grant>> {
        let owners = self.owners.as_ref()?;
        (owners.room_created_at == room.created_at).then_some(&owners.value)
    }

    /// Removes the values for which `is_such` returns true. Its arguments are the member (`None`: the owners) and the
    /// revision. Returns the members concerned.
    fn remove_where(&mut self, is_such: impl Fn(Option<&MemberId>, u64) -> bool) -> BTreeSet<MemberId> {
        let mut changed = BTreeSet::new();
        self.members.retain(|member, entry| {
            let goes = is_such(Some(member), entry.revision);
            if goes {
                changed.insert(member.clone());
            }
            !goes
        });
        if let Some(owners) = self.owners.take_if(|owners| is_such(None, owners.revision)) {
            changed.extend(owners.value.into_keys());
            changed.extend(self.passes.keys().cloned());
        }
        changed
    }

    fn is_empty(&self) -> bool {
        self.owners.is_none() && self.members.is_empty() && self.passes.values().all(|pass| pass.strong_count() == 0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::nats::bucket::{WatchEvent, follow::apply};
    use crate::store::registry::members::record::MemberRecord;

    const CREATED: Duration = Duration::from_secs(1_000_000_000);

    fn room(id: &str, since: Duration) -> Room {
        Room { creator: "ann".into(), ..Room::example(id, SystemTime::UNIX_EPOCH + since) }
    }

    fn id(id: &str) -> MemberId {
        MemberId::parse("member_id", id).unwrap()
    }

    fn grant() -> Grant {
        Grant { since: SystemTime::UNIX_EPOCH, by: String::new() }
    }

    fn member(room: &Room, name: &str, role: Role, revision: u64) -> (String, Versioned<MembershipRecord>) {
        let record = MemberRecord {
            room_id: room.room_id.clone(),
            room_created_at: room.created_at,
            member_id: id(name),
            role,
            visible: Visible::default(),
            grant: grant(),
        };
        (member_key(&room.room_id, &id(name)), Versioned { value: MembershipRecord::Member(record), revision })
    }

    fn owners(room: &Room, names: &[&str], revision: u64) -> (String, Versioned<MembershipRecord>) {
        let record = crate::store::registry::members::record::OwnersRecord {
            room_id: room.room_id.clone(),
            room_created_at: room.created_at,
            owners: names.iter().map(|name| (id(name), grant())).collect(),
        };
        (owners_key(&room.room_id), Versioned { value: MembershipRecord::Owners(record), revision })
    }

    fn role(known: &KnownMembers, room: &Room, name: &str) -> Option<Role> {
        known.of(room, &id(name)).map(|membership| membership.role)
    }

    fn put(known: &mut KnownMembers, (key, record): (String, Versioned<MembershipRecord>)) {
        known.put(&key, record);
    }

    #[test]
    fn what_was_deleted_here_does_not_come_back_with_what_the_watch_tells_late() {
        let (mut known, room) = (KnownMembers::default(), room("lobby", CREATED));
        put(&mut known, member(&room, "bob", Role::Writer, 5));
        known.deleted(&room.room_id, &id("bob"), 5);
        assert_eq!(role(&known, &room, "bob"), None);
        put(&mut known, member(&room, "bob", Role::Reader, 4));
        put(&mut known, member(&room, "bob", Role::Writer, 5));
        assert_eq!(role(&known, &room, "bob"), None);
        assert!(known.rooms_of(&id("bob"), None).is_empty());
        known.on_delete(&member_key(&room.room_id, &id("bob")), 6);
        put(&mut known, member(&room, "bob", Role::Reader, 7));
        assert_eq!(role(&known, &room, "bob"), Some(Role::Reader));
    }

    #[test]
    fn what_is_heard_late_or_twice_or_in_any_order_changes_nothing() {
        // a member is put, made less, removed and put again, at these revisions
        let room = room("lobby", CREATED);
        let steps = [(5, Some(Role::Writer)), (6, Some(Role::Reader)), (6, None), (9, Some(Role::Reader))];
        let receive = |known: &mut KnownMembers, (revision, role): (u64, Option<Role>)| match role {
            Some(role) => {
                let (key, record) = member(&room, "bob", role, revision);
                known.put_received(&key, record);
            }
            None => known.deleted(&room.room_id, &id("bob"), revision),
        };
        // for every subset and order of reports, the newest report is valid
        for order in permutations(&steps) {
            for received in 1..=order.len() {
                let mut known = KnownMembers::default();
                order.iter().take(received).for_each(|step| receive(&mut known, *step));
                let newest = order.iter().take(received).max_by_key(|(revision, role)| (*revision, role.is_none()));
                assert_eq!(role(&known, &room, "bob"), newest.and_then(|(_, role)| *role), "{order:?}, {received}");
            }
        }
        // reports that the watch has already made are ignored, although nothing of them is remembered
        let mut known = KnownMembers::default();
        receive(&mut known, (5, Some(Role::Writer)));
        receive(&mut known, (5, None));
        apply(&mut known, WatchEvent::Delete(member_key(&room.room_id, &id("bob")), 6));
        assert!(known.rooms.is_empty());
        for revision in [5, 6] {
            receive(&mut known, (revision, Some(Role::Writer)));
            receive(&mut known, (revision, None));
        }
        assert!(known.rooms.is_empty() && known.rooms_of.is_empty());
        receive(&mut known, (7, Some(Role::Writer)));
        assert_eq!(role(&known, &room, "bob"), Some(Role::Writer));
    }

    fn permutations<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
        let Some((first, rest)) = items.split_first() else { return vec![vec![]] };
        let of_rest = permutations(rest);
        let places = 0..=rest.len();
        places
            .flat_map(|place| {
                of_rest.iter().map(move |of_rest| {
                    let mut items = of_rest.clone();
                    items.insert(place, *first);
                    items
                })
            })
            .collect()
    }

    #[test]
    fn the_creator_owns_the_room_until_owners_are_named_and_nobody_owns_by_a_members_value() {
        let (mut known, room) = (KnownMembers::default(), room("lobby", CREATED));
        assert_eq!(role(&known, &room, "ann"), Some(Role::Owner));
        put(&mut known, owners(&room, &["bob"], 1));
        assert_eq!(role(&known, &room, "ann"), None);
        assert_eq!(role(&known, &room, "bob"), Some(Role::Owner));
        put(&mut known, member(&room, "eve", Role::Owner, 2));
        assert_eq!(role(&known, &room, "eve"), Some(Role::Writer));
        let listed: Vec<_> = known.list(&room, None, 9).into_iter().map(|member| member.id).collect();
        assert_eq!(listed, [id("bob"), id("eve")]);
    }

    #[test]
    fn members_of_a_former_room_are_not_this_ones() {
        let mut known = KnownMembers::default();
        let (former, present) = (room("a-b", CREATED), room("a-b", CREATED + Duration::from_nanos(1)));
        put(&mut known, owners(&former, &["eve"], 1));
        put(&mut known, member(&former, "bob", Role::Writer, 2));
        assert_eq!(role(&known, &present, "eve"), None);
        assert_eq!(role(&known, &present, "bob"), None);
        assert_eq!(role(&known, &present, "ann"), Some(Role::Owner));
        assert_eq!(known.list(&present, None, 9).len(), 1);
        // the end of the room removes everything that was reported before it
        put(&mut known, member(&present, "cat", Role::Reader, 4));
        known.on_delete(&owners_key(&former.room_id), 3);
        assert_eq!(role(&known, &former, "eve"), None);
        assert_eq!(role(&known, &present, "cat"), Some(Role::Reader));
    }

    #[test]
    fn what_is_not_told_again_is_forgotten_and_memory_with_it() {
        let (mut known, room) = (KnownMembers::default(), room("lobby", CREATED));
        for (revision, name) in [(1, "bob"), (2, "cat")] {
            put(&mut known, member(&room, name, Role::Writer, revision));
        }
        apply(&mut known, WatchEvent::Restart);
        put(&mut known, member(&room, "cat", Role::Writer, 2));
        apply(&mut known, WatchEvent::Complete);
        assert_eq!(role(&known, &room, "bob"), None);
        assert_eq!(role(&known, &room, "cat"), Some(Role::Writer));
        apply(&mut known, WatchEvent::Restart);
        apply(&mut known, WatchEvent::Complete);
        assert!(known.rooms.is_empty() && known.rooms_of.is_empty());
    }
}
