//! Adds, changes, removes and lists the members of a room.

use super::{
    Rooms,
    access::{Admitted, Right, allow_removal, grant, right_to_remove},
};
use crate::{
    domain::{Caller, Member, MemberId, Membership, Role, RoomId, Visible},
    error::{Error, Reason, Result},
    limits::{PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX},
};

/// A page of members, by ascending id.
#[derive(Clone, Debug)]
pub(crate) struct MemberPage {
    pub members: Vec<Member>,
    /// The last member of the page, if more follow.
    pub next_after: Option<MemberId>,
}

impl Rooms {
    /// Adds a member, or changes its role and what it may see. When this returns, this instance enforces the change;
    /// other instances do soon after.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`, `LAST_OWNER`, `LIMIT_REACHED`, `CONFLICT`. With `visible_from`, also
    /// `INVALID_FIELD`, `ROOM_NOT_PERSISTED`, `POSITION_AFTER_END`. Nothing was changed.
    pub(crate) async fn add_member(
        &self,
        caller: &Caller,
        room: &RoomId,
        id: MemberId,
        role: Role,
        visible_from: u64,
    ) -> Result<Member> {
        if role == Role::Owner && visible_from > 0 {
            return Err(Error::field(
                "visible_from",
                "is only for readers and writers, since an owner sees all messages; leave it out",
            ));
        }
        let Admitted { registered, .. } = self.permit(caller, room, Right::Own).await?;
        let room = &registered.room;
        let mut visible = Visible::default();
        if visible_from > 0 {
            if !room.persist {
                return Err(Error::new(
                    Reason::RoomNotPersisted,
                    "`visible_from`: the room is ephemeral, so it has no earlier messages; leave it out",
                ));
            }
            let state = self.store.log_state(room).await?;
            self.check_end("visible_from", visible_from - 1, room, state).await?;
            visible = Visible { from: visible_from, epoch: state.epoch };
        }
        let member = Member { id, membership: Membership { role, visible } };
        self.store.members.set(room, &member, |owners| grant(caller, owners)).await?;
        Ok(member)
    }

    /// Removes a member. When this returns, this instance enforces the removal; other instances do soon after.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`, `MEMBER_NOT_FOUND`, `LAST_OWNER`, `CONFLICT`: nothing was changed.
    pub(crate) async fn remove_member(&self, caller: &Caller, room: &RoomId, id: &MemberId) -> Result<()> {
        let right = right_to_remove(caller, id);
        let Admitted { registered, .. } = self.permit(caller, room, right).await?;
        self.store.members.remove(&registered.room, id, |owners| allow_removal(caller, right, owners)).await
    }

    /// Lists the members after `after`, by ascending id. 0 is the default page size.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`.
    pub(crate) async fn list_members(
        &self,
        caller: &Caller,
        room: &RoomId,
        after: Option<&MemberId>,
        page_size: usize,
    ) -> Result<MemberPage> {
        let Admitted { registered, .. } = self.permit(caller, room, Right::Read).await?;
        let size = if page_size == 0 { PAGE_SIZE_DEFAULT } else { page_size.min(PAGE_SIZE_MAX) };
        let mut members = self.store.members.list(&registered.room, after, size + 1);
        let more = members.len() > size;
        members.truncate(size);
        let next_after = members.last().filter(|_| more).map(|last| last.id.clone());
        Ok(MemberPage { members, next_after })
    }
}
