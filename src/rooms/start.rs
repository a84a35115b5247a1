//! Resolves every kind of start to a position in the log.

use std::time::{Duration, SystemTime};

use tokio::time;

use super::Rooms;
use crate::{
    domain::{PageRequest, Room, RoomState, Start},
    error::{Error, Reason, Result},
    limits::{HISTORY_LIMIT_MAX, HISTORY_PAGE_BYTES_MAX, SINCE_AHEAD_MAX},
    store::log::history::PageLimits,
};

/// Maximum number of reads of the NATS server's clock while waiting for a time.
const CLOCK_READS: usize = 8;

impl Rooms {
    /// The position before the first message of `start`.
    ///
    /// # Errors
    /// `POSITION_AFTER_END`, `CURSOR_INVALID`, `CURSOR_EXPIRED`.
    pub(super) async fn start_position(&self, room: &Room, state: RoomState, start: Start) -> Result<u64> {
        self.position_of("start", room, state, start).await
    }

    /// As [`Self::start_position`], with `field` as the field's name in errors.
    pub(super) async fn position_of(&self, field: &str, room: &Room, state: RoomState, start: Start) -> Result<u64> {
        Ok(match start {
            Start::Default | Start::All => state.first_sequence - 1,
            Start::New => state.last_sequence,
            Start::AfterSequence(sequence) => {
                self.check_end(&format!("{field}.after_sequence"), sequence, room, state).await?;
                sequence
            }
            Start::AfterCursor(cursor) => {
                let field = format!("{field}.after_cursor");
                let sequence = cursor.sequence_in(&field, room, &state)?;
                self.check_end(&field, sequence, room, state).await?;
                sequence
            }
            Start::Since(time) => self.since_position(&format!("{field}.since"), room, time).await?,
            Start::Last(count) => self.last_position(room, state, count).await?,
        })
    }

    /// The position before the first message stored at or after `time`. Such a message may not be stored yet.
    async fn since_position(&self, field: &str, room: &Room, time: SystemTime) -> Result<u64> {
        self.wait_for(field, room, time).await?;
        // read after the time has come, so that every later message is after this position
        let state = self.store.log_state(room).await?;
        let first = self.store.first_since(room, state, time).await?;
        Ok(first.map_or(state.last_sequence, |sequence| sequence - 1))
    }

    /// Waits until `time` has come by the clock that dates the room's messages. Only then are all messages before
    /// `time` stored.
    async fn wait_for(&self, field: &str, room: &Room, time: SystemTime) -> Result<()> {
        for _ in 0..CLOCK_READS {
            let now = self.store.log_clock(room).await?;
            let ahead = time.duration_since(now).unwrap_or(Duration::ZERO);
            if ahead.is_zero() {
                return Ok(());
            }
            if ahead > SINCE_AHEAD_MAX {
                break;
            }
            time::sleep(ahead).await;
        }
        Err(Error::field(
            field,
            format!(
                "must be at most {SINCE_AHEAD_MAX:?} ahead of the clock of the NATS server; use `new` to start at the end"
            ),
        ))
    }

    /// The position before the newest `count` messages.
    async fn last_position(&self, room: &Room, state: RoomState, count: u64) -> Result<u64> {
        let first = state.first_sequence - 1;
        if count >= state.messages {
            return Ok(first);
        }
        if state.is_dense() {
            return Ok(state.last_sequence.saturating_sub(count).max(first));
        }
        let mut left = usize::try_from(count).unwrap_or(usize::MAX);
        let mut end = state.last_sequence + 1;
        while left > 0 {
            let limits = PageLimits { messages: left.min(HISTORY_LIMIT_MAX), bytes: HISTORY_PAGE_BYTES_MAX };
            let page = self.store.page(room, state, PageRequest::Before { end }, limits).await?;
            let Some(oldest) = page.messages.first() else { return Ok(first) };
            end = oldest.sequence;
            left = left.saturating_sub(page.messages.len());
        }
        Ok(end - 1)
    }

    /// Refuses a position after the end of the log. Returns a state that includes the position.
    ///
    /// # Errors
    /// `POSITION_AFTER_END`.
    pub(super) async fn check_end(
        &self,
        field: &str,
        sequence: u64,
        room: &Room,
        state: RoomState,
    ) -> Result<RoomState> {
        let state = self.store.log_reaching(room, sequence, state).await?;
        if sequence <= state.last_sequence {
            return Ok(state);
        }
        Err(Error::new(
            Reason::PositionAfterEnd,
            format!(
                "`{field}`: {sequence} lies after the last sequence of the room; give at most {}",
                state.last_sequence
            ),
        )
        .with("last_sequence", state.last_sequence))
    }
}
