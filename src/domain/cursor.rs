//! Cursors are opaque to clients. A cursor belongs to one room and one epoch of its log.

use std::time::{Duration, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{Room, RoomId, RoomState};
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

    /// Returns the sequence, if the cursor belongs to `room` and to its log, whose state is `log`.
    ///
    /// # Errors
    /// `CURSOR_INVALID` if the cursor belongs to another room, `CURSOR_EXPIRED` if it belongs to another log.
    pub fn sequence_in(self, field: &str, room: &Room, log: &RoomState) -> Result<u64> {
        if self.room_tag != tag(&room.room_id) {
            return Err(invalid(field, "is a cursor of another room"));
        }
        // a restored log cannot tell its own earlier epoch from one of a room that was deleted; the room can
        let is_earlier = self.epoch != log.epoch && self.epoch < first_epoch(room);
        if is_earlier || !log.continues(self.epoch) {
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

/// The earliest epoch that the log of the room can have had. The room is created before its log, by another clock.
fn first_epoch(room: &Room) -> i64 {
    const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(60);
    let created = room.created_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(created.saturating_sub(CLOCKS_DIFFER_BY).as_nanos()).unwrap_or(i64::MAX)
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

    /// In nanoseconds.
    const DAY: i64 = 86_400_000_000_000;

    fn id(id: &str) -> RoomId {
        RoomId::parse("room_id", id).unwrap()
    }

    /// A room that was created on the third day.
    fn room(id: &str) -> Room {
        Room::example(id, UNIX_EPOCH + Duration::from_nanos((2 * DAY).unsigned_abs()))
    }

    fn log(epoch: i64, oldest: i64) -> RoomState {
        RoomState { epoch, oldest, ..RoomState::default() }
    }

    proptest! {
        #[test]
        fn round_trip(name in "[a-z]{1,20}", epoch in any::<i64>(), sequence in any::<u64>()) {
            let text = Cursor::new(&id(&name), epoch, sequence).encode();
            let cursor = Cursor::decode("c", &text).unwrap();
            prop_assert_eq!(cursor.sequence_in("c", &room(&name), &log(epoch, epoch)).unwrap(), sequence);
        }

        #[test]
        fn a_spoilt_cursor_is_never_another_rooms(epoch in any::<i64>(), at in 0_usize..99, byte in any::<u8>()) {
            let mut text = Cursor::new(&id("a"), epoch, 7).encode().into_bytes();
            let at = at % text.len();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            if let Ok(cursor) = Cursor::decode("c", &String::from_utf8_lossy(&text)) {
                prop_assert!(cursor.sequence_in("c", &room("b"), &log(epoch, epoch)).is_err());
            }
        }

        #[test]
        fn garbage_is_refused_without_panic(text in any::<String>()) {
            prop_assert!(Cursor::decode("c", &text).is_err());
        }
    }

    #[test]
    fn other_rooms_and_former_lives_are_told_apart() {
        let cursor = Cursor::new(&id("a"), 1, 7);
        assert_eq!(cursor.sequence_in("c", &room("b"), &log(1, 1)).unwrap_err().reason(), Reason::CursorInvalid);
        assert_eq!(cursor.sequence_in("c", &room("a"), &log(2, 2)).unwrap_err().reason(), Reason::CursorExpired);
    }

    #[test]
    fn a_restored_log_knows_its_cursors_and_no_others() {
        let restored = log(9 * DAY, 4 * DAY);
        for (epoch, is_known) in [
            (9 * DAY, true),
            (3 * DAY, true),
            (4 * DAY, true),
            // the room was created on another clock
            (2 * DAY - 1, true),
            // of a room that was deleted before this one was created
            (DAY, false),
            // of a log that began after these messages
            (5 * DAY, false),
            (10 * DAY, false),
        ] {
            let cursor = Cursor::new(&id("a"), epoch, 7);
            assert_eq!(cursor.sequence_in("c", &room("a"), &restored).is_ok(), is_known, "{epoch}");
        }
    }
}
