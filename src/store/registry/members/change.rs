//! Changes of members that one instance sends to the others.

use serde::{Deserialize, Serialize};

use super::{
    known::KnownMembers,
    record::{MembershipRecord, member_key, owners_key},
};
use crate::{
    domain::{MemberId, RoomId},
    nats::bucket::Versioned,
};

/// A change of the bucket of members.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::store) struct MemberChange(MemberChangeKind);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum MemberChangeKind {
    Put {
        record: Box<MembershipRecord>,
        revision: u64,
    },
    /// `revision` is the revision of the deleted value.
    Deleted {
        room_id: RoomId,
        member_id: MemberId,
        revision: u64,
    },
}

impl MemberChange {
    pub(super) fn put(record: MembershipRecord, revision: u64) -> Self {
        Self(MemberChangeKind::Put { record: Box::new(record), revision })
    }

    /// A deletion of the member's value with this revision.
    pub(super) fn deleted(room_id: &RoomId, member_id: &MemberId, revision: u64) -> Self {
        Self(MemberChangeKind::Deleted { room_id: room_id.clone(), member_id: member_id.clone(), revision })
    }

    /// Applies the change to memory.
    pub(super) fn apply(self, known: &mut KnownMembers) {
        match self.0 {
            MemberChangeKind::Put { record, revision } => {
                let key = match &*record {
                    MembershipRecord::Member(record) => member_key(&record.room_id, &record.member_id),
                    MembershipRecord::Owners(record) => owners_key(&record.room_id),
                };
                known.put_received(&key, Versioned { value: *record, revision });
            }
            MemberChangeKind::Deleted { room_id, member_id, revision } => known.deleted(&room_id, &member_id, revision),
        }
    }
}
