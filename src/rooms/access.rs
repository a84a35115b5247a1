//! Authorisation: the one place that decides what a caller may do. It decides from the members in memory. The write of
//! a change of members is a compare-and-set; before it, the caller is checked again against the list of owners that
//! the write replaces.
//!
//! While authorisation is off, every caller may do everything. Administrators may do everything too, but no caller
//! reads or acknowledges as another endpoint.

use std::{sync::Arc, time::SystemTime};

use super::Rooms;
use crate::{
    domain::{
        Caller, Identity, MemberId, Membership, PageRequest, Role, Room, RoomId, RoomState, SubscriberId, Visible,
    },
    error::{Error, Reason, Result},
    store::{
        log::history::PageLimits,
        registry::{
            known::Registered,
            members::record::{Grant, Owners},
        },
        subscribers::selector::SubscriberSelector,
    },
    subscriptions::standing::Standing,
};

/// The right that a call requires in its room. Each right includes the earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// See the room, its messages and its members.
    Read,
    /// Publish.
    Write,
    /// Change the room, its members and its messages.
    Own,
}

impl Right {
    /// The lowest role with this right.
    fn role(self) -> Role {
        match self {
            Self::Read => Role::Reader,
            Self::Write => Role::Writer,
            Self::Own => Role::Owner,
        }
    }
}

/// The caller's identity. `None` if the caller may do everything.
pub(super) fn restricted(caller: &Caller) -> Option<&Identity> {
    match caller {
        Caller::Anyone => None,
        Caller::Known(identity) => Some(&**identity).filter(|identity| !identity.administrator),
    }
}

pub(super) fn expires_at(caller: &Caller) -> Option<SystemTime> {
    match caller {
        Caller::Anyone => None,
        Caller::Known(identity) => identity.expires_at,
    }
}

/// The right that a caller needs to remove `member`. Every member may remove itself.
pub(super) fn right_to_remove(caller: &Caller, member: &MemberId) -> Right {
    if caller.id() == Some(member) { Right::Read } else { Right::Own }
}

/// Checks that the caller may change members of a room with these owners. Returns the grant to record.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub(super) fn grant(caller: &Caller, owners: &Owners) -> Result<Grant> {
    if restricted(caller).is_none_or(|identity| owners.contains_key(&identity.id)) {
        let by = caller.id().map(|id| id.as_str().to_owned()).unwrap_or_default();
        return Ok(Grant { since: SystemTime::now(), by });
    }
    Err(Error::new(Reason::PermissionDenied, "only an owner of the room may make this call; ask an owner for the role"))
}

/// Checks that the caller may remove a member from a room with these owners. `right` is the right that the removal
/// requires.
///
/// # Errors
/// `PERMISSION_DENIED`.
pub(super) fn allow_removal(caller: &Caller, right: Right, owners: &Owners) -> Result<()> {
    match right {
        Right::Read | Right::Write => Ok(()),
        Right::Own => grant(caller, owners).map(drop),
    }
}

/// The room of a call, and the caller's membership.
#[derive(Clone, Debug)]
pub(super) struct Admitted {
    pub registered: Arc<Registered>,
    /// The part of the log that the caller may see.
    pub visible: Visible,
    /// The caller's role; `Owner` for a caller that may do everything, which has the rights of an owner.
    pub role: Role,
}

impl Admitted {
    fn new(registered: Arc<Registered>, membership: Membership) -> Self {
        Self { registered, visible: membership.visible, role: membership.role }
    }

    fn unrestricted(registered: Arc<Registered>) -> Self {
        Self { registered, visible: Visible::default(), role: Role::Owner }
    }

    pub(super) fn has(&self, right: Right) -> bool {
        self.role >= right.role()
    }
}

impl Rooms {
    /// Finds the room, and checks that the caller has the right in it.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`.
    pub(super) async fn permit(&self, caller: &Caller, id: &RoomId, right: Right) -> Result<Admitted> {
        let registered = self.store.registry.find(id).await?;
        self.admit(caller, registered, right)
    }

    /// As [`Self::permit`], but reads the room from the registry's bucket.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`.
    pub(super) async fn permit_fresh(&self, caller: &Caller, id: &RoomId, right: Right) -> Result<Admitted> {
        let registered = self.store.registry.find_fresh(id).await?;
        self.admit(caller, registered, right)
    }

    /// As [`Self::permit`], for calls that need a log.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`, `ROOM_NOT_PERSISTED`.
    pub(super) async fn permit_persisted(&self, caller: &Caller, id: &RoomId, right: Right) -> Result<Admitted> {
        let admitted = self.permit(caller, id, right).await?;
        if admitted.registered.room.persist {
            return Ok(admitted);
        }
        Err(Error::new(
            Reason::RoomNotPersisted,
            "the room is ephemeral, so it has no sequences, positions or durable subscribers; use a persisted room",
        ))
    }

    /// As [`Self::permit`] with [`Right::Read`], for a subscription. The standing ends when the caller loses the
    /// right.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`.
    pub(super) async fn permit_subscription(&self, caller: &Caller, id: &RoomId) -> Result<(Admitted, Standing)> {
        let registered = self.store.registry.find(id).await?;
        let expires_at = expires_at(caller);
        let Some(identity) = restricted(caller) else {
            return Ok((Admitted::unrestricted(registered), Standing { pass: None, expires_at }));
        };
        let (membership, pass) = self.store.members.pass(&registered, &identity.id).ok_or_else(not_a_member)?;
        Ok((Admitted::new(registered, membership), Standing { pass: Some(pass), expires_at }))
    }

    /// Checks that the caller has the right in this room.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(super) fn admit(&self, caller: &Caller, registered: Arc<Registered>, right: Right) -> Result<Admitted> {
        let Some(identity) = restricted(caller) else { return Ok(Admitted::unrestricted(registered)) };
        let membership = self.store.members.of(&registered.room, &identity.id).ok_or_else(not_a_member)?;
        let admitted = Admitted::new(registered, membership);
        if admitted.has(right) {
            return Ok(admitted);
        }
        Err(Error::new(
            Reason::PermissionDenied,
            "the role of the caller in the room does not allow this call; ask an owner for a larger role",
        ))
    }

    /// Checks that the durable subscriber belongs to the caller.
    ///
    /// # Errors
    /// `SUBSCRIBER_FOREIGN`.
    pub(super) fn require_own_subscriber(
        &self,
        caller: &Caller,
        room: &Room,
        subscriber: &SubscriberId,
    ) -> Result<SubscriberSelector> {
        let endpoint = caller.id();
        if endpoint.is_none_or(|id| self.is_own(id, room, subscriber.as_str())) {
            return Ok(SubscriberSelector { endpoint: endpoint.cloned(), includes_foreign: endpoint.is_none() });
        }
        Err(foreign())
    }

    /// Checks that the caller may move or delete the durable subscriber. Requires: the subscriber belongs to the
    /// caller, or the caller is an owner.
    ///
    /// # Errors
    /// `SUBSCRIBER_FOREIGN`.
    pub(super) fn require_subscriber_or_owner(
        &self,
        caller: &Caller,
        admitted: &Admitted,
        subscriber: &SubscriberId,
    ) -> Result<SubscriberSelector> {
        let own = self.require_own_subscriber(caller, &admitted.registered.room, subscriber);
        if !admitted.has(Right::Own) {
            return own;
        }
        let endpoint = own.ok().and_then(|own| own.endpoint);
        Ok(SubscriberSelector { endpoint, includes_foreign: true })
    }

    /// Returns true if the subscriber belongs to the endpoint: its id is the endpoint's id, or that id, `/` and a
    /// device name. An id that is another member's does not belong to the endpoint.
    pub(super) fn is_own(&self, id: &MemberId, room: &Room, subscriber: &str) -> bool {
        if subscriber == id.as_str() {
            return true;
        }
        let device = subscriber.strip_prefix(id.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let is_others = || {
            let other = MemberId::parse("subscriber", subscriber);
            other.is_ok_and(|other| self.store.members.of(room, &other).is_some())
        };
        device.is_some_and(|device| !device.is_empty() && !device.contains('/')) && !is_others()
    }

    /// The visible part of the log's state. If messages are hidden, `messages` and `bytes` are estimates.
    pub(super) async fn visible_state(&self, room: &Room, state: RoomState, visible: Visible) -> Result<RoomState> {
        let hidden = visible.hidden_through(&state);
        if hidden < state.first_sequence {
            return Ok(state);
        }
        let mut first = hidden + 1;
        if first <= state.last_sequence && !state.is_dense() {
            // the message may have been removed, and the reported first sequence must be a stored one
            let limits = PageLimits { messages: 1, bytes: 1 };
            let page = self.store.page(room, state, PageRequest::From { start: first }, limits).await?;
            first = page.messages.first().map_or(state.last_sequence + 1, |message| message.sequence);
        }
        let span = (state.last_sequence + 1).saturating_sub(first);
        let messages = match span {
            0 | 1 => span,
            // fewer than the span, because the part may have holes
            _ if !state.is_dense() => state.messages.min(span - 1),
            _ => span,
        };
        let bytes = (state.bytes / state.messages.max(1)).saturating_mul(messages);
        Ok(RoomState { first_sequence: first, messages, bytes, ..state })
    }
}

pub(super) fn not_a_member() -> Error {
    Error::new(Reason::PermissionDenied, "the caller is not a member of the room; ask an owner to add it")
}

fn foreign() -> Error {
    Error::new(
        Reason::SubscriberForeign,
        "`subscriber`: does not belong to the caller; use the caller's id, or the id, `/` and a device name",
    )
}
