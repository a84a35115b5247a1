//! Who may do what: the one place that decides.

use std::sync::Arc;

use super::Rooms;
use crate::{
    domain::{Caller, RoomId},
    error::{Error, Reason, Result},
    store::Registered,
};

/// What a call needs in its room; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    /// To see the room, its messages and its members.
    Read,
    /// To publish.
    Write,
    /// To change the room, its members and what is stored.
    Own,
}

impl Rooms {
    /// The room, if the caller has the right in it.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`.
    pub(super) async fn permit(&self, caller: &Caller, id: &RoomId, right: Right) -> Result<Arc<Registered>> {
        let registered = self.store.registry.find(id).await?;
        self.allow(caller, &registered, right)?;
        Ok(registered)
    }

    /// As [`Self::permit`], for what needs a log.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`.
    pub(super) async fn permit_persisted(&self, caller: &Caller, id: &RoomId, right: Right) -> Result<Arc<Registered>> {
        let registered = self.permit(caller, id, right).await?;
        if registered.room.persist {
            return Ok(registered);
        }
        Err(Error::new(
            Reason::RoomNotPersisted,
            "the room is ephemeral: it has no log, and so no sequences, positions or durable subscribers",
        ))
    }

    /// Whether the caller has the right in this room.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "everybody may do everything so far")]
    pub(super) fn allow(&self, _caller: &Caller, _registered: &Registered, _right: Right) -> Result<()> {
        Ok(())
    }
}
