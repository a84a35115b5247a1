//! Removes messages on request: all up to a sequence, or a single one.

use std::sync::Arc;

use super::half_done;
use crate::{
    domain::{Caller, Purged, Room, RoomId, RoomState},
    error::{Error, Reason, Result},
    rooms::{
        Rooms,
        access::{Admitted, Right},
    },
    store::registry::known::Registered,
};

/// Number of attempts to register a purge while other calls change the room.
const ATTEMPTS: usize = 16;

/// The result of a purge.
#[derive(Clone, Debug)]
pub(crate) struct PurgeOutcome {
    /// Messages removed by this call.
    pub purged: u64,
    pub room: Room,
    pub state: RoomState,
}

impl Rooms {
    /// Removes all stored messages, or those up to and including a sequence.
    ///
    /// The purge is announced before it is made, so every subscription can report the reason of the gap. The
    /// announcement is valid only as far as the log shows it, so an announcement without a purge hides no message.
    /// The next call completes a call that stopped half-way.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `POSITION_AFTER_END`, `REMOVAL_DENIED`, `CONFLICT`: nothing was removed.
    pub(crate) async fn purge(&self, caller: &Caller, id: &RoomId, up_to: Option<u64>) -> Result<PurgeOutcome> {
        for _ in 0..ATTEMPTS {
            // from memory, so that a caller without the right causes no read of the registry
            self.permit_persisted(caller, id, Right::Own).await?;
            let Admitted { registered, .. } = self.permit_fresh(caller, id, Right::Own).await?;
            let state = self.store.log_state(&registered.room).await?;
            let through = up_to.unwrap_or(state.last_sequence);
            let state = self.check_end("up_to_sequence", through, &registered.room, state).await?;
            if through < state.first_sequence {
                let registered = self.conclude_purge(registered, &state, 0).await.map_err(half_done)?;
                return Ok(PurgeOutcome { purged: 0, room: registered.room.clone(), state });
            }
            let before = registered.room.purging;
            let purging = Some(Purged { epoch: state.epoch, through });
            let registered = match self.announce_purge(&registered, purging).await {
                Ok(Some(registered)) => registered,
                Ok(None) => continue,
                // the purge itself frees storage
                Err(error) if error.reason() == Reason::StorageFull => registered,
                Err(error) => return Err(error),
            };
            let removed = match self.store.purge(&registered.room, through).await {
                Ok(removed) => removed,
                Err(error) => {
                    if error.reason() == Reason::RemovalDenied {
                        // a later gap will have another reason
                        let _ = self.announce_purge(&registered, before).await;
                    }
                    return Err(error);
                }
            };
            let concluded = async {
                let state = self.store.log_state(&registered.room).await?;
                let registered = self.conclude_purge(registered, &state, through).await?;
                Ok(PurgeOutcome { purged: removed, room: registered.room.clone(), state })
            };
            return concluded.await.map_err(half_done);
        }
        Err(Error::new(Reason::Conflict, "other calls change the room at this moment; call again"))
    }

    /// Registers an announcement. `None` if another call changed the room meanwhile.
    async fn announce_purge(
        &self,
        registered: &Registered,
        purging: Option<Purged>,
    ) -> Result<Option<Arc<Registered>>> {
        let room = Room { purging, ..registered.room.clone() };
        self.store.registry.update(registered, room).await
    }

    /// Registers the purge up to `through`, and the announced purge as far as the log shows it.
    async fn conclude_purge(
        &self,
        mut registered: Arc<Registered>,
        state: &RoomState,
        through: u64,
    ) -> Result<Arc<Registered>> {
        for _ in 0..ATTEMPTS {
            let room = &registered.room;
            let announced =
                room.purging.filter(|purging| purging.epoch == state.epoch).map_or(0, |purging| purging.through);
            let shown = announced.min(state.first_sequence.saturating_sub(1));
            let through = through.max(shown).max(room.purged_through(state.epoch));
            let purged = if through == 0 { room.purged } else { Some(Purged { epoch: state.epoch, through }) };
            // another purge may have been announced meanwhile
            let purging = room.purging.filter(|purging| purging.epoch == state.epoch && purging.through > through);
            if (purged, purging) == (room.purged, room.purging) {
                return Ok(registered);
            }
            let room = Room { purged, purging, ..room.clone() };
            if let Some(registered) = self.store.registry.update(&registered, room).await? {
                return Ok(registered);
            }
            registered = self.store.registry.find_fresh(&registered.room.room_id).await?;
        }
        Err(Error::new(Reason::Conflict, "other calls change the room at this moment; call again"))
    }

    /// Erases one stored message.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `MESSAGE_NOT_FOUND`, `REMOVAL_DENIED`: nothing was removed.
    pub(crate) async fn delete_message(&self, caller: &Caller, id: &RoomId, sequence: u64) -> Result<()> {
        let Admitted { registered, .. } = self.permit_persisted(caller, id, Right::Own).await?;
        let state = self.store.log_state(&registered.room).await?;
        let state = self.store.log_reaching(&registered.room, sequence, state).await?;
        let in_range = (state.first_sequence..=state.last_sequence).contains(&sequence);
        if in_range && self.store.delete_message(&registered, state.epoch, sequence).await? {
            return Ok(());
        }
        Err(Error::new(
            Reason::MessageNotFound,
            format!("`sequence`: the room has no message {sequence}; it was removed earlier, or never stored"),
        ))
    }
}
