//! Cursors are opaque to clients. A cursor belongs to one room and one epoch of its log.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::RoomId;
use crate::error::{Error, Reason, Result, Violations};

const VERSION: u8 = 1;
const BYTES: usize = 1 + 4 + 8 + 8;

/// A place in one epoch of the log of a room.
///
/// Wire form: URL-safe base64 without padding of version, CRC-32 of the room id, epoch and sequence, big endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    room_tag: u32,
    /// The epoch: the creation time of the log in nanoseconds since 1970.
    epoch: i64,
    sequence: u64,
}

impl Cursor {
    /// Returns the cursor of `sequence` in the epoch `epoch` of `room`.
    #[must_use]
    pub fn new(room: &RoomId, epoch: i64, sequence: u64) -> Self {
        Self { room_tag: tag(room), epoch, sequence }
    }

    /// Returns the text that clients get.
    #[must_use]
    pub fn encode(self) -> String {
        let mut bytes = [0; BYTES];
        let fields = [VERSION]
            .into_iter()
            .chain(self.room_tag.to_be_bytes())
            .chain(self.epoch.to_be_bytes())
            .chain(self.sequence.to_be_bytes());
        bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Parses the text of a client.
    ///
    /// # Errors
    /// `CURSOR_INVALID` with `field`, if the text is not a cursor.
    pub fn decode(field: &str, text: &str) -> Result<Self> {
        Self::read(text).ok_or_else(|| invalid(field, "is not a cursor; give one from a message or a history page"))
    }

    fn read(text: &str) -> Option<Self> {
        let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (version, rest) = bytes.split_first()?;
        let (room_tag, rest) = rest.split_first_chunk::<4>()?;
        let (epoch, sequence) = rest.split_first_chunk::<8>()?;
        (*version == VERSION).then_some(Self {
            room_tag: u32::from_be_bytes(*room_tag),
            epoch: i64::from_be_bytes(*epoch),
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
        })
    }

    /// Returns the sequence, if the cursor belongs to `room` and to the epoch `epoch` of its log.
    ///
    /// # Errors
    /// `CURSOR_INVALID` if the cursor belongs to another room, `CURSOR_EXPIRED` if it belongs to another epoch.
    pub fn sequence_in(self, field: &str, room: &RoomId, epoch: i64) -> Result<u64> {
        if self.room_tag != tag(room) {
            return Err(invalid(field, "is a cursor of another room"));
        }
        if self.epoch != epoch {
            return Err(Error::new(
                Reason::CursorExpired,
                format!(
                    "`{field}`: the cursor belongs to an earlier log of the room, which was deleted; start without a cursor"
                ),
            ));
        }
        Ok(self.sequence)
    }
}

fn tag(room: &RoomId) -> u32 {
    crc32fast::hash(room.as_str().as_bytes())
}

fn invalid(field: &str, description: &str) -> Error {
    let mut violations = Violations::default();
    violations.add(field, description);
    violations.because(Reason::CursorInvalid).into_error()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn room(id: &str) -> RoomId {
        RoomId::parse("room_id", id).unwrap()
    }

    proptest! {
        #[test]
        fn round_trip(id in "[a-z]{1,20}", epoch in any::<i64>(), sequence in any::<u64>()) {
            let text = Cursor::new(&room(&id), epoch, sequence).encode();
            prop_assert_eq!(Cursor::decode("c", &text).unwrap().sequence_in("c", &room(&id), epoch).unwrap(), sequence);
        }

        #[test]
        fn a_spoilt_cursor_is_never_another_rooms(epoch in any::<i64>(), at in 0_usize..99, byte in any::<u8>()) {
            let mut text = Cursor::new(&room("a"), epoch, 7).encode().into_bytes();
            let at = at % text.len();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            if let Ok(cursor) = Cursor::decode("c", &String::from_utf8_lossy(&text)) {
                prop_assert!(cursor.sequence_in("c", &room("b"), epoch).is_err());
            }
        }

        #[test]
        fn garbage_is_refused_without_panic(text in any::<String>()) {
            prop_assert!(Cursor::decode("c", &text).is_err());
        }
    }

    #[test]
    fn other_rooms_and_former_lives_are_told_apart() {
        let cursor = Cursor::new(&room("a"), 1, 7);
        assert_eq!(cursor.sequence_in("c", &room("b"), 1).unwrap_err().reason(), Reason::CursorInvalid);
        assert_eq!(cursor.sequence_in("c", &room("a"), 2).unwrap_err().reason(), Reason::CursorExpired);
    }
}
