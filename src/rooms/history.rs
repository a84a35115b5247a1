//! Pages of stored messages. A page of an active room comes from its ring, if the ring has exactly the messages that
//! the log would answer with. Every other page is read from the log.

use std::sync::Arc;

use super::{
    Rooms,
    access::{Admitted, Right},
};
use crate::{
    delivery::{PageSought, Slice},
    domain::{Anchor, Caller, Cursor, Page, PageRequest, Room, RoomId, RoomState, Visible},
    error::{Error, Reason, Result},
    limits::{HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, HISTORY_PAGE_BYTES_MAX},
    store::{log::history::PageLimits, registry::known::Registered},
    subscriptions::reads::{CallerReads, ReadPlace},
};

/// A page of history.
#[derive(Debug)]
pub(crate) enum HistoryPage {
    /// Read from the log.
    Stored(Page),
    /// Taken from the ring. `page` has no messages; they are in `slices`, in the encoding of [`Encode`].
    ///
    /// [`Encode`]: crate::subscriptions::frame::Encode
    Encoded { page: Page, slices: Vec<Slice> },
}

/// A permitted request for a page that may have messages.
struct Query {
    registered: Arc<Registered>,
    reads: CallerReads,
    place: ReadPlace,
    /// What the caller may see.
    permitted: Visible,
    /// The state of the log, and the part of it that the caller may see.
    state: RoomState,
    visible: RoomState,
    request: PageRequest,
    limits: PageLimits,
    /// The page, if it was read while the state was asked for.
    ahead: Option<Page>,
}

/// The result of [`Rooms::query`].
enum Queried {
    Empty(Page),
    Query(Box<Query>),
}

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
    ) -> Result<(HistoryPage, Option<ReadPlace>)> {
        let query = match self.query(caller, id, limit, HISTORY_PAGE_BYTES_MAX, anchor).await? {
            Queried::Empty(page) => return Ok((HistoryPage::Stored(page), None)),
            Queried::Query(query) => query,
        };
        if let Some((page, slices)) = self.of_ring(&query).await {
            self.still_permitted(caller, &query.registered, query.permitted)?;
            let bytes: u64 = slices.iter().map(Slice::payload_bytes).sum();
            query.reads.pay(usize::try_from(bytes).unwrap_or(usize::MAX)).await;
            return Ok((HistoryPage::Encoded { page, slices }, Some(query.place)));
        }
        let (page, place) = self.of_log(caller, *query).await?;
        Ok((HistoryPage::Stored(page), Some(place)))
    }

    /// As [`Self::history`], with another bound on the page's bytes, and always from the log.
    pub(crate) async fn history_of_log(
        &self,
        caller: &Caller,
        id: &RoomId,
        limit: usize,
        bytes: usize,
        anchor: Anchor,
    ) -> Result<(Page, Option<ReadPlace>)> {
        match self.query(caller, id, limit, bytes, anchor).await? {
            Queried::Empty(page) => Ok((page, None)),
            Queried::Query(query) => self.of_log(caller, *query).await.map(|(page, place)| (page, Some(place))),
        }
    }

    async fn query(&self, caller: &Caller, id: &RoomId, limit: usize, bytes: usize, anchor: Anchor) -> Result<Queried> {
        let Admitted { registered, visible: permitted, .. } = self.permit(caller, id, Right::Read).await?;
        let room = &registered.room;
        if !room.persist {
            return Ok(Queried::Empty(Page::default()));
        }
        let reads = self.allowances.reads(caller);
        let place = reads.page(bytes).await?;
        let messages = if limit == 0 { HISTORY_LIMIT_DEFAULT } else { limit.min(HISTORY_LIMIT_MAX) };
        let limits = PageLimits { messages, bytes };
        let ahead = Box::pin(self.read_ahead(&registered, permitted, &anchor, limits));
        let (state, ahead) = tokio::join!(self.store.shared_log_state(room), ahead);
        let state = state?;
        // a log of the same epoch never returns to an earlier state, so the page was read from the log in this state
        let ahead = ahead.filter(|page| page.state == Some(state));
        let request = resolve(room, &state, &anchor)?;
        let visible = self.visible_state(room, state, permitted).await?;
        let request = after_hidden(request, &visible);
        if visible.messages == 0 {
            let page = Page { newer_than: visible.last_sequence, state: Some(visible), ..Page::default() };
            return Ok(Queried::Empty(page));
        }
        let query = Query { registered, reads, place, permitted, state, visible, request, limits, ahead };
        Ok(Queried::Query(Box::new(query)))
    }

    /// Reads the page that the log holds in the state that it had the last two times. `None` in an active room, whose log
    /// changes, and while messages are hidden from the caller, which takes another read.
    async fn read_ahead(
        &self,
        registered: &Registered,
        visible: Visible,
        anchor: &Anchor,
        limits: PageLimits,
    ) -> Option<Page> {
        let room = &registered.room;
        let state = registered.quiet_state().filter(|state| state.messages > 0)?;
        let is_hidden = visible.hidden_through(&state) >= state.first_sequence;
        if is_hidden || self.upstreams.is_active(registered, state.epoch) {
            return None;
        }
        let request = after_hidden(resolve(room, &state, anchor).ok()?, &state);
        self.store.page(room, state, request, limits).await.ok()
    }

    /// The page from the ring, without its messages, and its messages. `None`: only the log can answer.
    async fn of_ring(&self, query: &Query) -> Option<(Page, Vec<Slice>)> {
        let Query { registered, state, visible, request, limits, .. } = query;
        let sought = PageSought {
            request: *request,
            state: *state,
            first: visible.first_sequence,
            messages_max: limits.messages,
            bytes_max: limits.bytes,
        };
        let found = self.upstreams.page(registered, &sought).await?;
        let page = Page {
            messages: Vec::new(),
            has_older: visible.first_sequence < found.first_sequence,
            has_newer: found.has_newer,
            older_than: found.first_sequence,
            newer_than: found.last_sequence,
            state: Some(*visible),
        };
        Some((page, found.slices))
    }

    async fn of_log(&self, caller: &Caller, query: Query) -> Result<(Page, ReadPlace)> {
        let Query { registered, reads, place, permitted, visible, request, limits, ahead, .. } = query;
        let page = match ahead {
            Some(page) => page,
            None => self.store.page(&registered.room, visible, request, limits).await?,
        };
        self.still_permitted(caller, &registered, permitted)?;
        reads.pay(page.messages.iter().map(|message| message.payload.len()).sum()).await;
        Ok((page, place))
    }

    /// Checks again what the caller may see, because NATS may have taken long to answer.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`, `CONFLICT`.
    fn still_permitted(&self, caller: &Caller, registered: &Arc<Registered>, permitted: Visible) -> Result<()> {
        if self.admit(caller, Arc::clone(registered), Right::Read)?.visible == permitted {
            return Ok(());
        }
        Err(Error::new(Reason::Conflict, "what the caller may see changed while the page was read; call again"))
    }
}

/// The request without the messages that are hidden or removed.
fn after_hidden(request: PageRequest, visible: &RoomState) -> PageRequest {
    match request {
        PageRequest::From { start } => PageRequest::From { start: start.max(visible.first_sequence) },
        request => request,
    }
}

fn resolve(room: &Room, state: &RoomState, anchor: &Anchor) -> Result<PageRequest> {
    let sequence = |cursor: &Cursor, field| cursor.sequence_in(field, room, state);
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
