//! Durable subscribers of one room: how fast many open, and how fast they come back after a restart of the service.
//!
//! Opening. Ours: 1000 new durable subscribers with `ACK_MODE_AUTO` on 4 connections, at most 64 being opened at a time,
//! until all have caught up with an empty room. Baselines: subscriptions without a name, opened in the same way; and
//! durable pull consumers, created and pulled with async-nats, 64 at a time on 4 connections. A turn has a room or a
//! stream of its own.
//!
//! Coming back. 500 durable subscribers are open in a room. The service stops, 100 messages of 256 B are published, and
//! the service starts. The time counts from the moment at which the service listens. All subscribers open at once on 4
//! new connections. The time ends when each has all messages. The start of the process is a figure of its own. Baseline:
//! as many durable pull consumers with explicit acks missed as many messages, and are pulled again on 4 new connections.
//! nats-server runs on, on both sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_nats::jetstream;
use futures_util::future::BoxFuture;
use tokio::{sync::Mutex, time};
use tonic::transport::Channel;

use crate::{
    client::{self, PAYLOAD_BYTES},
    crowd::{Crowd, OPENING, Opening},
    measure::{Measured, Scale, Side, Turn, in_turns},
    native,
    processes::{Disk, Nats, Service, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const CONNECTIONS: usize = 4;
const ROOM: &str = "back";
const STREAM: &str = "DURABLES";
const DURABLES: &str = "durables";
/// After a turn, closed subscriptions get this long to end before the next one begins.
const REST: Duration = Duration::from_millis(500);

pub(crate) async fn open(scale: Scale) -> Result<Outcome> {
    let scale = scale.rounds(3);
    let size = scale.pick(1000, 100);
    let stand = Stand::start(Disk::Interval).await?;
    let channels = client::channels(stand.service.url(), CONNECTIONS).await?;
    let connections = native::connections(&stand.nats, CONNECTIONS).await?;
    let pulled = {
        let turns = AtomicU64::new(0);
        move || {
            let turn = turns.fetch_add(1, Relaxed);
            let connections = connections.clone();
            async move {
                let [stream, subject] = [format!("OPEN_{turn}"), format!("open.{turn}")];
                let context = connections.first().context("a connection")?;
                native::create_stream(context, &stream, &subject, None).await?;
                let started = Instant::now();
                let crowd = Crowd::pull_as(&connections, &stream, size, OPENING).await?;
                let turn = Turn::rate(size as u64, started.elapsed());
                drop(crowd);
                context.delete_stream(&stream).await?;
                time::sleep(REST).await;
                Ok(turn)
            }
        }
    };
    let sides = [
        Side::new("unibus", &stand.ours(), opened(&channels, size, true)),
        Side::new("unnamed subscriptions", &stand.ours(), opened(&channels, size, false)),
        Side::new("durable pull consumers", &stand.direct(), pulled),
    ];
    let [ours, unnamed, pulled] = in_turns(&scale, sides).await?;
    let claim = format!("opening {size} durable subscribers");
    let mut outcome = Outcome::default();
    outcome.spent(&claim, &[&ours, &unnamed, &pulled]);
    let beside = |side: &Measured| {
        anyhow::Ok(Line::new(&claim, Unit::PerSecond, ours.figure("rate")?, (side.side, side.figure("rate")?)))
    };
    outcome.lines = vec![beside(&unnamed)?.reach(Reach::Above(1500.0)), beside(&pulled)?];
    Ok(outcome)
}

/// Turns that open subscriptions of a new room.
fn opened(channels: &[Channel], size: usize, named: bool) -> impl FnMut() -> BoxFuture<'static, Result<Turn>> + use<> {
    let (channels, turns) = (channels.to_vec(), AtomicU64::new(0));
    move || {
        let turn = turns.fetch_add(1, Relaxed);
        let channels = channels.clone();
        Box::pin(async move {
            let room = format!("open_{named}_{turn}");
            client::create_room(channels.first().context("a connection")?, &room).await?;
            let started = Instant::now();
            let crowd = Crowd::open(&channels, &room, size, named).await?;
            let turn = Turn::rate(size as u64, started.elapsed());
            drop(crowd);
            time::sleep(REST).await;
            Ok(turn)
        })
    }
}

pub(crate) async fn come_back(scale: Scale) -> Result<Outcome> {
    let (size, missed) = scale.pick((500, 100), (50, 20));
    let nats = Arc::new(Nats::start(Disk::Interval).await?);
    let context = native::connect(&nats).await?;
    let service = Service::with_nats(&nats).await?;
    let channels = client::channels(service.url(), CONNECTIONS).await?;
    client::create_room(channels.first().context("a connection")?, ROOM).await?;
    drop(reopen(&channels, size).await?);
    native::create_stream(&context, STREAM, DURABLES, None).await?;
    drop(Crowd::pull(&native::connections(&nats, CONNECTIONS).await?, STREAM, size).await?);

    let state = Arc::new(Mutex::new(Some(service)));
    let direct = [("nats", nats.id())];
    let restarted = {
        let (nats, context) = (Arc::clone(&nats), context.clone());
        move || restarted(Arc::clone(&nats), context.clone(), Arc::clone(&state), size, missed)
    };
    let pulled = move || pulled(Arc::clone(&nats), context.clone(), size, missed);
    let sides = [Side::new("unibus", &direct, restarted), Side::new("durable pull consumers", &direct, pulled)];
    let [ours, pulled] = in_turns(&scale, sides).await?;
    let claim = format!("{size} durable subscribers come back after a restart, {missed} missed each: all have all");
    let beside = (pulled.side, pulled.figure("back")?);
    let line = Line::new(&claim, Unit::Seconds, ours.figure("back")?, beside).reach(Reach::Below(0.5));
    let start = Line::alone(
        format!("the start of the service before that, {size} subscribers"),
        Unit::Seconds,
        ours.figure("start")?,
    );
    Ok(Outcome { lines: vec![line, start], ..Outcome::default() })
}

/// All at once, as clients do after a restart.
async fn reopen(channels: &[Channel], size: usize) -> Result<Crowd> {
    let rooms = vec![ROOM.to_owned(); size];
    Crowd::open_as(channels, &rooms, Opening { names: Some("subscriber-"), at_a_time: size }).await
}

async fn restarted(
    nats: Arc<Nats>,
    context: jetstream::Context,
    state: Arc<Mutex<Option<Service>>>,
    size: usize,
    missed: u64,
) -> Result<Turn> {
    let mut state = state.lock().await;
    state.take().context("the service")?.stop().await?;
    native::fill(&context, &client::subject(ROOM), &client::payload(PAYLOAD_BYTES), missed).await?;
    let starting = Instant::now();
    let service = Service::with_nats(&nats).await?;
    let started = Instant::now();
    let channels = client::channels(service.url(), CONNECTIONS).await?;
    let crowd = reopen(&channels, size).await?;
    crowd.received(&vec![0; size], missed).await?;
    let figures = vec![("back", started.elapsed().as_secs_f64()), ("start", (started - starting).as_secs_f64())];
    drop(crowd);
    // positions of `ACK_MODE_AUTO` are stored when the subscriptions end
    time::sleep(REST).await;
    *state = Some(service);
    Ok(Turn { figures, ..Turn::default() })
}

async fn pulled(nats: Arc<Nats>, context: jetstream::Context, size: usize, missed: u64) -> Result<Turn> {
    native::fill(&context, DURABLES, &client::payload(PAYLOAD_BYTES), missed).await?;
    let started = Instant::now();
    let connections = native::connections(&nats, CONNECTIONS).await?;
    let crowd = Crowd::pull_as(&connections, STREAM, size, size).await?;
    crowd.received(&vec![0; size], missed).await?;
    let turn = Turn::time("back", started.elapsed());
    drop(crowd);
    time::sleep(REST).await;
    Ok(turn)
}
