//! The latency of Publish while subscribers receive the messages, and without subscribers.
//!
//! A room receives 1,000 messages/s of 256 B. 200 of them are timed calls of Publish, in an open loop: each call starts
//! when it is due, and its time counts from then. A native peer publishes the rest.
//!
//! Ours: the room has 100 durable subscribers with `ACK_MODE_AUTO`, on 4 connections.
//!
//! Baselines, with the same load:
//! - A room of the same service without subscribers.
//! - To show the cost of the acknowledgements: a room with the same number of subscribers without a durable name.
//! - To show the cost of any delivery on these cores: a room without subscribers. The bare server follows it over NATS
//!   and delivers its messages to the same number of subscribers.
//!
//! A turn fails unless every subscriber has received every message. The row then repeats with 1,000 subscribers and 100
//! messages/s, all of which are timed calls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{task::JoinSet, time};

use super::fan_out::Publish;
use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    crowd::Crowd,
    measure::{Measured, QUANTILES, Scale, Side, Turn, in_turns},
    native,
    pace::at_rate,
    processes::{Baseline, Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const CONNECTIONS: usize = 4;
/// Timed calls at most.
const TIMED_PER_SECOND: u32 = 200;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    compare(&mut outcome, scale, scale.pick(100, 20), 1000).await?;
    compare(&mut outcome, scale.rounds(3), scale.pick(1000, 100), 100).await?;
    Ok(outcome)
}

async fn compare(outcome: &mut Outcome, scale: Scale, subscribers: usize, per_second: u32) -> Result<()> {
    let stand = Stand::start(Disk::Interval).await?;
    let channels = client::channels(stand.service.url(), CONNECTIONS).await?;
    let context = native::connect(&stand.nats).await?;
    let feeder = Baseline::fed(&stand.nats, &client::subject("fed")).await?;
    let to_fed = client::channels(feeder.url(), CONNECTIONS).await?;
    let [service, nats] = stand.ours();
    let processes = [service, nats, ("bare", feeder.id())];
    let side = |name, room: &'static str, crowd: Option<Arc<Crowd>>, channel| {
        let (stream, subject) = (client::stream_name(room), client::subject(room));
        let publish = Publish::natively(&context, &stream, &subject, &client::payload(PAYLOAD_BYTES));
        let client = Client::new(channel);
        let turn = move || timed(client.clone(), room, publish.clone(), crowd.clone(), scale.turn, per_second);
        Side::new(name, &processes, turn)
    };
    let control = client::channel(stand.service.url()).await?;
    for room in ["busy", "unnamed", "fed", "quiet"] {
        client::create_room(&control, room).await?;
    }
    let named = Arc::new(Crowd::open(&channels, "busy", subscribers, true).await?);
    let unnamed = Arc::new(Crowd::open(&channels, "unnamed", subscribers, false).await?);
    let fed = Arc::new(Crowd::open(&to_fed, "fed", subscribers, false).await?);
    let sides = [
        side("unibus", "busy", Some(named), control.clone()),
        side("unnamed subscribers", "unnamed", Some(unnamed), control.clone()),
        side("subscribers of the bare server", "fed", Some(fed), control.clone()),
        side("no subscribers", "quiet", None, control),
    ];
    let [ours, unnamed, bare, alone] = in_turns(&scale, sides).await?;
    let what = format!("Publish while {subscribers} receive {per_second} messages/s");
    outcome.spent(&what, &[&ours, &unnamed, &bare, &alone]);
    outcome.distributed(&what, &[&ours, &unnamed, &bare, &alone]);
    for (quantile, _) in QUANTILES {
        let claim = format!("{what}, open loop, {quantile}");
        let beside = |what, side: &Measured| {
            anyhow::Ok(Line::new(&claim, Unit::Seconds, ours.figure(quantile)?, (what, side.figure(quantile)?)))
        };
        let line = beside("without subscribers", &alone)?;
        outcome.lines.push(if quantile == "p50" { line.reach(Reach::AtMost(1.5)) } else { line });
        outcome.lines.push(beside("with unnamed subscribers", &unnamed)?);
        outcome.lines.push(beside("with as many of the bare server", &bare)?);
    }
    Ok(())
}

async fn timed(
    client: Client,
    room: &'static str,
    publish: Publish,
    crowd: Option<Arc<Crowd>>,
    duration: Duration,
    per_second: u32,
) -> Result<Turn> {
    let before = crowd.as_ref().map(|crowd| crowd.count());
    let published = Arc::new(AtomicU64::new(0));
    let mut background = JoinSet::new();
    let count = Arc::clone(&published);
    let timed_per_second = per_second.min(TIMED_PER_SECOND);
    background.spawn(async move {
        let others = per_second - timed_per_second;
        if others == 0 {
            return Ok(());
        }
        let mut pace = time::interval(Duration::from_secs(1) / others);
        loop {
            pace.tick().await;
            publish.messages(1).await?;
            count.fetch_add(1, Relaxed);
        }
        #[expect(unreachable_code, reason = "names the type")]
        anyhow::Ok(())
    });
    let message = client::message(room, &client::payload(PAYLOAD_BYTES));
    let turn = at_rate(timed_per_second, duration, move |_| {
        let (mut client, message) = (client.clone(), message.clone());
        async move { client::publish(&mut client, message).await }
    })
    .await?;
    background.shutdown().await;
    if let (Some(crowd), Some(before)) = (&crowd, &before) {
        // a message whose publish was cut off may still arrive, so the count is a minimum
        crowd.received(before, published.load(Relaxed) + turn.messages).await?;
    }
    Ok(turn)
}
