//! Latencies in open loops: calls start at a fixed rate, well below what the slowest side can do, whether or not earlier
//! calls have ended. The time of a call counts from the moment at which it was due. Payloads have 256 B.
//!
//! - Publish: 1000/s on one connection and 5000/s on 4; and 500/s on one connection with a nats-server that syncs every
//!   write. Baselines: async-nats publishes to the same stream, on as many connections; and the bare server answers.
//! - Live messages: until the last of 10 subscribers has each of 1000/s, and the last of 1000 each of 10/s. Ours: durable
//!   subscribers with `ACK_MODE_AUTO` on 4 connections; a native peer publishes with core NATS. Baselines: subscribers of
//!   core NATS, and of the bare server that is fed by NATS, on as many connections.
//! - History of the newest 200: 100 pages/s over 4 connections, from a room without subscriptions and from an active
//!   room. Baseline: an ephemeral consumer and one fetch for each page.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};

use super::{
    fan_out::Publish,
    history::{fetch, keep_active, page},
};
use crate::{
    client::{self, PAYLOAD_BYTES},
    crowd::Crowd,
    measure::{Measured, QUANTILES, Scale, Side, in_turns},
    native,
    pace::at_rate,
    processes::{Baseline, Disk, Nats, Service, Stand},
    report::{Line, Outcome, Unit},
};

const CONNECTIONS: usize = 4;
const STORED: u64 = 5000;

/// Turns are longer than those of other rows: the slowest thousandth of the calls is to be several calls.
fn duration(scale: &Scale) -> Duration {
    scale.turn * 5 / 2
}

/// A line for each baseline and quantile, and the distributions.
fn compare(outcome: &mut Outcome, what: &str, ours: &Measured, baselines: &[&Measured]) -> Result<()> {
    let mut sides = vec![ours];
    sides.extend(baselines);
    outcome.spent(what, &sides);
    outcome.distributed(what, &sides);
    for (quantile, _) in QUANTILES {
        for side in baselines {
            let claim = format!("{what}, open loop, {quantile}");
            let baseline = (side.side, side.figure(quantile)?);
            outcome.lines.push(Line::new(claim, Unit::Seconds, ours.figure(quantile)?, baseline));
        }
    }
    Ok(())
}

pub(crate) async fn publish(scale: Scale) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (disk, loads) in [(Disk::Interval, &[(1000, 1), (5000, CONNECTIONS)][..]), (Disk::Always, &[(500, 1)])] {
        let stand = Stand::start(disk).await?;
        client::create_room(&client::channel(stand.service.url()).await?, "paced").await?;
        for (per_second, connections) in loads.iter().copied() {
            let sides = publishing(&stand, duration(&scale), per_second, connections).await?;
            let [ours, direct, echo] = in_turns(&scale, sides).await?;
            let synced = if disk == Disk::Always { "synced " } else { "" };
            let plural = if connections == 1 { "" } else { "s" };
            let what = format!("{synced}Publish at {per_second}/s on {connections} connection{plural}");
            compare(&mut outcome, &what, &ours, &[&direct, &echo])?;
        }
    }
    Ok(outcome)
}

async fn publishing(stand: &Stand, duration: Duration, per_second: u32, connections: usize) -> Result<[Side; 3]> {
    let payload = client::payload(PAYLOAD_BYTES);
    let message = client::message("paced", &payload);
    let calls = |clients: Vec<client::Client>| {
        let (clients, message) = (Arc::new(clients), message.clone());
        move || {
            let (clients, message) = (Arc::clone(&clients), message.clone());
            at_rate(per_second, duration, move |number| {
                let client = clients.get(number as usize % clients.len().max(1)).cloned();
                let message = message.clone();
                async move { client::publish(&mut client.context("a client")?, message).await }
            })
        }
    };
    let ours = calls(client::clients(stand.service.url(), connections).await?);
    let echo = calls(client::clients(stand.baseline.url(), connections).await?);
    let contexts = Arc::new(native::connections(&stand.nats, connections).await?);
    let direct = move || {
        let (contexts, payload) = (Arc::clone(&contexts), payload.clone());
        at_rate(per_second, duration, move |number| {
            let context = contexts.get(number as usize % contexts.len().max(1)).cloned();
            let payload = payload.clone();
            async move { native::publish(&context.context("a connection")?, &client::subject("paced"), &payload).await }
        })
    };
    Ok([
        Side::new("unibus", &stand.ours(), ours),
        Side::new("async-nats publish", &stand.direct(), direct),
        Side::new("bare echo", &stand.bare(), echo),
    ])
}

pub(crate) async fn live(scale: Scale) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for (size, per_second) in scale.pick([(10, 1000), (1000, 10)], [(10, 100), (50, 20)]) {
        let nats = Nats::start(Disk::Interval).await?;
        let service = Service::with_nats(&nats).await?;
        let feeder = Baseline::fed(&nats, "fed").await?;
        let context = native::connect(&nats).await?;
        let channels = client::channels(service.url(), CONNECTIONS).await?;
        client::create_room(channels.first().context("a connection")?, "paced").await?;
        let ours = Crowd::open(&channels, "paced", size, true).await?;
        let fed = Crowd::open(&client::channels(feeder.url(), CONNECTIONS).await?, "paced", size, false).await?;
        let connections = native::connections(&nats, CONNECTIONS).await?;
        let connections: Vec<_> = connections.iter().cycle().take(size).cloned().collect();
        let core = Crowd::core(&connections, "core").await?;
        let payload = client::payload(PAYLOAD_BYTES);
        let turns = |crowd: Crowd, subject: &str| {
            let (crowd, publish) = (Arc::new(crowd), Publish::natively(&context, "", subject, &payload));
            move || {
                let (crowd, publish) = (Arc::clone(&crowd), publish.clone());
                async move {
                    let publish = move |_| {
                        let publish = publish.clone();
                        async move { publish.messages(1).await }
                    };
                    crowd.at_rate(per_second, duration(&scale), publish).await
                }
            }
        };
        let [of_service, of_nats] = [("service", service.id()), ("nats", nats.id())];
        let sides = [
            Side::new("unibus", &[of_service, of_nats], turns(ours, &client::subject("paced"))),
            Side::new("NATS core subscribers", &[of_nats], turns(core, "core")),
            Side::new("bare tonic fed by NATS", &[("bare", feeder.id()), of_nats], turns(fed, "fed")),
        ];
        let [ours, core, fed] = in_turns(&scale.rounds(3), sides).await?;
        let what = format!("live messages at {per_second}/s to the last of {size}");
        compare(&mut outcome, &what, &ours, &[&core, &fed])?;
    }
    Ok(outcome)
}

pub(crate) async fn history(scale: Scale) -> Result<Outcome> {
    const LIMIT: u64 = 200;
    const PER_SECOND: u32 = 100;

    let stand = Stand::start(Disk::Interval).await?;
    let clients = Arc::new(client::clients(stand.service.url(), CONNECTIONS).await?);
    let channel = client::channel(stand.service.url()).await?;
    let context = native::connect(&stand.nats).await?;
    for room in ["quiet", "active"] {
        client::create_room(&channel, room).await?;
    }
    let subscription = Crowd::open(std::slice::from_ref(&channel), "active", 1, false).await?;
    for room in ["quiet", "active"] {
        native::fill(&context, &client::subject(room), &client::payload(PAYLOAD_BYTES), STORED).await?;
    }
    subscription.received(&[0], STORED).await?;
    let mut publisher = keep_active(&context, "active");
    let mut streams = Vec::new();
    for context in native::connections(&stand.nats, CONNECTIONS).await? {
        streams.push(context.get_stream(client::stream_name("quiet")).await?);
    }
    let pages = |room: &'static str| {
        let clients = Arc::clone(&clients);
        move || {
            let clients = Arc::clone(&clients);
            at_rate(PER_SECOND, duration(&scale), move |number| {
                let client = clients.get(number as usize % CONNECTIONS).cloned();
                async move { page(client.context("a client")?, room, LIMIT).await }
            })
        }
    };
    let streams = Arc::new(streams);
    let fetches = move || {
        let streams = Arc::clone(&streams);
        at_rate(PER_SECOND, duration(&scale), move |number| {
            let stream = streams.get(number as usize % CONNECTIONS).cloned();
            async move { fetch(stream.context("a stream")?, LIMIT).await }
        })
    };
    let sides = [
        Side::new("unibus", &stand.ours(), pages("quiet")),
        Side::new("unibus, an active room", &stand.ours(), pages("active")),
        Side::new("ephemeral fetch", &stand.direct(), fetches),
    ];
    let [quiet, active, fetches] = in_turns(&scale.rounds(3), sides).await?;
    if let Some(ended) = publisher.try_join_next() {
        return Err(ended?.context("the room was not active to the end"));
    }
    let mut outcome = Outcome::default();
    let what = format!("History of the newest {LIMIT} at {PER_SECOND}/s");
    outcome.spent(&what, &[&quiet, &active, &fetches]);
    outcome.distributed(&what, &[&quiet, &active, &fetches]);
    for (room, ours) in [("", &quiet), (" of an active room", &active)] {
        for (quantile, _) in QUANTILES {
            let claim = format!("History of the newest {LIMIT}{room} at {PER_SECOND}/s, open loop, {quantile}");
            let baseline = (fetches.side, fetches.figure(quantile)?);
            outcome.lines.push(Line::new(claim, Unit::Seconds, ours.figure(quantile)?, baseline));
        }
    }
    Ok(outcome)
}
