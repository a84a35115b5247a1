//! Pages of stored messages.

use super::{
    Rooms,
    access::{Admitted, Right},
};
use crate::{
    domain::{Anchor, Caller, Cursor, Page, PageRequest, Room, RoomId, RoomState},
    error::Result,
    limits::{HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, HISTORY_PAGE_BYTES_MAX},
    store::log::history::PageLimits,
    subscriptions::reads::ReadPlace,
};

impl Rooms {
    /// Returns a page of the room's history. A `limit` of 0 means the default; a `limit` above the maximum means the
    /// maximum. The caller keeps the returned place while the page is in memory.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `PERMISSION_DENIED`, `CURSOR_INVALID`, `CURSOR_EXPIRED`, `RATE_LIMITED`.
    pub(crate) async fn history(
        &self,
        caller: &Caller,
        id: &RoomId,
        limit: usize,
        anchor: Anchor,
    ) -> Result<(Page, Option<ReadPlace>)> {
        self.history_within(caller, id, limit, HISTORY_PAGE_BYTES_MAX, anchor).await
    }

    /// As [`Self::history`], with another bound on the page's bytes.
    pub(crate) async fn history_within(
        &self,
        caller: &Caller,
        id: &RoomId,
        limit: usize,
        bytes: usize,
        anchor: Anchor,
    ) -> Result<(Page, Option<ReadPlace>)> {
        let Admitted { registered, visible, .. } = self.permit(caller, id, Right::Read).await?;
        let room = &registered.room;
        if !room.persist {
            return Ok((Page::default(), None));
        }
        let reads = self.allowances.reads(caller);
        let place = reads.page(bytes).await?;
        let state = self.store.log_state(room).await?;
        let want = resolve(room, &state, &anchor)?;
        let state = self.visible_state(room, state, visible).await?;
        let want = match want {
            PageRequest::From { start } => PageRequest::From { start: start.max(state.first_sequence) },
            want => want,
        };
        if state.messages == 0 {
            return Ok((Page { newer_than: state.last_sequence, state: Some(state), ..Page::default() }, None));
        }
        let messages = if limit == 0 { HISTORY_LIMIT_DEFAULT } else { limit.min(HISTORY_LIMIT_MAX) };
        let page = self.store.page(room, state, want, PageLimits { messages, bytes }).await?;
        reads.pay(page.messages.iter().map(|message| message.payload.len()).sum()).await;
        Ok((page, Some(place)))
    }
}

fn resolve(room: &Room, state: &RoomState, anchor: &Anchor) -> Result<PageRequest> {
    let sequence = |cursor: &Cursor, field| cursor.sequence_in(field, &room.room_id, state.epoch);
    Ok(match *anchor {
        Anchor::Newest => PageRequest::Before { end: u64::MAX },
        Anchor::BeforeSequence(end) => PageRequest::Before { end },
        Anchor::BeforeCursor(ref cursor) => PageRequest::Before { end: sequence(cursor, "before_cursor")? },
        Anchor::AfterSequence(after) => PageRequest::From { start: after.saturating_add(1) },
        Anchor::AfterCursor(ref cursor) => {
            PageRequest::From { start: sequence(cursor, "after_cursor")?.saturating_add(1) }
        }
        Anchor::TimeRange(None, None) => PageRequest::From { start: 1 },
        Anchor::TimeRange(start, end) => {
            PageRequest::Between { start: start.unwrap_or(std::time::SystemTime::UNIX_EPOCH), end }
        }
    })
}
