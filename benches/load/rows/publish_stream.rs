//! Pipelined publishing: `PublishStream` on 1 and on 8 streams, with payloads of 256 B, 4 KiB and 64 KiB.
//!
//! Ours: the generated client sends on a `PublishStream` while fewer messages than the window wait for an answer. Every
//! answer must be a result, in order. 8 streams share 4 connections and the window.
//!
//! Baselines: async-nats publishes to the subject of the same room, with the same window and the same number of
//! connections. It waits for the oldest acknowledgement when the window is full. To show where the time goes, the same
//! client also calls the bare server, which decodes and answers.
//!
//! Cumulative acknowledgements are compared with fast ingest of JetStream (`ingest.rs`) on a stream of the same kind,
//! with the same window.
//!
//! A turn ends with the last answer. At most 4 MiB are under way, and a turn has at most 128 MiB, so that the row does
//! not measure memory or the cache of the disk.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream};
use tokio::{sync::Semaphore, task::JoinSet};
use unibus::v1::{PublishAcks, PublishRequest, PublishStreamRequest, publish_stream_response::Outcome as Answer};

use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    ingest,
    measure::{Measured, Scale, Side, Turn, in_turns},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const ROOM: &str = "pipe";
const UNDER_WAY_BYTES: usize = 4 << 20;
const TURN_BYTES: usize = 128 << 20;
const WINDOW_MAX: usize = 1024;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Interval).await?;
    let channel = client::channel(stand.service.url()).await?;
    let mut outcome = Outcome::default();
    if !client::has_publish_stream(&channel).await? {
        outcome.lines.push(Line::missing("PublishStream", "not available: UNIMPLEMENTED"));
        return Ok(outcome);
    }
    client::create_room(&channel, ROOM).await?;
    let stored = native::connect(&stand.nats).await?.get_stream(client::stream_name(ROOM)).await?;
    for (bytes, size) in [(256, "256 B"), (4 << 10, "4 KiB"), (64 << 10, "64 KiB")] {
        for (streams, connections) in [(1, 1), (8, 4)] {
            let window = (UNDER_WAY_BYTES / bytes).min(WINDOW_MAX);
            let load = Load::new(&[ROOM.to_owned()], client::payload(bytes), streams, window, scale.turn / 2);
            let clients = client::clients(stand.service.url(), connections).await?;
            let echoes = client::clients(stand.baseline.url(), connections).await?;
            let native = native::connections(&stand.nats, connections).await?;
            let sides = [
                Side::new("unibus", &stand.ours(), load.streamed(clients)),
                Side::new("async-nats publish", &stand.direct(), load.direct(native)),
                Side::new("bare echo", &stand.bare(), load.streamed(echoes)),
            ];
            let [ours, direct, echo] = in_turns(&scale, sides).await?;
            let streams = if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams") };
            let claim = format!("PublishStream, {streams}, {size}, window {window}");
            outcome.spent(&claim, &[&ours, &direct, &echo]);
            let beside = ("async-nats publish", direct.figure("rate")?);
            let line = Line::new(&claim, Unit::PerSecond, ours.figure("rate")?, beside);
            outcome.lines.push(line.reach(Reach::AtLeast(0.85)));
            let beside = ("bare echo", echo.figure("rate")?);
            outcome.lines.push(Line::new(&claim, Unit::PerSecond, ours.figure("rate")?, beside));
            stored.purge().await?;
        }
    }
    cumulative(&mut outcome, &scale, &stand).await?;
    Ok(outcome)
}

/// Cumulative acknowledgements, 256 B, with a window of [`WINDOW_MAX`], beside fast ingest of JetStream and beside
/// async-nats with a result for each message.
async fn cumulative(outcome: &mut Outcome, scale: &Scale, stand: &Stand) -> Result<()> {
    let payload = client::payload(PAYLOAD_BYTES);
    let load = Load::new(&[ROOM.to_owned()], payload.clone(), 1, WINDOW_MAX, scale.turn / 2);
    let [context, other] = [native::connect(&stand.nats).await?, native::connect(&stand.nats).await?];
    ingest::create_stream(&context, "INGEST", "ingest").await?;
    let limits = (load.turn, load.most());
    let direct = Side::new("async-nats publish", &stand.direct(), load.direct(vec![other]));
    let turns = ingest::turns(context, "ingest", payload, limits, WINDOW_MAX as u64);
    let ingested = Side::new("JetStream fast ingest", &stand.direct(), turns);
    let claim = format!("PublishStream, cumulative acknowledgements, 256 B, window {WINDOW_MAX}");
    let clients = client::clients(stand.service.url(), 1).await?;
    let ours = Side::new("unibus", &stand.ours(), load.cumulative().streamed(clients));
    let [ours, direct, ingested] = in_turns(scale, [ours, direct, ingested]).await?;
    outcome.spent(&claim, &[&ours, &direct, &ingested]);
    let beside = |side: &Measured| {
        anyhow::Ok(Line::new(&claim, Unit::PerSecond, ours.figure("rate")?, (side.side, side.figure("rate")?)))
    };
    outcome.lines.push(beside(&direct)?.reach(Reach::AtLeast(1.3)));
    outcome.lines.push(beside(&ingested)?);
    Ok(())
}

/// The load of both sides.
#[derive(Clone)]
pub(super) struct Load {
    messages: Arc<Vec<PublishRequest>>,
    subjects: Arc<Vec<String>>,
    payload: Bytes,
    streams: usize,
    window: usize,
    turn: Duration,
    acks: PublishAcks,
}

impl Load {
    /// To publish into one of these rooms after the other, with `window` messages without an answer over all streams.
    pub(super) fn new(rooms: &[String], payload: Bytes, streams: usize, window: usize, turn: Duration) -> Self {
        let messages = rooms.iter().map(|room| client::message(room, &payload)).collect();
        let subjects = rooms.iter().map(|room| client::subject(room)).collect();
        Self {
            messages: Arc::new(messages),
            subjects: Arc::new(subjects),
            payload,
            streams,
            window,
            turn,
            acks: PublishAcks::Each,
        }
    }

    /// With cumulative acknowledgements.
    fn cumulative(&self) -> Self {
        Self { acks: PublishAcks::Cumulative, ..self.clone() }
    }

    /// Messages of a turn at most.
    fn most(&self) -> u64 {
        (TURN_BYTES / self.payload.len().max(1)) as u64
    }

    /// Turns of `PublishStream`.
    pub(super) fn streamed(&self, clients: Vec<Client>) -> impl FnMut() -> BoxFuture<'static, Result<Turn>> + use<> {
        let load = self.clone();
        move || Box::pin(load.clone().stream(clients.clone()))
    }

    async fn stream(self, clients: Vec<Client>) -> Result<Turn> {
        let (window, most) = (self.window / self.streams, self.most() / self.streams as u64);
        let started = Instant::now();
        let mut publishers = JoinSet::new();
        for (publisher, client) in clients.into_iter().cycle().take(self.streams).enumerate() {
            let messages = Arc::clone(&self.messages);
            let next = move |sent: u64| {
                let wanted = sent < most && started.elapsed() < self.turn;
                wanted.then(|| messages.get(native::spread(publisher, sent, messages.len())).cloned()).flatten()
            };
            publishers.spawn(publish(client, window, self.acks, next));
        }
        let mut total = 0;
        while let Some(done) = publishers.join_next().await {
            total += done??;
        }
        Ok(Turn::rate(total, started.elapsed()))
    }

    /// Turns of async-nats.
    pub(super) fn direct(
        &self,
        connections: Vec<async_nats::jetstream::Context>,
    ) -> impl FnMut() -> BoxFuture<'static, Result<Turn>> + use<> {
        let load = self.clone();
        move || {
            let publishers = connections.len().max(1);
            let limits = (load.turn, load.most() / publishers as u64);
            let (connections, subjects) = (connections.clone(), Arc::clone(&load.subjects));
            let window = load.window / publishers;
            Box::pin(native::publish_windowed(connections, subjects, load.payload.clone(), limits, window))
        }
    }
}

/// Publishes on one stream as long as there is a next message: how many.
async fn publish(
    mut client: Client,
    window: usize,
    acks: PublishAcks,
    next: impl Fn(u64) -> Option<PublishRequest> + Send + 'static,
) -> Result<u64> {
    let permits = Arc::new(Semaphore::new(window));
    let free = Arc::clone(&permits);
    let requests = stream::unfold((0, free, next), move |(sent, free, next)| async move {
        free.acquire().await.ok()?.forget();
        let request = PublishStreamRequest { correlation_id: sent, publish: Some(next(sent)?), acks: acks.into() };
        Some((request, (sent + 1, free, next)))
    });
    let mut answers = client.publish_stream(requests).await?.into_inner();
    let mut answered = 0;
    while let Some(answer) = answers.message().await? {
        let correlation_id = answer.correlation_id;
        match answer.outcome.context("an answer without an outcome")? {
            Answer::Result(_) => permits.add_permits(1),
            Answer::Through(through) => {
                let messages = u64::from(through.messages);
                permits.add_permits(usize::try_from(messages)?);
                answered += messages - 1;
            }
            Answer::Error(status) => anyhow::bail!("message {answered}: {}", status.message),
        }
        ensure!(correlation_id == answered, "an answer out of order");
        answered += 1;
    }
    Ok(answered)
}
