//! Reads a room's log from a position on.
//!
//! An ephemeral consumer without acknowledgements delivers the messages. After any doubt (a missed heartbeat, a
//! reconnection, a jump in the consumer's count) the reader drops the consumer and creates another at the next
//! sequence. So no message is lost or doubled.
//!
//! A consumer may fail because of the next message, if the NATS client cannot parse it, or because of its replica, if
//! it lags. So after each failure the reader requests the next message from the leader, and more messages while that
//! helps.

mod source;

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use async_nats::jetstream;
use tokio::time;
use tokio_util::task::TaskTracker;
use tracing::debug;

use self::source::LogConsumer;
use super::{
    backlogs::BacklogTurns,
    high_water_marks::{HighWaterMark, HighWaterMarks},
    message::StoredMessage,
    raw::{self, Raw, Wanted},
};
use crate::{
    domain::{Message, Room, RoomState},
    error::{Error, Reason, Result},
    nats::Nats,
    store::signatures::{Attribution, Signatures, seal::Seal},
};

/// How long NATS may be unavailable before a reader gives up.
const OUTAGE_MAX: Duration = Duration::from_secs(30);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);
/// How long a consumer may deliver nothing although later messages are known to be stored.
const STALL_MAX: Duration = Duration::from_secs(2);
/// Number of messages to read one by one after an unparsable message. It doubles with each further one, up to
/// [`SINGLE_MAX`].
const SINGLE_MIN: u32 = 32;
const SINGLE_MAX: u32 = 4096;
/// Number of messages to read one by one if the consumer's replica lags.
const SINGLE_BEHIND: u32 = 256;
/// How long the log's state is cached while messages are read one by one.
const STATE_KNOWN_FOR: Duration = Duration::from_secs(1);

/// A message, the number of messages stored after it, and the end of its own lifetime.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub message: Message,
    pub pending: u64,
    pub expires_at: Option<SystemTime>,
}

/// A reader of a room's log. Dropping it ends the read.
#[derive(Debug)]
pub(crate) struct LogReader {
    nats: Nats,
    marks: HighWaterMarks,
    mark: Option<Arc<HighWaterMark>>,
    signatures: Signatures,
    tasks: TaskTracker,
    /// Present for a reader of a backlog.
    turns: Option<BacklogTurns>,
    room: Room,
    epoch: i64,
    /// The next sequence to read.
    next: u64,
    source: Option<LogConsumer>,
    /// A message that was read from the leader and not taken yet.
    singled: Option<Box<Raw>>,
    /// A message that waits until its sender is known.
    held: Option<(Arrival, Seal)>,
    /// The time since which reading has failed.
    down_since: Option<time::Instant>,
    /// Number of messages still to read one by one.
    single: u32,
    /// The value of `single` after the last unparsable message.
    single_before: u32,
    /// The time of the last read of the log's state, and the state.
    looked: Option<(time::Instant, RoomState)>,
}

/// How the reader continues.
enum Continuation {
    Single(Box<Raw>),
    Reading(Box<LogConsumer>),
}

impl LogReader {
    /// Reads the messages after `position` in the log with this `epoch`.
    pub(in crate::store) fn new(
        nats: &Nats,
        marks: &HighWaterMarks,
        signatures: &Signatures,
        tasks: &TaskTracker,
        turns: Option<BacklogTurns>,
        room: &Room,
        (epoch, position): (i64, u64),
    ) -> Self {
        Self {
            nats: nats.clone(),
            marks: marks.clone(),
            mark: marks.mark(room),
            signatures: signatures.clone(),
            tasks: tasks.clone(),
            turns,
            room: room.clone(),
            epoch,
            next: position + 1,
            source: None,
            singled: None,
            held: None,
            down_since: None,
            single: 0,
            single_before: 0,
            looked: None,
        }
    }

    /// Waits for the next message. Messages arrive in ascending order, each once.
    ///
    /// # Errors
    /// `ROOM_RECREATED` if the log is missing or has another epoch. `NATS_UNAVAILABLE` if NATS was unavailable for
    /// [`OUTAGE_MAX`].
    ///
    /// # Cancel safety
    /// May be dropped at any point without losing a message.
    pub(crate) async fn next(&mut self) -> Result<Arrival> {
        loop {
            self.ready().await?;
            if let Some(arrival) = self.take_next().await {
                return Ok(arrival);
            }
        }
    }

    /// Waits until there is a message to take, or the reader must act.
    ///
    /// # Errors
    /// As [`Self::next`].
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        loop {
            if self.held.is_some() || self.singled.is_some() {
                return Ok(());
            }
            let Some(source) = &mut self.source else {
                // boxed, because an idle reader waits below and would hold the space of this future
                match Box::pin(self.begin()).await? {
                    Continuation::Reading(source) => self.source = Some(*source),
                    Continuation::Single(raw) => self.singled = Some(raw),
                }
                continue;
            };
            if source.messages.is_over() {
                self.source = None;
                continue;
            }
            if source.is_cut {
                return Ok(());
            }
            tokio::select! {
                biased;
                _ = source.connections.changed() => source.is_cut = true,
                () = poll_fn(|cx| source.messages.poll_ready(cx)) => return Ok(()),
                () = time::sleep(STALL_MAX), if self.mark.is_some() => {
                    if self.mark.as_ref().is_some_and(|mark| mark.is_beyond(self.epoch, self.next)) {
                        debug!(room = %self.room.room_id, next = self.next, "the replica that is read lags behind; another one is read");
                        self.single = SINGLE_BEHIND;
                        self.source = None;
                    }
                }
            }
        }
    }

    /// Gives the turn to other readers, and drops the messages that were read ahead.
    pub(crate) fn pause(&mut self) {
        self.source = None;
    }

    /// Takes the message that is ready, if there is one.
    async fn take_next(&mut self) -> Option<Arrival> {
        if let Some(arrival) = self.release().await {
            return Some(arrival);
        }
        if let Some(raw) = self.singled.take() {
            return self.take_single(*raw);
        }
        match self.source.as_ref()?.messages.take() {
            Poll::Ready(Some(Ok(message))) => return self.take(message),
            Poll::Ready(Some(Err(error))) => {
                debug!(room = %self.room.room_id, %error, "a reader begins again");
                self.fail();
            }
            // the turn was taken away
            Poll::Ready(None) | Poll::Pending
                if self.source.as_ref().is_some_and(|source| source.messages.is_over()) =>
            {
                self.source = None;
            }
            Poll::Ready(None) | Poll::Pending => self.fail(),
        }
        None
    }

    /// Takes the next message if it has arrived. Leaves everything else to [`Self::next`].
    pub(crate) fn take_ready(&mut self) -> Option<Arrival> {
        while self.held.is_none() && self.singled.is_none() {
            let source = self.source.as_mut()?;
            if source.is_cut || source.messages.is_over() || source.connections.has_changed().unwrap_or(true) {
                return None;
            }
            let Poll::Ready(Some(delivered)) = source.messages.take() else { return None };
            match delivered {
                Ok(message) => {
                    if let Some(arrival) = self.take(message) {
                        return Some(arrival);
                    }
                }
                Err(error) => {
                    debug!(room = %self.room.room_id, %error, "a reader begins again");
                    self.fail();
                }
            }
        }
        None
    }

    /// Waits until the sender of the held message is known, and takes the message.
    async fn release(&mut self) -> Option<Arrival> {
        let (arrival, seal) = self.held.as_mut()?;
        Box::pin(self.signatures.attribute_surely(&self.room, &mut arrival.message, seal)).await;
        self.held.take().map(|(arrival, _)| arrival)
    }

    /// Drops the source, and reads the next message from the leader.
    fn fail(&mut self) {
        self.source = None;
        self.single = self.single.max(1);
    }

    /// Checks the delivery against the consumer's own count. A jump in the count means a lost message.
    fn take(&mut self, message: jetstream::Message) -> Option<Arrival> {
        let source = self.source.as_mut()?;
        let (sequence, delivery, pending, published) = match message.info() {
            Ok(info) => (info.stream_sequence, info.consumer_sequence, info.pending, info.published),
            Err(error) => {
                debug!(%error, "JetStream delivered a message without its information; the reader starts again");
                self.fail();
                return None;
            }
        };
        if delivery != source.delivery {
            self.fail();
            return None;
        }
        source.delivery += 1;
        if sequence < self.next {
            return None;
        }
        let delivered = message.message;
        let stored = StoredMessage::new(sequence, published.into(), delivered.headers.as_ref(), delivered.payload);
        self.arrived(stored, pending)
    }

    /// Handles a message that was read from the leader.
    fn take_single(&mut self, Raw { stored, is_parsable }: Raw) -> Option<Arrival> {
        self.single = self.single.saturating_sub(1);
        if !is_parsable {
            self.single_before = (self.single_before * 2).clamp(SINGLE_MIN, SINGLE_MAX);
            self.single = self.single_before;
        }
        let last = self.looked.map_or(0, |(_, state)| state.last_sequence);
        let pending = last.saturating_sub(stored.message.sequence);
        self.arrived(stored, pending)
    }

    fn arrived(
        &mut self,
        StoredMessage { mut message, seal, expires_at, .. }: StoredMessage,
        pending: u64,
    ) -> Option<Arrival> {
        self.next = message.sequence + 1;
        if let Some(mark) = &self.mark {
            mark.raise(self.epoch, message.sequence);
        }
        if let Some(seal) = seal
            && self.signatures.attribute(&self.room, &mut message, &seal) == Attribution::UnknownKey
        {
            self.held = Some((Arrival { message, pending, expires_at }, seal));
            return None;
        }
        Some(Arrival { message, pending, expires_at })
    }

    /// Starts or continues to read. Repeats after failures.
    async fn begin(&mut self) -> Result<Continuation> {
        let give_up = *self.down_since.get_or_insert_with(time::Instant::now) + OUTAGE_MAX;
        let mut delay = Duration::from_millis(10);
        loop {
            let error = match self.try_begin().await {
                Ok(begun) => {
                    self.down_since = None;
                    return Ok(begun);
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => error,
            };
            self.looked = None;
            if time::Instant::now() + delay > give_up {
                return Err(error);
            }
            debug!(room = %self.room.room_id, %error, "a reader of the room cannot start yet, trying again");
            time::sleep(delay).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }

    async fn try_begin(&mut self) -> Result<Continuation> {
        let is_known = self.looked.is_some_and(|(at, _)| self.single > 0 && at.elapsed() < STATE_KNOWN_FOR);
        if !is_known {
            let state = self.marks.state(&self.room).await?;
            if state.epoch != self.epoch || state.last_sequence + 1 < self.next {
                return Err(recreated());
            }
            self.looked = Some((time::Instant::now(), state));
        }
        if self.single > 0 {
            if let Some(raw) = raw::get(&self.nats, &self.room, Wanted::From(self.next)).await? {
                return Ok(Continuation::Single(Box::new(raw)));
            }
            self.single = 0;
        }
        let source =
            Box::pin(LogConsumer::open(&self.nats, &self.tasks, self.turns.as_ref(), &self.room, self.next)).await?;
        Ok(Continuation::Reading(Box::new(source)))
    }
}

/// Returns true if trying again does not help. An `INTERNAL` refusal may come from a setting that another program has
/// just changed, and the next read of the log's state repairs the setting.
fn is_final(error: &Error) -> bool {
    !matches!(error.reason(), Reason::NatsUnavailable | Reason::Timeout | Reason::Internal)
}

fn recreated() -> Error {
    Error::new(
        Reason::RoomRecreated,
        "the log of the room was deleted and created again, so earlier positions are invalid; subscribe again",
    )
}
