//! Live fan-out in one room, and the time in which one live message reaches the last subscriber. Messages have 256 B.
//! nats-server syncs at its default interval, so that the rows measure fan-out and not syncing.
//!
//! Ours: durable subscribers with `ACK_MODE_AUTO`, and in a room of their own subscriptions without a name. The load
//! generator publishes to the room's subject with core NATS.
//!
//! Baselines:
//! - (a) The bare tonic server broadcasts pre-encoded frames, which are as long as those of the service. A small call
//!   starts a broadcast.
//! - (b) NATS alone: a stream of the same kind. Each subscriber has a file-backed durable pull consumer with explicit
//!   acks, pulled with async-nats.
//! - To show the part of NATS in the difference to (a): another bare server follows a stream's subject with a core
//!   subscription, encodes each message once, and broadcasts it.
//!
//! Fan-out is a closed loop: messages are published while the slowest subscriber lacks fewer messages than the window.
//! A turn ends when the stream and every subscriber have every message. The subscribers of the service and of the bare
//! server use the same code, which counts frames and does not decode them, over the same number of connections.
//!
//! The rows of one message are closed loops: the next message is published when the one before has reached every subscriber, at most
//! 20 per second. A turn lasts at most as long as a hundred messages take at twice that pause.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::jetstream;
use bytes::Bytes;
use http::uri::PathAndQuery;
use std::sync::Arc;
use tonic::{Request, client::Grpc, transport::Channel};

use crate::{
    client::{self, PAYLOAD_BYTES},
    crowd::Crowd,
    measure::{Measured, Scale, Side, Turn, in_turns},
    native,
    processes::{Baseline, Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
    wire::{self, Ready},
};

const ROOM: &str = "live";
const UNNAMED: &str = "unnamed";
const STREAM: &str = "DURABLES";
const DURABLES: &str = "durables";
const FEED: &str = "feed";
const CONNECTIONS: usize = 4;

const BARE: &str = "(a) bare tonic broadcast";
const PULLED: &str = "(b) a pulled durable each";
const FED: &str = "(a) fed by NATS";

/// Deliveries per second, and CPU.
pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let scale = scale.rounds(3);
    let mut outcome = Outcome::default();
    for size in scale.pick([10, 100, 1000], [10, 50, 100]) {
        let crowds = Crowds::gather(size).await?;
        let [ours, unnamed, bare, pulled, fed] = in_turns(&scale, crowds.looped(scale.turn)).await?;
        let claim = format!("live fan-out to {size}");
        outcome.spent(&claim, &[&ours, &unnamed, &bare, &pulled, &fed]);
        let least = Reach::AtLeast(if size <= 10 { 0.8 } else { 0.95 });
        let beside = |what, side: &Measured| {
            anyhow::Ok(Line::new(&claim, Unit::PerSecond, ours.figure("rate")?, (what, side.figure("rate")?)))
        };
        outcome.lines.push(beside(BARE, &bare)?.reach(Reach::AtLeast(0.8)));
        outcome.lines.push(beside(FED, &fed)?.reach(least));
        let (claim_unnamed, beside_unnamed) = (format!("{claim} without a name"), (FED, fed.figure("rate")?));
        let line = Line::new(claim_unnamed, Unit::PerSecond, unnamed.figure("rate")?, beside_unnamed);
        outcome.lines.push(line.reach(least));
        let line = beside(PULLED, &pulled)?;
        outcome.lines.push(if size == 1000 { line.reach(Reach::AtLeast(10.0)) } else { line });
        let cost = format!("{claim}, CPU of service and NATS for a million");
        let (ours, beside) = (ours.cpu_of(&["service", "nats"])?, (PULLED, pulled.cpu_of(&["nats"])?));
        let whole = Line::new(cost, Unit::CpuSeconds, ours, beside);
        outcome.lines.push(if size == 1000 { whole.reach(Reach::AtMost(0.1)) } else { whole });
    }
    for size in scale.pick([10, 100, 1000], [10, 50, 100]) {
        let claim = format!("live fan-out to {size}");
        let of = |side: &str, process: &str| {
            let cost = outcome.costs.iter().find(|cost| cost.what == claim && cost.side == side)?;
            Some(cost.processes.get(process)?.samples.clone())
        };
        if let (Some(service), Some(bare)) = (of("unibus", "service"), of(BARE, "bare")) {
            // the same bound as for deliveries, the other way round
            let claim = format!("{claim}, CPU of the service for a million");
            let line = Line::new(claim, Unit::CpuSeconds, service, (BARE, bare)).reach(Reach::AtMost(1.25));
            outcome.lines.push(line);
        }
    }
    Ok(outcome)
}

/// The time of one message to the last subscriber.
pub(crate) async fn one_message(scale: Scale) -> Result<Outcome> {
    let scale = scale.rounds(3);
    let size = scale.pick(1000, 100);
    let crowds = Crowds::gather(size).await?;
    let [ours, bare, pulled, fed] = in_turns(&scale, crowds.single(scale.pick(100, 5))).await?;
    let mut outcome = Outcome::default();
    outcome.spent(&format!("one message to {size}"), &[&ours, &bare, &pulled, &fed]);
    for quantile in ["p50", "p99"] {
        for (what, side, most) in [(BARE, &bare, 1.5), (PULLED, &pulled, 0.1)] {
            let claim = format!("one live message to the last of {size}, {quantile}");
            let line = Line::new(claim, Unit::Seconds, ours.figure(quantile)?, (what, side.figure(quantile)?));
            outcome.lines.push(line.reach(Reach::AtMost(most)));
        }
        let claim = format!("one live message to the last of {size}, {quantile}");
        let beside = (FED, fed.figure(quantile)?);
        outcome.lines.push(Line::new(claim, Unit::Seconds, ours.figure(quantile)?, beside));
    }
    Ok(outcome)
}

/// The crowds, all open at once; only the one whose turn it is gets messages.
struct Crowds {
    stand: Stand,
    payload: Bytes,
    ours: Arc<Crowd>,
    unnamed: Arc<Crowd>,
    bare: Arc<Crowd>,
    pulled: Arc<Crowd>,
    feeder: Baseline,
    fed: Arc<Crowd>,
    context: jetstream::Context,
    broadcaster: Broadcaster,
}

impl Crowds {
    async fn gather(size: usize) -> Result<Self> {
        let payload = client::payload(PAYLOAD_BYTES);
        let stand = Stand::start(Disk::Interval).await?;
        let channels = client::channels(stand.service.url(), CONNECTIONS).await?;
        let to_bare = client::channels(stand.baseline.url(), CONNECTIONS).await?;
        let control = client::channel(stand.service.url()).await?;
        client::create_room(&control, ROOM).await?;
        let frame = client::sample_frame(&control, ROOM, &payload).await?;
        let context = native::connect(&stand.nats).await?;
        native::create_stream(&context, STREAM, DURABLES, None).await?;
        native::create_stream(&context, "FED", FEED, None).await?;
        let feeder = Baseline::fed(&stand.nats, FEED).await?;
        let to_fed = client::channels(feeder.url(), CONNECTIONS).await?;
        let connections = native::connections(&stand.nats, CONNECTIONS).await?;
        client::create_room(&control, UNNAMED).await?;
        Ok(Self {
            payload,
            unnamed: Arc::new(Crowd::open(&channels, UNNAMED, size, false).await?),
            ours: Arc::new(Crowd::open(&channels, ROOM, size, true).await?),
            bare: Arc::new(Crowd::open(&to_bare, ROOM, size, false).await?),
            pulled: Arc::new(Crowd::pull(&connections, STREAM, size).await?),
            fed: Arc::new(Crowd::open(&to_fed, ROOM, size, false).await?),
            feeder,
            context,
            broadcaster: Broadcaster { channel: client::channel(stand.baseline.url()).await?, frame },
            stand,
        })
    }

    /// Turns of the closed loop. The windows are as large as they can be while what is under way stays bounded: a
    /// quarter of a million deliveries, and a tenth of that for the side that needs seconds for it.
    fn looped(&self, duration: Duration) -> [Side; 5] {
        let size = self.ours.len() as u64;
        let (wide, narrow) = ((250_000 / size).clamp(128, 2048), (25_000 / size).clamp(16, 2048));
        let turn = move |crowd: Arc<Crowd>, publish: Publish, window| async move {
            looped(&crowd, &publish, duration, window)
                .await
                .map(|(messages, elapsed)| Turn::rate(messages * size, elapsed))
        };
        let [ours, bare, pulled, fed] = self.publishers();
        let (to_ours, to_bare, to_pulled) = (self.ours.clone(), self.bare.clone(), self.pulled.clone());
        let (to_fed, to_unnamed) = (self.fed.clone(), self.unnamed.clone());
        let unnamed = self.natively(&client::stream_name(UNNAMED), &client::subject(UNNAMED));
        [
            Side::new("unibus", &self.stand.ours(), move || turn(to_ours.clone(), ours.clone(), wide)),
            Side::new("unibus, without a name", &self.stand.ours(), move || {
                turn(to_unnamed.clone(), unnamed.clone(), wide)
            }),
            Side::new(BARE, &self.stand.bare(), move || turn(to_bare.clone(), bare.clone(), wide)),
            Side::new(PULLED, &self.stand.direct(), move || turn(to_pulled.clone(), pulled.clone(), narrow)),
            Side::new(FED, &self.feeding(), move || turn(to_fed.clone(), fed.clone(), wide)),
        ]
    }

    /// Turns of single messages.
    fn single(&self, count: usize) -> [Side; 4] {
        const PAUSE: Duration = Duration::from_millis(50);

        let size = self.ours.len() as u64;
        let turn = move |crowd: Arc<Crowd>, publish: Publish| async move {
            let mut turn = Turn::times(crowd.one_by_one(count, PAUSE, |count| publish.messages(count)).await?)?;
            turn.messages *= size;
            anyhow::Ok(turn)
        };
        let [ours, bare, pulled, fed] = self.publishers();
        let (to_ours, to_bare, to_pulled) = (self.ours.clone(), self.bare.clone(), self.pulled.clone());
        let to_fed = self.fed.clone();
        [
            Side::new("unibus", &self.stand.ours(), move || turn(to_ours.clone(), ours.clone())),
            Side::new(BARE, &self.stand.bare(), move || turn(to_bare.clone(), bare.clone())),
            Side::new(PULLED, &self.stand.direct(), move || turn(to_pulled.clone(), pulled.clone())),
            Side::new(FED, &self.feeding(), move || turn(to_fed.clone(), fed.clone())),
        ]
    }

    fn feeding(&self) -> [(&'static str, u32); 2] {
        [("bare", self.feeder.id()), ("nats", self.stand.nats.id())]
    }

    fn publishers(&self) -> [Publish; 4] {
        [
            self.natively(&client::stream_name(ROOM), &client::subject(ROOM)),
            Publish::Bare(self.broadcaster.clone()),
            self.natively(STREAM, DURABLES),
            self.natively("FED", FEED),
        ]
    }

    fn natively(&self, stream: &str, subject: &str) -> Publish {
        Publish::natively(&self.context, stream, subject, &self.payload)
    }
}

/// A turn of the closed loop: how many messages, and how long it took.
pub(super) async fn looped(
    crowd: &Crowd,
    publish: &Publish,
    duration: Duration,
    window: u64,
) -> Result<(u64, Duration)> {
    let before = match publish {
        Publish::Natively { context, stream, .. } => native::last_sequence(context, stream).await?,
        Publish::Bare(_) => 0,
    };
    let started = Instant::now();
    let messages = crowd.feed(duration, window, |count| publish.messages(count)).await?;
    if let Publish::Natively { context, stream, .. } = publish {
        native::stored(context, stream, before + messages).await?;
    }
    Ok((messages, started.elapsed()))
}

/// How messages get into a room.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a handful of them exist")]
pub(super) enum Publish {
    /// Core NATS, as a native peer does.
    Natively {
        context: jetstream::Context,
        stream: String,
        subject: String,
        payload: Bytes,
    },
    Bare(Broadcaster),
}

impl Publish {
    pub(super) fn natively(context: &jetstream::Context, stream: &str, subject: &str, payload: &Bytes) -> Self {
        let (stream, subject, payload) = (stream.to_owned(), subject.to_owned(), payload.clone());
        Self::Natively { context: context.clone(), stream, subject, payload }
    }

    pub(super) async fn messages(&self, count: u64) -> Result<()> {
        match self {
            Self::Natively { context, subject, payload, .. } => {
                let client = context.client();
                for _ in 0..count {
                    client.publish(subject.clone(), payload.clone()).await?;
                }
                Ok(())
            }
            Self::Bare(broadcaster) => broadcaster.broadcast(count).await,
        }
    }
}

/// Makes the bare server broadcast.
#[derive(Clone)]
pub(super) struct Broadcaster {
    channel: Channel,
    frame: Bytes,
}

impl Broadcaster {
    async fn broadcast(&self, count: u64) -> Result<()> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await?;
        let request = wire::burst(u32::try_from(count)?, &self.frame);
        let path = PathAndQuery::from_static("/unibus.v1.RoomService/Burst");
        client.unary(Request::new(request), path, Ready).await?;
        Ok(())
    }
}
