//! A page of history: the newest 200 and 1000 of a log of 256 B messages.
//!
//! Ours: History with the generated client, which decodes the page.
//!
//! Baselines on the same stream, which both first ask for the last sequence: (a) one get after the other; (b) an
//! ephemeral consumer and one fetch, the fastest raw read with async-nats.
//!
//! In a turn, one reader reads one page after the other, or 16 readers do so in parallel, each on its own connection.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::Stream,
};
use futures_util::TryStreamExt;
use unibus::v1::HistoryRequest;

use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    measure::{Scale, Side, in_turns, one_at_a_time, together},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const ROOM: &str = "history";
const READERS: usize = 16;
const STORED: u64 = 5000;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Interval).await?;
    client::create_room(&client::channel(stand.service.url()).await?, ROOM).await?;
    let context = native::connect(&stand.nats).await?;
    native::fill(&context, &client::subject(ROOM), &client::payload(PAYLOAD_BYTES), STORED).await?;
    let clients = client::clients(stand.service.url(), READERS).await?;
    let mut streams = Vec::new();
    for context in native::connections(&stand.nats, READERS).await? {
        streams.push(context.get_stream(client::stream_name(ROOM)).await?);
    }
    let mut outcome = Outcome::default();
    for limit in [200, 1000] {
        alone(&mut outcome, &scale, &stand, (&clients, &streams), limit).await?;
    }
    for limit in [200, 1000] {
        beside_each_other(&mut outcome, &scale, &stand, (&clients, &streams), limit).await?;
    }
    Ok(outcome)
}

async fn alone(
    outcome: &mut Outcome,
    scale: &Scale,
    stand: &Stand,
    (clients, streams): (&[Client], &[Stream]),
    limit: u64,
) -> Result<()> {
    let turn = scale.turn / 2;
    let client = clients.first().context("a client")?.clone();
    let [stream, same] = [streams.first().context("a stream")?.clone(), streams.first().context("a stream")?.clone()];
    let sides = [
        Side::new("unibus", &stand.ours(), move || {
            let client = client.clone();
            one_at_a_time(turn, move || page(client.clone(), limit))
        }),
        Side::new("(a) sequential get", &stand.direct(), move || {
            let stream = stream.clone();
            one_at_a_time(turn, move || get_each(stream.clone(), limit))
        }),
        Side::new("(b) ephemeral fetch", &stand.direct(), move || {
            let stream = same.clone();
            one_at_a_time(turn, move || fetch(stream.clone(), limit))
        }),
    ];
    let [ours, gets, fetches] = in_turns(scale, sides).await?;
    let claim = format!("History of the newest {limit}, p50");
    outcome.spent(&format!("a million pages of {limit}"), &[&ours, &gets, &fetches]);
    for (what, side, most) in [("(a) sequential get", &gets, 1.0 / 15.0), ("(b) ephemeral fetch", &fetches, 1.5)] {
        let line = Line::new(&claim, Unit::Seconds, ours.figure("p50")?, (what, side.figure("p50")?));
        outcome.lines.push(line.reach(Reach::AtMost(most)));
    }
    Ok(())
}

async fn beside_each_other(
    outcome: &mut Outcome,
    scale: &Scale,
    stand: &Stand,
    (clients, streams): (&[Client], &[Stream]),
    limit: u64,
) -> Result<()> {
    let turn = scale.turn / 2;
    let (clients, streams) = (clients.to_vec(), streams.to_vec());
    let sides = [
        Side::new("unibus", &stand.ours(), move || {
            let clients = clients.clone();
            together(READERS, turn, move |reader, _| {
                let client = clients.get(reader).cloned();
                async move { page(client.context("a client")?, limit).await }
            })
        }),
        Side::new("(b) ephemeral fetch", &stand.direct(), move || {
            let streams = streams.clone();
            together(READERS, turn, move |reader, _| {
                let stream = streams.get(reader).cloned();
                async move { fetch(stream.context("a stream")?, limit).await }
            })
        }),
    ];
    let [ours, fetches] = in_turns(scale, sides).await?;
    let claim = format!("History of the newest {limit}, {READERS} readers, pages");
    outcome.spent(&format!("a million pages of {limit}, {READERS} readers"), &[&ours, &fetches]);
    let beside = ("(b) ephemeral fetch", fetches.figure("rate")?);
    let line = Line::new(claim, Unit::PerSecond, ours.figure("rate")?, beside);
    outcome.lines.push(line.reach(Reach::AtLeast(0.7)));
    Ok(())
}

async fn page(mut client: Client, limit: u64) -> Result<()> {
    let request = HistoryRequest { room_id: ROOM.to_owned(), limit: i64::try_from(limit)?, anchor: None };
    let page = client.history(request).await?.into_inner();
    ensure!(page.messages.len() as u64 == limit, "a page of {}", page.messages.len());
    Ok(())
}

async fn last_sequence(stream: &Stream) -> Result<u64> {
    Ok(stream.get_info().await?.state.last_sequence)
}

async fn get_each(stream: Stream, limit: u64) -> Result<()> {
    let last = last_sequence(&stream).await?;
    for sequence in last + 1 - limit..=last {
        std::hint::black_box(stream.get_raw_message(sequence).await?);
    }
    Ok(())
}

async fn fetch(stream: Stream, limit: u64) -> Result<()> {
    let start_sequence = last_sequence(&stream).await? + 1 - limit;
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(1),
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let messages = consumer.fetch().max_messages(usize::try_from(limit)?).messages().await?;
    let count = messages.try_fold(0, async |count, _| Ok(count + 1)).await.map_err(|error| anyhow::anyhow!(error))?;
    ensure!(count == limit, "{count} messages instead of {limit}");
    Ok(())
}
