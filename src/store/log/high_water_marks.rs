//! Decides whether an answer about a room's log is believed.
//!
//! In a cluster any single answer may be old. A leader that was paused or cut off, a server that has just started,
//! and a replica that lags all report a shorter log than there is. So this instance keeps a high-water mark for each
//! replicated room: the highest sequence that it has seen stored, delivered or reported. An answer that knows less is
//! stale. It proves nothing, and the request is repeated.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{self, Instant};
use tracing::error;

use super::{
    shared::SharedStates,
    streams::{self, Listing},
};
use crate::{
    domain::{Room, RoomId, RoomState},
    error::{Error, Result},
    limits::{HIGH_WATER_MARKS_UNPRUNED, POSITION_WAIT, ROLLED_BACK_AFTER, STALE_ANSWER_TIMEOUT},
    nats::{Nats, error::unavailable},
    store::registry::Registry,
    sync::lock,
};

const RETRY_DELAY_MIN: Duration = Duration::from_millis(20);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(250);

/// The highest sequence of a room that this instance has seen stored.
#[derive(Debug, Default)]
pub(in crate::store) struct HighWaterMark(Mutex<MarkState>);

#[derive(Debug, Default)]
struct MarkState {
    /// The epoch of the log that the sequence belongs to. 0 until an answer has reported it.
    epoch: i64,
    sequence: u64,
    /// The time since which every answer knew less than the mark.
    contradicted_since: Option<Instant>,
}

/// Whether an answer knows as much as this instance has seen.
#[derive(Debug, PartialEq, Eq)]
enum Freshness {
    Fresh,
    Stale,
    /// NATS has lost messages that it had acknowledged.
    RolledBack,
}

impl HighWaterMark {
    /// The epoch of the log that the mark belongs to. 0 while it is unknown.
    pub(in crate::store) fn epoch(&self) -> i64 {
        lock(&self.0).epoch
    }

    /// Records that the sequence is stored in the log with this epoch. `epoch` is 0 if it was unknown.
    pub(in crate::store) fn raise(&self, epoch: i64, sequence: u64) {
        let mut mark = lock(&self.0);
        if mark.epoch == 0 {
            mark.epoch = epoch;
        }
        if epoch == mark.epoch {
            mark.sequence = mark.sequence.max(sequence);
        }
    }

    /// Returns true if `sequence`, or a later one, is known to be stored.
    pub(in crate::store) fn is_beyond(&self, epoch: i64, sequence: u64) -> bool {
        let mark = lock(&self.0);
        mark.epoch == epoch && mark.sequence >= sequence
    }

    fn freshness_of(&self, state: &RoomState, now: Instant) -> Freshness {
        let mut mark = lock(&self.0);
        let is_new_life = mark.epoch != 0 && state.epoch > mark.epoch;
        let is_behind = (mark.epoch != 0 && state.epoch < mark.epoch) || state.last_sequence < mark.sequence;
        if is_new_life || !is_behind {
            *mark = MarkState { epoch: state.epoch, sequence: state.last_sequence, contradicted_since: None };
            return Freshness::Fresh;
        }
        let since = *mark.contradicted_since.get_or_insert(now);
        if now.duration_since(since) < ROLLED_BACK_AFTER {
            return Freshness::Stale;
        }
        *mark = MarkState { epoch: state.epoch, sequence: state.last_sequence, contradicted_since: None };
        Freshness::RolledBack
    }
}

/// The high-water marks of all rooms. Answers about their logs are read through them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HighWaterMarks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nats: Nats,
    registry: Registry,
    marks: Mutex<HashMap<RoomId, Arc<HighWaterMark>>>,
    states: SharedStates,
}

impl HighWaterMarks {
    pub(in crate::store) fn new(nats: &Nats, registry: &Registry) -> Self {
        Self(Arc::new(Inner {
            nats: nats.clone(),
            registry: registry.clone(),
            marks: Mutex::default(),
            states: SharedStates::default(),
        }))
    }

    /// The state of the room's log. If another program changed the log's stream, the stream is repaired first.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND` if the room was deleted meanwhile. `NATS_UNAVAILABLE` if only stale answers came.
    pub(crate) async fn state(&self, room: &Room) -> Result<RoomState> {
        self.fresh(room, || async {
            match streams::state_if_as_registered(&self.0.nats, room).await? {
                Some(state) => Ok(state),
                None => self.repaired(room).await,
            }
        })
        .await
    }

    /// As [`Self::state`]. Calls at the same time share requests; each gets an answer to a request that was sent after the
    /// call began.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub(crate) async fn shared_state(&self, room: &Room) -> Result<RoomState> {
        self.0.states.get(&room.stream, async || self.state(room).await).await
    }

    /// Configures the room's stream as the registry says.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub(crate) async fn ensure(&self, room: &Room) -> Result<RoomState> {
        self.fresh(room, || self.repaired(room)).await
    }

    /// Waits for a state in which `sequence` is stored, because the leader may apply a message later than another
    /// replica delivers it. Returns the newest state after [`POSITION_WAIT`].
    ///
    /// # Errors
    /// As [`Self::state`].
    pub(crate) async fn reaching(&self, room: &Room, sequence: u64, mut state: RoomState) -> Result<RoomState> {
        let give_up = Instant::now() + POSITION_WAIT;
        let mut delay = RETRY_DELAY_MIN;
        while is_replicated(room) && state.last_sequence < sequence && Instant::now() + delay < give_up {
            time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
            state = self.state(room).await?;
        }
        Ok(state)
    }

    /// The stored sequences of the log, as one server answered at one moment.
    ///
    /// # Errors
    /// As [`Self::state`].
    pub(in crate::store) async fn list(&self, room: &Room) -> Result<Listing> {
        let mut patience = Patience::new();
        loop {
            if let Some(listing) = streams::list(&self.0.nats, room).await?
                && self.is_fresh(room, &listing.state)
            {
                return Ok(listing);
            }
            patience.wait().await?;
        }
    }

    /// The mark of a replicated room. Any other log has one server, which answers for it.
    pub(in crate::store) fn mark(&self, room: &Room) -> Option<Arc<HighWaterMark>> {
        if !is_replicated(room) {
            return None;
        }
        let mut marks = lock(&self.0.marks);
        if marks.len() >= HIGH_WATER_MARKS_UNPRUNED && !marks.contains_key(&room.room_id) {
            marks.retain(|room, _| self.0.registry.known(room).is_some());
        }
        Some(Arc::clone(marks.entry(room.room_id.clone()).or_default()))
    }

    /// Removes the mark of a room that was deleted.
    pub(in crate::store) fn remove(&self, room: &RoomId) {
        lock(&self.0.marks).remove(room);
    }

    async fn repaired(&self, room: &Room) -> Result<RoomState> {
        let registered = self.0.registry.find_fresh(&room.room_id).await?;
        streams::ensure(&self.0.nats, &registered.room).await
    }

    /// Repeats the request until an answer is not stale.
    async fn fresh<F>(&self, room: &Room, ask: impl Fn() -> F) -> Result<RoomState>
    where
        F: Future<Output = Result<RoomState>>,
    {
        let mut patience = Patience::new();
        loop {
            let state = ask().await?;
            if self.is_fresh(room, &state) {
                self.0.registry.note(&room.room_id, &state);
                return Ok(state);
            }
            patience.wait().await?;
        }
    }

    fn is_fresh(&self, room: &Room, state: &RoomState) -> bool {
        let Some(mark) = self.mark(room) else { return true };
        match mark.freshness_of(state, Instant::now()) {
            Freshness::Fresh => true,
            Freshness::Stale => false,
            Freshness::RolledBack => {
                error!(
                    room = %room.room_id, last_sequence = state.last_sequence,
                    "NATS has lost messages of the room that it had acknowledged; check the storage of the NATS servers"
                );
                true
            }
        }
    }
}

/// Returns true if more than one server may answer for the room's log.
pub(in crate::store) fn is_replicated(room: &Room) -> bool {
    room.replicas > 1
}

/// Bounds how long a call repeats its request.
struct Patience {
    until: Instant,
    delay: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { until: Instant::now() + STALE_ANSWER_TIMEOUT, delay: RETRY_DELAY_MIN }
    }

    /// # Errors
    /// `NATS_UNAVAILABLE` when the time is over.
    async fn wait(&mut self) -> Result<()> {
        if Instant::now() + self.delay > self.until {
            return Err(behind());
        }
        time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(RETRY_DELAY_MAX);
        Ok(())
    }
}

/// The error if only stale answers came.
pub(in crate::store) fn behind() -> Error {
    unavailable().because("the servers that answered know less of the room's log than this instance")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(epoch: i64, last_sequence: u64) -> RoomState {
        RoomState { first_sequence: 1, last_sequence, messages: last_sequence, bytes: 0, epoch, oldest: epoch }
    }

    #[test]
    fn an_answer_that_knows_less_is_stale_and_one_of_a_newer_epoch_is_not() {
        let (mark, now) = (HighWaterMark::default(), Instant::now());
        mark.raise(0, 7);
        assert_eq!(mark.freshness_of(&state(5, 6), now), Freshness::Stale);
        assert_eq!(mark.freshness_of(&state(5, 7), now), Freshness::Fresh);
        mark.raise(5, 9);
        assert_eq!(mark.freshness_of(&state(5, 8), now), Freshness::Stale);
        assert_eq!(mark.freshness_of(&state(4, 100), now), Freshness::Stale);
        assert_eq!(mark.freshness_of(&state(6, 0), now), Freshness::Fresh);
        assert_eq!(mark.freshness_of(&state(5, 9), now), Freshness::Stale);
        // what was sent in the former epoch says nothing about this one
        mark.raise(5, 10);
        assert_eq!(mark.freshness_of(&state(6, 1), now), Freshness::Fresh);
    }

    #[test]
    fn what_only_stale_answers_contradict_for_long_was_lost() {
        let (mark, now) = (HighWaterMark::default(), Instant::now());
        mark.raise(5, 9);
        assert_eq!(mark.freshness_of(&state(5, 8), now), Freshness::Stale);
        assert_eq!(mark.freshness_of(&state(5, 8), now + ROLLED_BACK_AFTER / 2), Freshness::Stale);
        assert_eq!(mark.freshness_of(&state(5, 8), now + ROLLED_BACK_AFTER), Freshness::RolledBack);
        assert_eq!(mark.freshness_of(&state(5, 8), now + ROLLED_BACK_AFTER), Freshness::Fresh);
        // one fresh answer in between restarts the time
        mark.raise(5, 20);
        assert_eq!(mark.freshness_of(&state(5, 8), now), Freshness::Stale);
        assert_eq!(mark.freshness_of(&state(5, 20), now), Freshness::Fresh);
        assert_eq!(mark.freshness_of(&state(5, 8), now + ROLLED_BACK_AFTER), Freshness::Stale);
    }
}
