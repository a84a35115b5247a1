//! Subscribing: one loop that joins what is read, what the client has taken, and what ends a subscription.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_stream::stream;
use futures_util::Stream;
use tokio::{sync::Notify, time};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{Rooms, subscribers::Session};
use crate::{
    delivery::{LiveItem, LiveQueue, LogDelivery, Step},
    domain::{AckMode, Gap, GapReason, Message, PageRequest, Room, RoomId, RoomState, Start, SubscriberId},
    error::{Error, Reason, Result},
    limits::{HISTORY_LIMIT_MAX, HISTORY_PAGE_BYTES_MAX, SUBSCRIPTION_BYTES_MAX, SUBSCRIPTION_MESSAGES_MAX},
    store::{Arrival, Live, LiveEvent, PageLimits, Reader, Registered, Store, not_found},
};

/// How often a backlog that does not end is looked at: its last messages may have been deleted.
const BACKLOG_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What a subscriber asks for.
#[derive(Clone, Debug)]
pub(crate) struct SubscribeOptions {
    pub room_id: RoomId,
    /// Durable, if given.
    pub subscriber: Option<SubscriberId>,
    pub ack_mode: AckMode,
    pub start: Start,
    pub until_caught_up: bool,
}

/// One step of a subscription.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Opened { position: u64, first_sequence: u64, last_sequence: u64, heartbeat_interval: Duration, resumed: bool },
    Message(Message),
    CaughtUp { position: u64 },
    Heartbeat { position: u64 },
    Gap(Gap),
}

/// An open subscription. Dropping it ends it.
pub(crate) struct Subscription {
    pub room: Room,
    /// One life of the room's log; `None` in an ephemeral room.
    pub epoch: Option<i64>,
    /// To be told what the client's stream has taken, if the position moves by itself. The subscription closes when its
    /// holders and the frames are dropped.
    pub auto_acks: Option<Arc<Session>>,
    source: Source,
    session: Option<Arc<Session>>,
    registered: Arc<Registered>,
    heartbeat_interval: Duration,
    until_caught_up: bool,
    draining: CancellationToken,
    store: Store,
}

enum Source {
    Log { reader: Box<Reader>, state: RoomState, position: u64 },
    Live(LiveFeed),
}

/// Hears an ephemeral room for a reader that may be slow.
struct LiveFeed {
    shared: Arc<LiveShared>,
    _pump: AbortOnDropHandle<()>,
}

struct LiveShared {
    queue: Mutex<LiveQueue>,
    filled: Notify,
    closed: CancellationToken,
}

impl Rooms {
    /// Opens a subscription.
    ///
    /// # Errors
    /// As the contract lists them; nothing was changed.
    pub(crate) async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        if self.draining.is_cancelled() {
            return Err(draining(None));
        }
        let registered = self.store.registry.find(&options.room_id).await?;
        let (source, session, epoch) = if registered.room.persist {
            self.open_log(&registered, &options).await?
        } else {
            check_ephemeral(&options)?;
            (Source::Live(self.open_live(&registered.room).await?), None, None)
        };
        let session = session.map(Arc::new);
        let auto_acks = session.clone().filter(|_| options.ack_mode == AckMode::Auto);
        Ok(Subscription {
            room: registered.room.clone(),
            epoch,
            auto_acks,
            source,
            session,
            registered,
            heartbeat_interval: self.heartbeat_interval,
            until_caught_up: options.until_caught_up,
            draining: self.draining.clone(),
            store: self.store.clone(),
        })
    }

    /// Everything up to and including `sequence` is processed; answers with the position.
    ///
    /// # Errors
    /// `ROOM_NOT_FOUND`, `ROOM_NOT_PERSISTED`, `SUBSCRIBER_NOT_FOUND`, `POSITION_AFTER_END`.
    pub(crate) async fn acknowledge(&self, id: &RoomId, subscriber: &SubscriberId, sequence: u64) -> Result<u64> {
        let registered = self.persisted(id).await?;
        let state = self.store.log_state(&registered.room).await?;
        check_end("sequence", sequence, &state)?;
        self.subscribers.acknowledge(&registered.room, subscriber, sequence).await
    }

    async fn open_log(
        &self,
        registered: &Arc<Registered>,
        options: &SubscribeOptions,
    ) -> Result<(Source, Option<Session>, Option<i64>)> {
        let room = &registered.room;
        let state = self.store.log_state(room).await?;
        let start = || self.start_position(room, state, options.start.clone());
        let (session, position) = match &options.subscriber {
            Some(subscriber) => {
                let session = self.subscribers.open(registered, subscriber, start).await?;
                // messages may have been stored while the subscriber was bound
                let position = session.position;
                (Some(session), position)
            }
            None => (None, start().await?),
        };
        let state = if position > state.last_sequence { self.store.log_state(room).await? } else { state };
        let position = position.min(state.last_sequence);
        let reader = self.store.reader(room, state.epoch, position.max(state.first_sequence - 1));
        Ok((Source::Log { reader: Box::new(reader), state, position }, session, Some(state.epoch)))
    }

    async fn start_position(&self, room: &Room, state: RoomState, start: Start) -> Result<u64> {
        Ok(match start {
            Start::Default | Start::All => state.first_sequence - 1,
            Start::New => state.last_sequence,
            Start::AfterSequence(sequence) => {
                check_end("start.after_sequence", sequence, &state)?;
                sequence
            }
            Start::AfterCursor(cursor) => {
                let sequence = cursor.sequence_in("start.after_cursor", &room.room_id, state.epoch)?;
                check_end("start.after_cursor", sequence, &state)?;
                sequence
            }
            Start::Since(time) => match self.store.first_since(room, state, time).await? {
                Some(sequence) => sequence - 1,
                None => state.last_sequence,
            },
            Start::Last(count) => self.last_position(room, state, count).await?,
        })
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

    async fn open_live(&self, room: &Room) -> Result<LiveFeed> {
        let mut live: Live = self.store.live(room).await?;
        let shared = Arc::new(LiveShared {
            queue: Mutex::new(LiveQueue::new(SUBSCRIPTION_MESSAGES_MAX, SUBSCRIPTION_BYTES_MAX)),
            filled: Notify::new(),
            closed: CancellationToken::new(),
        });
        let pump = {
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    let event = live.next().await;
                    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
                    match event {
                        LiveEvent::Message(message) => queue.push(message),
                        LiveEvent::Reconnected => queue.disconnected(),
                        LiveEvent::Closed => break,
                    }
                    drop(queue);
                    shared.filled.notify_one();
                }
                shared.closed.cancel();
            }
        };
        Ok(LiveFeed { shared, _pump: AbortOnDropHandle::new(self.tasks.spawn(pump)) })
    }
}

impl Subscription {
    /// The frames: `Opened` first, messages in ascending order and each once. Ends with an error that carries the
    /// position, or without one after `CaughtUp` if that was asked for. A slow reader of a log loses nothing; one of an
    /// ephemeral room is told how much it lost.
    pub(crate) fn frames(self) -> impl Stream<Item = Result<Frame>> + Send {
        let Self { source, session, registered, heartbeat_interval, until_caught_up, draining, store, .. } = self;
        let ending = Ending { session, registered, draining };
        let resumed = ending.session.as_ref().is_some_and(|session| session.resumed);
        stream! {
            match source {
                Source::Log { reader, state, position } => {
                    let room = ending.registered.room.clone();
                    let mut log = LogFrames::new(reader, room, store, position, &state);
                    yield Ok(Frame::Opened {
                        position,
                        first_sequence: state.first_sequence,
                        last_sequence: state.last_sequence,
                        heartbeat_interval,
                        resumed,
                    });
                    loop {
                        for frame in std::mem::take(&mut log.ready) {
                            let last = until_caught_up && matches!(frame, Frame::CaughtUp { .. });
                            yield Ok(frame);
                            if last {
                                return;
                            }
                        }
                        let position = log.delivery.position();
                        // kept over heartbeats: a reader that is slow to begin is not begun again and again
                        let mut read = std::pin::pin!(log.read());
                        let read = loop {
                            tokio::select! {
                                biased;
                                error = ending.wait(Some(position)) => {
                                    yield Err(error);
                                    return;
                                }
                                read = &mut read => break read,
                                () = time::sleep(heartbeat_interval) => yield Ok(Frame::Heartbeat { position }),
                            }
                        };
                        if let Err(error) = read {
                            yield Err(ending.explain(error, position).await);
                            return;
                        }
                    }
                }
                Source::Live(feed) => {
                    yield Ok(Frame::Opened {
                        position: 0,
                        first_sequence: 0,
                        last_sequence: 0,
                        heartbeat_interval,
                        resumed,
                    });
                    yield Ok(Frame::CaughtUp { position: 0 });
                    if until_caught_up {
                        return;
                    }
                    loop {
                        while let Some(item) = feed.pop() {
                            yield Ok(live_frame(item));
                        }
                        tokio::select! {
                            biased;
                            error = ending.wait(None) => {
                                yield Err(error);
                                return;
                            }
                            () = feed.shared.closed.cancelled() => {
                                yield Err(unavailable());
                                return;
                            }
                            () = feed.shared.filled.notified() => {}
                            () = time::sleep(heartbeat_interval) => yield Ok(Frame::Heartbeat { position: 0 }),
                        }
                    }
                }
            }
        }
    }
}

/// Reads a log and turns what arrives into frames.
struct LogFrames {
    reader: Box<Reader>,
    room: Room,
    store: Store,
    delivery: LogDelivery,
    epoch: i64,
    ready: Vec<Frame>,
}

impl LogFrames {
    fn new(reader: Box<Reader>, room: Room, store: Store, position: u64, state: &RoomState) -> Self {
        let (delivery, steps) = LogDelivery::open(position, state, room.retention.expires());
        Self { reader, room, store, delivery, epoch: state.epoch, ready: frames(steps, None).collect() }
    }

    /// Returns when there are frames to send.
    async fn read(&mut self) -> Result<()> {
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

/// What ends a subscription from outside.
struct Ending {
    session: Option<Arc<Session>>,
    registered: Arc<Registered>,
    draining: CancellationToken,
}

impl Ending {
    async fn wait(&self, position: Option<u64>) -> Error {
        let superseded = async {
            match &self.session {
                Some(session) => session.superseded().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.registered.gone() => not_found(&self.registered.room.room_id),
            () = superseded => at(Error::new(
                Reason::TakenOver,
                "a newer subscription of this subscriber took over; what this one did not acknowledge comes again there",
            ), position),
            () = self.draining.cancelled() => draining(position),
        }
    }

    /// A log that is gone because the room was deleted is another thing than one that began anew.
    async fn explain(&self, error: Error, position: u64) -> Error {
        if error.reason() == Reason::RoomRecreated
            && time::timeout(Duration::from_millis(500), self.registered.gone()).await.is_ok()
        {
            return not_found(&self.registered.room.room_id);
        }
        at(error, Some(position))
    }
}

impl LiveFeed {
    fn pop(&self) -> Option<LiveItem> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

fn live_frame(item: LiveItem) -> Frame {
    let gap = |reason, dropped| Frame::Gap(Gap { from: 0, to: 0, reason, dropped });
    match item {
        LiveItem::Message(message) => Frame::Message(message),
        LiveItem::Dropped(count) => gap(GapReason::SlowReader, count),
        LiveItem::Disconnected => gap(GapReason::Disconnected, 0),
    }
}

fn check_ephemeral(options: &SubscribeOptions) -> Result<()> {
    if options.subscriber.is_none() && matches!(options.start, Start::Default | Start::New) {
        return Ok(());
    }
    Err(Error::new(
        Reason::RoomNotPersisted,
        "the room is ephemeral: leave subscriber empty, and start unset or `new`, or create the room with persist",
    ))
}

fn check_end(field: &str, sequence: u64, state: &RoomState) -> Result<()> {
    if sequence <= state.last_sequence {
        return Ok(());
    }
    Err(Error::new(
        Reason::PositionAfterEnd,
        format!("{field}: {sequence} lies after the room's last sequence, {}", state.last_sequence),
    )
    .with("last_sequence", state.last_sequence))
}

fn draining(position: Option<u64>) -> Error {
    at(
        Error::new(Reason::Draining, "this instance is stopping; subscribe again, on another instance or shortly"),
        position,
    )
}

fn unavailable() -> Error {
    Error::new(Reason::NatsUnavailable, "the NATS connection is closed; subscribe again")
}

/// An error that says where the subscription stood.
fn at(error: Error, position: Option<u64>) -> Error {
    match position {
        Some(position) => error.with("position", position),
        None => error,
    }
}
