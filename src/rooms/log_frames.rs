//! Reads a room's log for one subscription and turns what arrives into frames.

use std::time::Duration;

use tokio::time;

use super::Frame;
use crate::{
    delivery::{LogDelivery, Step},
    domain::{Message, PageRequest, Room, RoomState},
    error::Result,
    store::{Arrival, PageLimits, Reader, Store},
};

/// How often a backlog that does not end is looked at: its last messages may have been deleted.
const BACKLOG_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Reads a log and turns what arrives into frames.
pub(super) struct LogFrames {
    reader: Box<Reader>,
    room: Room,
    store: Store,
    delivery: LogDelivery,
    epoch: i64,
    ready: Vec<Frame>,
}

impl LogFrames {
    pub(super) fn new(reader: Box<Reader>, room: Room, store: Store, position: u64, state: &RoomState) -> Self {
        let (delivery, steps) = LogDelivery::open(position, state, room.retention.expires());
        Self { reader, room, store, delivery, epoch: state.epoch, ready: frames(steps, None).collect() }
    }

    /// The frames that are ready.
    pub(super) fn take_ready(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.ready)
    }

    /// Everything up to this sequence is in the frames given so far.
    pub(super) fn position(&self) -> u64 {
        self.delivery.position()
    }

    /// Returns when there are frames to send.
    pub(super) async fn read(&mut self) -> Result<()> {
        while self.ready.is_empty() {
            if let Some(arrival) = self.next_arrival().await? {
                self.arrive(arrival).await;
            }
        }
        Ok(())
    }

    /// The next message; `None` when the end of the backlog was found instead.
    async fn next_arrival(&mut self) -> Result<Option<Arrival>> {
        if self.delivery.is_caught_up() {
            return self.reader.next().await.map(Some);
        }
        let mut next = std::pin::pin!(self.reader.next());
        loop {
            tokio::select! {
                arrival = &mut next => return arrival.map(Some),
                () = time::sleep(BACKLOG_CHECK_INTERVAL) => {}
            }
            let start = self.delivery.position() + 1;
            if let Some(state) = nothing_follows(&self.store, &self.room, self.epoch, start).await {
                let steps = self.delivery.nothing_follows(&state);
                self.ready.extend(frames(steps, None));
                return Ok(None);
            }
        }
    }

    async fn arrive(&mut self, arrival: Arrival) {
        let sequence = arrival.message.sequence;
        let first_kept = if self.delivery.misses_before(sequence) {
            // only the reason of the gap depends on it
            self.store.log_state(&self.room).await.map_or(0, |state| state.first_sequence)
        } else {
            0
        };
        let steps = self.delivery.arrive(sequence, arrival.pending, first_kept);
        self.ready.extend(frames(steps, Some(arrival.message)));
    }
}

/// What the log holds, if it is the same log and holds nothing from `start` on. Asked when nothing has come for a while and
/// the backlog is not through: perhaps the rest of it was deleted.
async fn nothing_follows(store: &Store, room: &Room, epoch: i64, start: u64) -> Option<RoomState> {
    let state = store.log_state(room).await.ok().filter(|state| state.epoch == epoch)?;
    let limits = PageLimits { messages: 1, bytes: 1 };
    let page = store.page(room, state, PageRequest::From { start }, limits).await.ok()?;
    page.messages.is_empty().then_some(state)
}

fn frames(steps: Vec<Step>, mut message: Option<Message>) -> impl Iterator<Item = Frame> {
    steps.into_iter().filter_map(move |step| match step {
        Step::Deliver => message.take().map(Frame::Message),
        Step::Gap(gap) => Some(Frame::Gap(gap)),
        Step::CaughtUp(position) => Some(Frame::CaughtUp { position }),
    })
}
