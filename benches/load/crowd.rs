//! Many subscribers of one room, and publishers that follow their pace.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::{self, consumer::AckPolicy, consumer::pull};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::uri::PathAndQuery;
use tokio::{sync::Notify, task::JoinSet, time};
use tonic::{Request, client::Grpc, transport::Channel};
use unibus::v1::{AckMode, Start, SubscribeRequest, start::At};

use crate::{
    measure::{PATIENCE, Turn, within},
    native,
    pace::{self, Times},
    wire::{Counting, Frame},
};

/// No more subscriptions than this are being opened at a time, unless a row says otherwise.
pub(crate) const OPENING: usize = 64;

/// The received messages of each subscriber.
#[derive(Debug)]
pub(crate) struct Arrivals {
    counts: Vec<Count>,
    /// Open subscriptions.
    ready: AtomicU64,
    /// Total of messages at which the time is recorded; 0: no time is recorded.
    goal: AtomicU64,
    total: AtomicU64,
    reached: Mutex<Option<Instant>>,
    changed: Notify,
    failed: Mutex<Option<String>>,
    /// Whether an open loop is running.
    is_paced: AtomicBool,
    paced: RwLock<Option<Arc<Paced>>>,
}

/// The messages of an open loop.
#[derive(Debug)]
struct Paced {
    /// The number of messages that each subscriber had before.
    before: Vec<u64>,
    messages: Vec<Awaited>,
}

/// A message on its way to all subscribers.
#[derive(Debug)]
struct Awaited {
    /// The number of subscribers that lack the message.
    lacking: AtomicU64,
    /// When the last subscriber had it.
    reached: OnceLock<Instant>,
}

/// On a cache line of its own: each is counted up by another task.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Count(AtomicU64);

impl Arrivals {
    fn new(subscribers: usize) -> Arc<Self> {
        Arc::new(Self {
            counts: (0..subscribers).map(|_| Count::default()).collect(),
            ready: AtomicU64::new(0),
            goal: AtomicU64::new(0),
            total: AtomicU64::new(0),
            reached: Mutex::default(),
            changed: Notify::new(),
            failed: Mutex::default(),
            is_paced: AtomicBool::new(false),
            paced: RwLock::default(),
        })
    }

    fn arrived(&self, subscriber: usize) {
        let Some(count) = self.counts.get(subscriber) else { return };
        let earlier = count.0.fetch_add(1, Relaxed);
        if self.is_paced.load(Relaxed)
            && let Ok(paced) = self.paced.read()
            && let Some(paced) = &*paced
        {
            paced.arrived(subscriber, earlier);
        }
        let goal = self.goal.load(Relaxed);
        if goal > 0 && self.total.fetch_add(1, Relaxed) + 1 == goal {
            if let Ok(mut reached) = self.reached.lock() {
                *reached = Some(Instant::now());
            }
            self.changed.notify_one();
        }
    }

    fn fail(&self, why: String) {
        if let Ok(mut failed) = self.failed.lock() {
            failed.get_or_insert(why);
        }
        self.changed.notify_one();
    }

    fn check(&self) -> Result<()> {
        match self.failed.lock().ok().and_then(|failed| failed.clone()) {
            Some(why) => bail!("a subscriber failed: {why}"),
            None => Ok(()),
        }
    }

    fn count(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.0.load(Relaxed)).collect()
    }

    /// How many messages the slowest subscriber has since `before`.
    fn slowest(&self, before: &[u64]) -> u64 {
        let now = self.counts.iter().map(|count| count.0.load(Relaxed));
        now.zip(before).map(|(now, before)| now - before).min().unwrap_or(0)
    }
}

impl Paced {
    fn new(before: Vec<u64>, messages: usize) -> Arc<Self> {
        let size = before.len() as u64;
        let awaited = || Awaited { lacking: AtomicU64::new(size), reached: OnceLock::new() };
        Arc::new(Self { before, messages: std::iter::repeat_with(awaited).take(messages).collect() })
    }

    /// Messages come in order, so their number tells which one it is.
    fn arrived(&self, subscriber: usize, earlier: u64) {
        let number = self.before.get(subscriber).map(|before| earlier - before);
        if let Some(message) = number.and_then(|number| self.messages.get(number as usize))
            && message.lacking.fetch_sub(1, Relaxed) == 1
        {
            // set once: only one subscriber is the last
            let _ = message.reached.set(Instant::now());
        }
    }
}

/// How subscriptions of a crowd are opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    /// Each subscription is a durable subscriber with `ACK_MODE_AUTO`, with this and its number as the name.
    pub names: Option<&'a str>,
    /// No more than this are being opened at a time.
    pub at_a_time: usize,
}

/// Subscribers, each in its own task. Dropping the crowd ends them.
pub(crate) struct Crowd {
    arrivals: Arc<Arrivals>,
    /// Each message comes once: a second copy is an error.
    exactly_once: bool,
    _tasks: JoinSet<()>,
}

impl Crowd {
    /// Opens `size` subscriptions to the new messages of a room, spread over `channels`, and waits until all are open.
    /// The channels lead to the service or to the bare server. With `named`, each subscription is a durable subscriber
    /// with `ACK_MODE_AUTO`.
    pub(crate) async fn open(channels: &[Channel], room: &str, size: usize, named: bool) -> Result<Self> {
        let rooms = vec![room.to_owned(); size];
        Self::open_in(channels, &rooms, named).await
    }

    /// Like [`open`](Self::open), with a room for each subscription.
    pub(crate) async fn open_in(channels: &[Channel], rooms: &[String], named: bool) -> Result<Self> {
        let opening = Opening { names: named.then_some("subscriber-"), at_a_time: OPENING };
        Self::open_as(channels, rooms, opening).await
    }

    /// Like [`open_in`](Self::open_in), with these names.
    pub(crate) async fn open_as(channels: &[Channel], rooms: &[String], opening: Opening<'_>) -> Result<Self> {
        let arrivals = Arrivals::new(rooms.len());
        let mut tasks = JoinSet::new();
        for (number, (room, channel)) in rooms.iter().zip(channels.iter().cycle()).enumerate() {
            let request = SubscribeRequest {
                room_id: room.clone(),
                subscriber: opening.names.map(|prefix| format!("{prefix}{number}")).unwrap_or_default(),
                ack_mode: AckMode::Auto.into(),
                start: Some(Start { at: Some(At::New(())) }),
                ..SubscribeRequest::default()
            };
            tasks.spawn(subscribe(channel.clone(), request, number, Arc::clone(&arrivals)));
            arrivals.stand((number + 1).saturating_sub(opening.at_a_time) as u64).await?;
        }
        arrivals.stand(rooms.len() as u64).await?;
        Ok(Self { arrivals, exactly_once: true, _tasks: tasks })
    }

    /// Gives each of `size` subscribers a file-backed durable pull consumer with explicit acks on this stream. Pulls
    /// and acknowledges over `connections`.
    pub(crate) async fn pull(connections: &[jetstream::Context], stream: &str, size: usize) -> Result<Self> {
        Self::pull_as(connections, stream, size, 16).await
    }

    /// Like [`pull`](Self::pull), with this many consumers being created at a time.
    pub(crate) async fn pull_as(
        connections: &[jetstream::Context],
        stream: &str,
        size: usize,
        at_a_time: usize,
    ) -> Result<Self> {
        let arrivals = Arrivals::new(size);
        let opened = stream::iter((0..size).zip(connections.iter().cycle().cloned())).map(|(number, context)| {
            let (arrivals, stream) = (Arc::clone(&arrivals), stream.to_owned());
            async move {
                let config = pull::Config {
                    durable_name: Some(format!("subscriber_{number}")),
                    ack_policy: AckPolicy::Explicit,
                    ..pull::Config::default()
                };
                let consumer = context.get_stream_no_info(stream).await?.create_consumer(config).await?;
                anyhow::Ok(acknowledge(consumer.messages().await?, number, arrivals))
            }
        });
        let opened: Vec<_> = opened.buffer_unordered(at_a_time).try_collect().await?;
        let mut tasks = JoinSet::new();
        for puller in opened {
            tasks.spawn(puller);
        }
        Ok(Self { arrivals, exactly_once: false, _tasks: tasks })
    }

    /// Subscribes to a subject with core NATS, on each of these connections.
    pub(crate) async fn core(connections: &[jetstream::Context], subject: &str) -> Result<Self> {
        let arrivals = Arrivals::new(connections.len());
        let mut tasks = JoinSet::new();
        for (number, context) in connections.iter().enumerate() {
            let client = context.client();
            let mut messages = client.subscribe(subject.to_owned()).await?;
            native::settled(&client).await;
            let arrivals = Arc::clone(&arrivals);
            tasks.spawn(async move {
                while messages.next().await.is_some() {
                    arrivals.arrived(number);
                }
                arrivals.fail("a connection is gone".to_owned());
            });
        }
        Ok(Self { arrivals, exactly_once: true, _tasks: tasks })
    }

    /// The number of messages that each subscriber has received so far.
    pub(crate) fn count(&self) -> Vec<u64> {
        self.arrivals.count()
    }

    /// Waits until each subscriber has received `count` messages since `before`.
    pub(crate) async fn received(&self, before: &[u64], count: u64) -> Result<()> {
        let all = async {
            while self.arrivals.slowest(before) < count {
                self.arrivals.check()?;
                time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        within(PATIENCE / 2, "the last messages", all).await
    }

    pub(crate) fn len(&self) -> usize {
        self.arrivals.counts.len()
    }

    /// Publishes for `duration`, while fewer than `window` messages lack a subscriber. Then waits until every
    /// subscriber has every message. Returns the number of messages. `publish` publishes a given number of messages.
    pub(crate) async fn feed<F>(&self, duration: Duration, window: u64, publish: impl Fn(u64) -> F) -> Result<u64>
    where
        F: Future<Output = Result<()>>,
    {
        let before = self.arrivals.count();
        let started = Instant::now();
        let mut progress = (0, started);
        let mut published = 0;
        loop {
            let slowest = self.arrivals.slowest(&before);
            ensure!(slowest <= published, "{slowest} messages arrived of {published} that were published");
            if slowest > progress.0 {
                progress = (slowest, Instant::now());
            } else if progress.1.elapsed() > PATIENCE / 2 {
                bail!("nothing arrives: the slowest subscriber has {slowest} of {published}");
            }
            self.arrivals.check()?;
            let more = window.saturating_sub(published - slowest);
            if started.elapsed() >= duration {
                if slowest == published {
                    let doubled =
                        self.arrivals.count().iter().zip(&before).any(|(now, before)| now - before > published);
                    ensure!(!(doubled && self.exactly_once), "a message came twice");
                    return Ok(published);
                }
            } else if more >= window.div_ceil(4) {
                publish(more).await?;
                published += more;
                continue;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Publishes one message after the other with `pause` between them. Each waits until the one before has reached
    /// every subscriber. Returns how long each message took to reach the last subscriber. Ends after `count` messages,
    /// or after twice the time that they need at this pace.
    pub(crate) async fn one_by_one<F>(
        &self,
        count: usize,
        pause: Duration,
        publish: impl Fn(u64) -> F,
    ) -> Result<Vec<Duration>>
    where
        F: Future<Output = Result<()>>,
    {
        let mut times = Vec::with_capacity(count);
        let mut pace = time::interval(pause);
        pace.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let end = Instant::now() + pause * u32::try_from(count)? * 2;
        while times.len() < count && (times.is_empty() || Instant::now() < end) {
            pace.tick().await;
            let arrivals = &self.arrivals;
            arrivals.total.store(0, Relaxed);
            arrivals.goal.store(self.len() as u64, Relaxed);
            let started = Instant::now();
            publish(1).await?;
            times.push(within(PATIENCE / 2, "a message to the last", arrivals.last()).await? - started);
            arrivals.goal.store(0, Relaxed);
        }
        Ok(times)
    }

    /// Publishes `per_second` messages a second for `duration`, whether or not earlier ones have arrived. The turn has
    /// the time of each message from the moment at which it was due until it has reached the last subscriber.
    pub(crate) async fn at_rate<F>(
        &self,
        per_second: u32,
        duration: Duration,
        publish: impl Fn(u64) -> F + Send + 'static,
    ) -> Result<Turn>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let before = self.count();
        let most = (duration.as_secs_f64() * f64::from(per_second)).ceil() as usize;
        let paced = Paced::new(before.clone(), most);
        self.arrivals.pace(Some(Arc::clone(&paced)));
        let times = pace::paced(per_second, duration, publish).await?;
        self.received(&before, times.len() as u64).await?;
        self.arrivals.pace(None);
        let reached = paced.messages.iter().filter_map(|message| message.reached.get().copied());
        let times: Times = times.into_iter().zip(reached).map(|((due, _), reached)| (due, reached)).collect();
        ensure!(times.len() == most, "a message that did not reach all");
        let mut turn = pace::turn(&times)?;
        turn.messages *= self.len() as u64;
        Ok(turn)
    }
}

impl Arrivals {
    fn pace(&self, messages: Option<Arc<Paced>>) {
        self.is_paced.store(messages.is_some(), Relaxed);
        if let Ok(mut paced) = self.paced.write() {
            *paced = messages;
        }
    }

    async fn stand(&self, count: u64) -> Result<()> {
        let all = async {
            while self.ready.load(Relaxed) < count {
                self.check()?;
                time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        within(PATIENCE * 2, "opening subscriptions", all).await
    }

    async fn last(&self) -> Result<Instant> {
        loop {
            if let Some(reached) = self.reached.lock().ok().and_then(|mut reached| reached.take()) {
                return Ok(reached);
            }
            self.check()?;
            self.changed.notified().await;
        }
    }
}

async fn subscribe(channel: Channel, request: SubscribeRequest, number: usize, arrivals: Arc<Arrivals>) {
    let path = PathAndQuery::from_static("/unibus.v1.RoomService/Subscribe");
    let mut client = Grpc::new(channel);
    let subscribed = async {
        client.ready().await?;
        let mut frames = client.server_streaming(Request::new(request), path, Counting).await?.into_inner();
        while let Some(frame) = frames.message().await? {
            match frame {
                Frame::Message => arrivals.arrived(number),
                Frame::CaughtUp => drop(arrivals.ready.fetch_add(1, Relaxed)),
                Frame::Gap => bail!("a gap"),
                Frame::Other => {}
            }
        }
        bail!("the subscription ended")
    };
    let Err(why): Result<Infallible> = subscribed.await;
    arrivals.fail(format!("{why:#}"));
}

async fn acknowledge(mut messages: pull::Stream, number: usize, arrivals: Arc<Arrivals>) {
    while let Some(message) = messages.next().await {
        let taken =
            async { message.context("a delivery")?.ack().await.map_err(|error| anyhow::anyhow!("an ack: {error}")) };
        match taken.await {
            Ok(()) => arrivals.arrived(number),
            Err(why) => return arrivals.fail(format!("{why:#}")),
        }
    }
    arrivals.fail("the deliveries ended".to_owned());
}
