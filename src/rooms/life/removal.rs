//! Messages removed on request: all up to a sequence, or a single one.

use std::sync::Arc;

use crate::{
    domain::{Caller, Purged, Room, RoomId, RoomState},
    error::{Error, Reason, Result},
    rooms::{Rooms, access::Right},
    store::Registered,
};

/// How often a purge is registered again because others changed the room at the same moment.
const ATTEMPTS: usize = 16;

/// What a purge did.
#[derive(Clone, Debug)]
pub(crate) struct PurgeOutcome {
    /// Messages removed by this call.
    pub purged: u64,
    pub room: Room,
    pub state: RoomState,
}

impl Rooms {
    /// Removes all messages that are stored now, or those up to and including a sequence.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `POSITION_AFTER_END`, `REMOVAL_DENIED`, `CONFLICT`: nothing was removed.
    pub(crate) async fn purge(&self, caller: &Caller, id: &RoomId, up_to: Option<u64>) -> Result<PurgeOutcome> {
        for _ in 0..ATTEMPTS {
            self.permit_persisted(caller, id, Right::Own).await?;
            let registered = self.store.registry.find_fresh(id).await?;
            self.allow(caller, &registered, Right::Own)?;
            let state = self.store.log_state(&registered.room).await?;
            let through = up_to.unwrap_or(state.last_sequence);
            let state = self.check_end("up_to_sequence", through, &registered.room, state).await?;
            if through < state.first_sequence {
                return Ok(PurgeOutcome { purged: 0, room: registered.room.clone(), state });
            }
            // registered first, so that nobody misses the messages without finding out why
            let before = registered.room.purged;
            let purged =
                Some(Purged { epoch: state.epoch, through: through.max(registered.room.purged_through(state.epoch)) });
            let Some(registered) = self.register_purge(registered, purged).await? else { continue };
            let removed = match self.store.purge(&registered.room, through).await {
                Ok(removed) => removed,
                Err(error) => {
                    if error.reason() == Reason::RemovalDenied {
                        // what is missing later will have gone for another reason; if this fails too, it is called purged
                        let _ = self.register_purge(registered, before).await;
                    }
                    return Err(error);
                }
            };
            let state = self.store.log_state(&registered.room).await?;
            return Ok(PurgeOutcome { purged: removed, room: registered.room.clone(), state });
        }
        Err(Error::new(Reason::Conflict, "the room is being changed by others at this moment; try again"))
    }

    /// `None` if the room was changed meanwhile.
    async fn register_purge(
        &self,
        registered: Arc<Registered>,
        purged: Option<Purged>,
    ) -> Result<Option<Arc<Registered>>> {
        if registered.room.purged == purged {
            return Ok(Some(registered));
        }
        let room = Room { purged, ..registered.room.clone() };
        self.store.registry.update(&registered, room).await
    }

    /// Erases one stored message.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `MESSAGE_NOT_FOUND`, `REMOVAL_DENIED`: nothing was removed.
    pub(crate) async fn delete_message(&self, caller: &Caller, id: &RoomId, sequence: u64) -> Result<()> {
        let registered = self.permit_persisted(caller, id, Right::Own).await?;
        let state = self.store.log_state(&registered.room).await?;
        let state = self.store.log_reaching(&registered.room, sequence, state).await?;
        let in_range = (state.first_sequence..=state.last_sequence).contains(&sequence);
        if in_range && self.store.delete_message(&registered.room, sequence).await? {
            return Ok(());
        }
        Err(Error::new(
            Reason::MessageNotFound,
            format!("sequence: the room has no message {sequence}; it was removed before, or never stored"),
        ))
    }
}
