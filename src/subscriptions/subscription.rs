//! An open subscription: one loop that handles read messages, heartbeats and endings.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use async_stream::stream;
use futures_util::Stream;
use tokio::time;

use super::{
    ending::{Ending, PolledWhenWoken, SubscriptionEnd, went_silent},
    frame::{Encode, Frame},
    log_batches::{LogBatch, LogBatches},
    pace::Pace,
    reads::{CallerReads, ReadCharge},
    subscribers::session::{Seek, SubscriberSession},
    upstream::Tap,
};
use crate::{
    delivery::{Batch, EphemeralDelivery, LogDelivery, Next, ReadFrom, Slice, Step},
    domain::{Cursor, RoomState},
    error::Result,
    store::Store,
};

/// How often an unfinished backlog is compared with the log. Its last messages may have been deleted.
const BACKLOG_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// The check interval doubles up to this.
const BACKLOG_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(4);

/// An open subscription. Dropping it ends it.
pub(crate) struct Subscription {
    /// Receives what the client's stream has taken, in `ACK_MODE_AUTO`. The subscription closes when all clones of
    /// the session and the frames are dropped.
    pub auto_acks: Option<Arc<SubscriberSession>>,
    pub(crate) resumed: bool,
    pub(crate) ending: Ending,
    pub(crate) source: SubscriptionSource,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) until_caught_up: bool,
}

/// The source of the messages.
pub(crate) enum SubscriptionSource {
    Log(Box<LogStart>),
    Ephemeral(Tap, CallerReads),
}

/// The start of a subscription to a persisted room.
pub(crate) struct LogStart {
    pub store: Arc<Store>,
    pub encode: Encode,
    pub tap: Tap,
    pub reads: CallerReads,
    pub state: RoomState,
    pub position: u64,
    /// The caller may not see messages up to this sequence.
    pub hidden: u64,
}

/// The frames of a subscription.
pub(crate) type Frames = Pin<Box<dyn Stream<Item = Result<Frame>> + Send>>;

impl Subscription {
    /// Returns the frames. `Opened` is first. Messages follow in ascending order, each once. The stream ends with an
    /// error that carries the position, or without an error after `CaughtUp` if `until_caught_up` is set. A slow
    /// reader of a persisted room loses no message. A slow reader of an ephemeral room gets a gap for the messages
    /// that it lost.
    pub(crate) fn frames(self) -> Frames {
        let Self { resumed, ending, source, heartbeat_interval, until_caught_up, .. } = self;
        let generation = ending.session.as_ref().map_or(0, |session| session.generation());
        let settings = FrameSettings { heartbeat_interval, until_caught_up, generation };
        match source {
            SubscriptionSource::Log(start) => Box::pin(log_frames(start, resumed, ending, settings)),
            SubscriptionSource::Ephemeral(tap, reads) => Box::pin(ephemeral_frames(tap, reads, ending, settings)),
        }
    }
}

/// Settings of the frames.
#[derive(Clone, Copy)]
struct FrameSettings {
    heartbeat_interval: Duration,
    until_caught_up: bool,
    generation: u64,
}

impl FrameSettings {
    /// `cursor` is the place of `position`, in a room that has a log.
    fn opened(self, position: u64, cursor: Option<Cursor>, state: &RoomState, hidden: u64, resumed: bool) -> Frame {
        Frame::Opened {
            position,
            first_sequence: if hidden == 0 { state.first_sequence } else { state.first_sequence.max(hidden + 1) },
            last_sequence: state.last_sequence,
            heartbeat_interval: self.heartbeat_interval,
            resumed,
            generation: self.generation,
            cursor,
        }
    }
}

/// The progress of one subscription in the log of its room.
struct LogProgress {
    start: LogStart,
    ending: Ending,
    delivery: LogDelivery,
    /// The steps to send next, and the batch that they deliver.
    steps: Vec<Step>,
    batch: Option<(Arc<Batch>, ReadCharge)>,
    /// Reads the log while the ring does not hold the next messages.
    behind: Option<Box<LogBatches>>,
}

impl LogProgress {
    fn open(start: LogStart, ending: Ending) -> Self {
        let (epoch, position) = (start.state.epoch, start.position);
        let expires = ending.registered.room.retention.expires();
        let removals = ending.registered.removals(epoch, position);
        let (delivery, steps) = LogDelivery::open(position, &start.state, expires, removals);
        Self { start, ending, delivery, steps, batch: None, behind: None }
    }

    /// Takes the frames that are ready.
    fn ready(&mut self) -> impl Iterator<Item = Frame> + use<> {
        frames(std::mem::take(&mut self.steps), self.batch.take())
    }

    /// Returns the ring's next batch if the ring holds the messages after the position. Returns the size in bytes of
    /// a batch that must be charged first. If the ring does not hold them, a reader of the log exists after this
    /// call.
    fn next_of_ring(&mut self) -> (Option<LogEvent>, Option<usize>) {
        let position = self.delivery.position();
        let next = {
            let ring = self.start.tap.ring();
            match self.delivery.source(&ring) {
                ReadFrom::Ring => Some(ring.next(position)),
                ReadFrom::Log => None,
            }
        };
        let LogStart { store, encode, reads, state, .. } = &self.start;
        if next.is_some() {
            self.behind = None;
        } else if self.behind.is_none() {
            let room = &self.ending.registered.room;
            let batches = LogBatches::new(store, room, (state.epoch, position), *encode, Some(reads.clone()));
            self.behind = Some(Box::new(batches));
        }
        charged(next, reads)
    }

    /// Waits for the messages after the position. With `uncharged_bytes`, waits until the caller may be charged
    /// that many bytes.
    fn arrive(&mut self, uncharged_bytes: Option<usize>) -> impl Future<Output = Result<LogEvent>> {
        let position = self.delivery.position();
        let LogStart { store, tap, reads, state, .. } = &mut self.start;
        let (store, ending, epoch) = (&**store, &self.ending, state.epoch);
        let backlog = (!self.delivery.is_caught_up()).then_some(Backlog { store, ending, epoch, position });
        let reads = &*reads;
        arrive(self.behind.as_deref_mut(), tap, backlog, uncharged_bytes.map(|bytes| reads.charge(bytes)))
    }

    /// Handles a batch that arrived, or the fact that the log holds no later message.
    fn arrived(&mut self, event: LogEvent) {
        let removals = self.ending.registered.removals(self.start.state.epoch, self.delivery.position());
        match event {
            LogEvent::Batch { batch, ends_log, charge } => {
                self.delivery.removed(removals);
                self.steps = self.delivery.arrive(batch.items(), ends_log);
                self.batch = Some((batch, charge));
            }
            LogEvent::NothingFollows(state) => {
                self.delivery.removed(removals);
                self.steps = self.delivery.nothing_follows(&state);
            }
            LogEvent::Changed | LogEvent::End(_) => {}
        }
    }

    /// Continues at the position of a seek. Returns the position and the state of the log.
    async fn seek(&mut self, seek: Seek) -> Result<(u64, RoomState)> {
        self.behind = None;
        let registered = &self.ending.registered;
        let state = self.start.store.log_state(&registered.room).await;
        let state = state.map_err(|error| went_silent(error).with("position", seek.position))?;
        let position = seek.position.max(self.start.hidden).min(state.last_sequence);
        self.ending.follow(seek);
        self.start.tap.ring().compare(&state);
        let expires = registered.room.retention.expires();
        let removals = registered.removals(self.start.state.epoch, position);
        (self.delivery, self.steps) = LogDelivery::open(position, &state, expires, removals);
        Ok((position, state))
    }
}

// rare work is boxed, because an idle subscription holds the memory of its largest await
fn log_frames(
    start: Box<LogStart>,
    resumed: bool,
    ending: Ending,
    settings: FrameSettings,
) -> impl Stream<Item = Result<Frame>> + Send {
    let FrameSettings { heartbeat_interval, until_caught_up, .. } = settings;
    stream! {
        let hidden = start.hidden;
        let room = &ending.registered.room.room_id;
        let cursor_of = |position, state: &RoomState| Some(Cursor::new(room, state.epoch, position));
        let cursor = cursor_of(start.position, &start.state);
        yield Ok(settings.opened(start.position, cursor, &start.state, hidden, resumed));
        let mut progress = Box::new(LogProgress::open(*start, ending.clone()));
        let mut end = PolledWhenWoken::new(ending.wait(0));
        let mut pace = Pace::new(heartbeat_interval);
        loop {
            for frame in progress.ready() {
                let last = until_caught_up && matches!(frame, Frame::CaughtUp { .. });
                yield Ok(frame);
                pace.sent();
                if last {
                    return;
                }
            }
            let position = progress.delivery.position();
            progress.start.tap.reached(position);
            let ended = pace.poll_sometimes(end.wait());
            let (from_ring, uncharged_bytes) = progress.next_of_ring();
            if let Some(LogEvent::Batch { batch, .. }) = &from_ring
                && progress.delivery.is_caught_up()
            {
                pace.sample(batch, progress.start.tap.metrics());
            }
            let event = match (ended, from_ring) {
                (Some(ended), _) => Ok(LogEvent::End(ended)),
                (None, Some(event)) => Ok(event),
                (None, None) => {
                    let mut arriving = pin!(progress.arrive(uncharged_bytes));
                    // kept over heartbeats, so that a reader that starts slowly is not restarted
                    loop {
                        tokio::select! {
                            biased;
                            ended = end.wait() => break Ok(LogEvent::End(ended)),
                            arrived = &mut arriving => break arrived,
                            () = pace.silent() => {
                                yield Ok(Frame::Heartbeat { position });
                                pace.sent();
                            }
                        }
                    }
                }
            };
            match event {
                Ok(LogEvent::End(SubscriptionEnd::Sought(seek))) => {
                    let mut seek = seek;
                    // each turn follows one seek, unless something ends the subscription meanwhile
                    let sought = 'seek: loop {
                        end = PolledWhenWoken::new(ending.wait(seek.number));
                        let mut seeking = Box::pin(progress.seek(seek));
                        loop {
                            tokio::select! {
                                biased;
                                ended = end.wait() => match ended {
                                    SubscriptionEnd::Sought(newer) => {
                                        seek = newer;
                                        continue 'seek;
                                    }
                                    ended => break 'seek Err(ended.at(seek.position)),
                                },
                                sought = &mut seeking => break 'seek sought,
                                () = pace.silent() => {
                                    yield Ok(Frame::Heartbeat { position });
                                    pace.sent();
                                }
                            }
                        }
                    };
                    match sought {
                        Ok((position, state)) => {
                            yield Ok(settings.opened(position, cursor_of(position, &state), &state, hidden, true));
                        }
                        Err(error) => {
                            yield Err(error);
                            return;
                        }
                    }
                }
                Ok(LogEvent::End(end)) => {
                    yield Err(end.at(position));
                    return;
                }
                Ok(event) => progress.arrived(event),
                Err(error) => {
                    yield Err(Box::pin(ending.explain(&error, position)).await);
                    return;
                }
            }
        }
    }
}

/// The ring's batch, if it can be charged to the caller now. Otherwise its size in bytes.
fn charged(next: Option<Next>, reads: &CallerReads) -> (Option<LogEvent>, Option<usize>) {
    let Some(Next::Batch(batch)) = next else { return (None, None) };
    match reads.try_charge(batch.size()) {
        Some(charge) => (Some(LogEvent::Batch { batch, ends_log: false, charge }), None),
        None => (None, Some(batch.size())),
    }
}

/// An event that a subscription to a persisted room waits for.
enum LogEvent {
    Batch {
        batch: Arc<Batch>,
        ends_log: bool,
        charge: ReadCharge,
    },
    /// The ring may hold new messages.
    Changed,
    /// The state of the log, which holds no message after the position.
    NothingFollows(RoomState),
    End(SubscriptionEnd),
}

/// A backlog that is not read to its end.
struct Backlog<'a> {
    store: &'a Store,
    ending: &'a Ending,
    epoch: i64,
    position: u64,
}

impl Backlog<'_> {
    /// The state of the log, if its epoch is the same and it holds no message after the position.
    async fn nothing_follows(&self) -> Option<RoomState> {
        let state = self.store.nothing_after(&self.ending.registered.room, self.position).await.ok()??;
        (state.epoch == self.epoch).then_some(state)
    }
}

/// Waits for the next event. With `charging`, waits only until the ring's batch may be charged to the caller.
async fn arrive(
    behind: Option<&mut LogBatches>,
    tap: &mut Tap,
    backlog: Option<Backlog<'_>>,
    charging: Option<impl Future<Output = ReadCharge>>,
) -> Result<LogEvent> {
    if let Some(charging) = charging {
        Box::pin(charging).await;
        return Ok(LogEvent::Changed);
    }
    let arriving = async {
        let Some(batches) = behind else {
            if let Some(error) = tap.end() {
                return Err(error.without_cause());
            }
            tap.changed().await;
            return Ok(LogEvent::Changed);
        };
        let LogBatch { batch, ends_log, charge } = Box::pin(batches.next()).await?;
        Ok(LogEvent::Batch { batch, ends_log, charge })
    };
    let Some(backlog) = backlog else { return arriving.await };
    let mut arriving = pin!(arriving);
    let mut interval = BACKLOG_CHECK_INTERVAL;
    loop {
        tokio::select! {
            arrived = &mut arriving => return arrived,
            () = time::sleep(interval) => interval = (interval * 2).min(BACKLOG_CHECK_INTERVAL_MAX),
        }
        if let Some(state) = Box::pin(backlog.nothing_follows()).await {
            return Ok(LogEvent::NothingFollows(state));
        }
    }
}

fn ephemeral_frames(
    mut tap: Tap,
    reads: CallerReads,
    ending: Ending,
    settings: FrameSettings,
) -> impl Stream<Item = Result<Frame>> + Send {
    let mut delivery = {
        let ring = tap.ring();
        EphemeralDelivery::open(ring.last(), ring.disconnections())
    };
    let FrameSettings { heartbeat_interval, until_caught_up, .. } = settings;
    stream! {
        yield Ok(settings.opened(0, None, &RoomState::default(), 0, false));
        yield Ok(Frame::CaughtUp { position: 0 });
        if until_caught_up {
            return;
        }
        let mut end = PolledWhenWoken::new(ending.wait(0));
        let mut pace = Pace::new(heartbeat_interval);
        loop {
            if let Some(end) = pace.poll_sometimes(end.wait()) {
                yield Err(end.into());
                return;
            }
            tap.reached(delivery.position());
            let next = tap.ring().next(delivery.position());
            let mut uncharged_bytes = None;
            let arrived = match next {
                Next::Batch(batch) => {
                    let charge = reads.try_charge(batch.size());
                    uncharged_bytes = charge.is_none().then(|| batch.size());
                    charge.map(|charge| (delivery.arrive(batch.items()), Some((batch, charge))))
                }
                Next::Lagged { after, disconnections } => Some((delivery.lagged(after, disconnections), None)),
                Next::Nothing => {
                    if let Some(error) = tap.end() {
                        yield Err(error.without_cause());
                        return;
                    }
                    None
                }
            };
            let Some((steps, batch)) = arrived else {
                // waits for new messages, or until the caller's other clients take batches that are charged to it
                tokio::select! {
                    biased;
                    end = end.wait() => {
                        yield Err(end.into());
                        return;
                    }
                    _ = reads.charge(uncharged_bytes.unwrap_or_default()), if uncharged_bytes.is_some() => {}
                    () = tap.changed(), if uncharged_bytes.is_none() => {}
                    () = pace.silent() => {
                        yield Ok(Frame::Heartbeat { position: 0 });
                        pace.sent();
                    }
                }
                continue;
            };
            for frame in frames(steps, batch) {
                yield Ok(frame);
                pace.sent();
            }
        }
    }
}

/// The frames of `steps`. Their messages are in `batch`. The charge of `batch` lasts until all frames are sent.
fn frames(steps: Vec<Step>, batch: Option<(Arc<Batch>, ReadCharge)>) -> impl Iterator<Item = Frame> {
    steps.into_iter().filter_map(move |step| match step {
        Step::Deliver(range) => batch.as_ref().map(|(batch, _)| Frame::Messages(Slice::new(batch, range))),
        Step::Gap(gap) => Some(Frame::Gap(gap)),
        Step::CaughtUp(position) => Some(Frame::CaughtUp { position }),
    })
}
