//! Publishing one message.

use super::Rooms;
use crate::{
    domain::{Acknowledged, Draft, Room, RoomId},
    error::{Reason, Result, Violations},
    store::ttl_not_allowed,
};

impl Rooms {
    /// Publishes a checked message; returns when it is stored, or sent in an ephemeral room.
    ///
    /// # Errors
    /// As the contract lists them; only `OUTCOME_UNKNOWN` may have stored the message.
    pub(crate) async fn publish(&self, id: &RoomId, draft: Draft) -> Result<Acknowledged> {
        let registered = self.store.registry.find(id).await?;
        let room = &registered.room;
        self.check_size(room, &draft)?;
        if room.persist {
            if draft.ttl.is_some() && !room.allow_message_ttl {
                return Err(ttl_not_allowed());
            }
        } else {
            draft.check_ephemeral()?;
        }
        self.store.publish(room, draft).await
    }

    /// NATS closes the whole connection on a message that is too large, so none is ever sent.
    fn check_size(&self, room: &Room, draft: &Draft) -> Result<()> {
        let room_max = room.retention.max_message_bytes.and_then(|max| usize::try_from(max).ok());
        let server_max = self.payload_bytes_max();
        let (max, whose) = match room_max {
            Some(max) if max < server_max => (max, "the room"),
            Some(_) | None => (server_max, "the NATS server"),
        };
        let bytes = draft.payload.len();
        if bytes <= max {
            return Ok(());
        }
        let mut violations = Violations::default();
        violations
            .add("payload", format!("has {bytes} bytes; {whose} takes at most {max}; split it or send it another way"));
        violations.because(Reason::PayloadTooLarge).finish()
    }
}
