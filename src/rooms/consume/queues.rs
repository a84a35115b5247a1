//! The state that the two sides of a Consume stream share: the open rooms, the waiting answers, and the end.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::{ConsumeEvent, Consumed, flow::Flow};
use crate::{
    domain::RoomId,
    error::{Error, Limit, Result},
    limits::{CONSUME_ANSWERS_MAX, CONSUME_ROOMS_MAX},
    rooms::subscribe::SubscribeOptions,
    sync::lock,
};

/// The next step of the sending side.
pub(super) enum NextStep {
    Answer(Consumed),
    /// With the turn to open the room.
    Open(SubscribeOptions, Arc<Flow>, OwnedSemaphorePermit),
    End(Result<()>),
}

/// How the stream ends.
#[derive(Debug)]
struct StreamEnd {
    result: Result<()>,
    /// True: the stream ends when every room is closed. False: it ends at once.
    when_closed: bool,
}

#[derive(Debug, Default)]
struct SharedQueues {
    open: HashMap<RoomId, Arc<Flow>>,
    /// Open rooms that the sending side does not know yet.
    arriving: VecDeque<(SubscribeOptions, Arc<Flow>)>,
    answers: VecDeque<Consumed>,
    end: Option<StreamEnd>,
}

/// What the reading side has for the sending side.
#[derive(Debug, Default)]
pub(super) struct ConsumeQueues {
    inner: Mutex<SharedQueues>,
    /// Notified when there may be a next step.
    step: Notify,
    /// Notified when there is space for answers.
    space: Notify,
}

impl ConsumeQueues {
    fn inner(&self) -> MutexGuard<'_, SharedQueues> {
        lock(&self.inner)
    }

    /// Takes the next step. Opening a room needs a turn, and takes it.
    pub(super) fn next_step(&self, turn: &mut Option<OwnedSemaphorePermit>) -> Option<NextStep> {
        let mut inner = self.inner();
        if let Some(answer) = inner.answers.pop_front() {
            self.space.notify_one();
            return Some(NextStep::Answer(answer));
        }
        if !inner.arriving.is_empty()
            && let Some(turn) = turn.take()
            && let Some((options, flow)) = inner.arriving.pop_front()
        {
            return Some(NextStep::Open(options, flow, turn));
        }
        let open = !inner.open.is_empty();
        inner.end.take_if(|end| !(open && end.when_closed)).map(|end| NextStep::End(end.result))
    }

    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn wait_for_step(&self) {
        self.step.notified().await;
    }

    pub(super) fn has_space(&self) -> bool {
        self.inner().answers.len() < CONSUME_ANSWERS_MAX
    }

    /// # Cancel safety
    /// May be dropped at any point.
    pub(super) async fn wait_for_space(&self) {
        self.space.notified().await;
    }

    /// Opens a room. Requires: the room is not open.
    ///
    /// # Errors
    /// `LIMIT_REACHED`.
    pub(super) fn open(&self, options: SubscribeOptions, flow: Flow) -> Result<()> {
        let mut inner = self.inner();
        if inner.open.len() >= CONSUME_ROOMS_MAX {
            return Err(Error::limit_reached(
                Limit::ConsumeRooms,
                format!(
                    "a Consume stream can have {CONSUME_ROOMS_MAX} open rooms; close a room, or use another stream"
                ),
            ));
        }
        let flow = Arc::new(flow);
        inner.open.insert(options.room_id.clone(), Arc::clone(&flow));
        inner.arriving.push_back((options, flow));
        self.step.notify_one();
        Ok(())
    }

    pub(super) fn find(&self, room_id: &RoomId) -> Option<Arc<Flow>> {
        self.inner().open.get(room_id).cloned()
    }

    pub(super) fn all(&self) -> Vec<(RoomId, Arc<Flow>)> {
        self.inner().open.iter().map(|(room_id, flow)| (room_id.clone(), Arc::clone(flow))).collect()
    }

    pub(super) fn remove(&self, room_id: &RoomId) {
        self.inner().open.remove(room_id);
    }

    /// Queues an answer that belongs to a room. Waiting confirmations of a room are merged.
    pub(super) fn answer(&self, room_id: RoomId, event: ConsumeEvent) {
        let mut inner = self.inner();
        let room_id = Some(room_id);
        if let ConsumeEvent::Acknowledged(position) = event {
            let waiting = inner.answers.iter_mut().filter(|answer| answer.room_id == room_id);
            let confirmed = waiting.filter_map(|answer| match &mut answer.event {
                ConsumeEvent::Acknowledged(confirmed) => Some(confirmed),
                _ => None,
            });
            if let Some(confirmed) = confirmed.last() {
                *confirmed = position.max(*confirmed);
                return;
            }
        }
        inner.answers.push_back(Consumed { room_id, event });
        self.step.notify_one();
    }

    /// Queues the answer to a ping.
    pub(super) fn pong(&self, nonce: u64) {
        self.inner().answers.push_back(Consumed { room_id: None, event: ConsumeEvent::Pong(nonce) });
        self.step.notify_one();
    }

    /// Ends the stream. No more commands are read.
    pub(super) fn end(&self, result: Result<()>, when_closed: bool) {
        self.inner().end = Some(StreamEnd { result, when_closed });
        self.step.notify_one();
    }
}
