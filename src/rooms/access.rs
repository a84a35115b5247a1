//! Who may do what: the one place that decides, from memory.
//!
//! When authorisation is off, everybody may do everything; administrators may too, but nobody reads or acknowledges as
//! another endpoint.

use std::{sync::Arc, time::SystemTime};

use super::Rooms;
use crate::{
    domain::{Caller, Identity, MemberId, PageRequest, Role, Room, RoomId, RoomState, SubscriberId, Visible},
    error::{Error, Reason, Result},
    store::{
        log::history::PageLimits,
        registry::{known::Registered, members::Actor},
        subscribers::whose::Whose,
    },
    subscriptions::standing::Standing,
};

/// What a call needs in its room; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// To see the room, its messages and its members.
    Read,
    /// To publish.
    Write,
    /// To change the room, its members and what is stored.
    Own,
}

impl Right {
    /// The least role that has it.
    fn role(self) -> Role {
        match self {
            Self::Read => Role::Reader,
            Self::Write => Role::Writer,
            Self::Own => Role::Owner,
        }
    }
}

/// The caller, unless it may do everything.
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

/// The caller as one who changes members.
pub(super) fn actor(caller: &Caller) -> Actor<'_> {
    Actor { id: caller.id(), may_all: restricted(caller).is_none() }
}

impl Rooms {
    /// The room, if the caller has the right in it.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`.
    pub(super) async fn permit(&self, caller: &Caller, id: &RoomId, right: Right) -> Result<Arc<Registered>> {
        let registered = self.store.registry.find(id).await?;
        self.allow(caller, &registered, right)?;
        Ok(registered)
    }

    /// As [`Self::permit`], for what needs a log.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`, `ROOM_NOT_PERSISTED`.
    pub(super) async fn permit_persisted(&self, caller: &Caller, id: &RoomId, right: Right) -> Result<Arc<Registered>> {
        let registered = self.permit(caller, id, right).await?;
        if registered.room.persist {
            return Ok(registered);
        }
        Err(Error::new(
            Reason::RoomNotPersisted,
            "the room is ephemeral, so it has no sequences, positions or durable subscribers; use a persisted room",
        ))
    }

    /// Whether the caller has the right in this room, and what of its log it may see.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(super) fn allow(&self, caller: &Caller, registered: &Registered, right: Right) -> Result<Visible> {
        let Some(identity) = restricted(caller) else { return Ok(Visible::default()) };
        match self.store.members.of(&registered.room, &identity.id) {
            Some(found) if found.role >= right.role() => Ok(found.visible),
            Some(_) => Err(Error::new(
                Reason::PermissionDenied,
                "the role of the caller in the room does not allow this call; ask an owner for a larger role",
            )),
            None => Err(not_a_member()),
        }
    }

    /// As [`Self::allow`] to read, for as long as a subscription is open.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(super) fn admit(&self, caller: &Caller, registered: &Arc<Registered>) -> Result<(Visible, Standing)> {
        let expires_at = expires_at(caller);
        let Some(identity) = restricted(caller) else {
            return Ok((Visible::default(), Standing { pass: None, expires_at }));
        };
        let (membership, pass) = self.store.members.pass(registered, &identity.id).ok_or_else(not_a_member)?;
        Ok((membership.visible, Standing { pass: Some(pass), expires_at }))
    }

    /// Whether the durable subscriber is the caller's own, and whose it is then.
    ///
    /// # Errors
    /// `SUBSCRIBER_FOREIGN`.
    pub(super) fn allow_as(&self, caller: &Caller, room: &Room, subscriber: &SubscriberId) -> Result<Whose> {
        let endpoint = caller.id();
        if endpoint.is_none_or(|id| self.is_own(id, room, subscriber.as_str())) {
            return Ok(Whose { endpoint: endpoint.cloned(), or_anybodys: endpoint.is_none() });
        }
        Err(foreign())
    }

    /// Whether the caller may move or forget the durable subscriber: one of its own, or any as an owner.
    ///
    /// # Errors
    /// `SUBSCRIBER_FOREIGN`.
    pub(super) fn allow_over(
        &self,
        caller: &Caller,
        registered: &Registered,
        subscriber: &SubscriberId,
    ) -> Result<Whose> {
        let own = self.allow_as(caller, &registered.room, subscriber);
        if self.allow(caller, registered, Right::Own).is_err() {
            return own;
        }
        let endpoint = own.ok().and_then(|own| own.endpoint);
        Ok(Whose { endpoint, or_anybodys: true })
    }

    /// A subscriber is an endpoint's own if it has its id, or that and the name of a device, and is not another member's id.
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

    /// What the log holds as far as it may be seen. Where something is hidden, messages and bytes are estimates.
    pub(super) async fn visible_state(&self, room: &Room, state: RoomState, visible: Visible) -> Result<RoomState> {
        let hidden = visible.hidden_through(state.epoch);
        if hidden < state.first_sequence {
            return Ok(state);
        }
        let mut first = hidden + 1;
        if first <= state.last_sequence && !state.is_dense() {
            // it may have been removed, and what is given as the first sequence is stored
            let limits = PageLimits { messages: 1, bytes: 1 };
            let page = self.store.page(room, state, PageRequest::From { start: first }, limits).await?;
            first = page.messages.first().map_or(state.last_sequence + 1, |message| message.sequence);
        }
        let span = (state.last_sequence + 1).saturating_sub(first);
        let messages = match span {
            0 | 1 => span,
            // fewer than the span: what is not known to be dense is not taken for it
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
