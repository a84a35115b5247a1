//! A page of history: the newest 200 and 1000 of a log of 256 B messages.
//!
//! Ours: History with the generated client, which decodes the page.
//!
//! Baselines on the same stream, which both first ask for the last sequence: (a) one get after the other; (b) an
//! ephemeral consumer and one fetch, the fastest raw read with async-nats.
//!
//! In a turn, one reader reads one page after the other, or 16 readers do so in parallel, each on its own connection.
//!
//! Each is measured in a room without subscriptions, and in an active room: one subscription was open before the
//! messages were published, and has received them all. A native program goes on publishing one message every
//! [`PAUSE`], because a room that is silent for some seconds is not active any more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
    stream::Stream,
};
use futures_util::TryStreamExt;
use tokio::{task::JoinSet, time};
use unibus::v1::HistoryRequest;

use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    crowd::Crowd,
    measure::{Measured, Scale, Side, in_turns, one_at_a_time, together},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const QUIET: &str = "history";
const ACTIVE: &str = "active";
const READERS: usize = 16;
const STORED: u64 = 5000;
/// Between two messages of an active room.
const PAUSE: Duration = Duration::from_millis(500);

const GETS: &str = "(a) sequential get";
const FETCH: &str = "(b) ephemeral fetch";

/// A room and its readers.
struct Log<'a> {
    room: &'static str,
    stand: &'a Stand,
    clients: &'a [Client],
    streams: Vec<Stream>,
}

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Interval).await?;
    let channel = client::channel(stand.service.url()).await?;
    let context = native::connect(&stand.nats).await?;
    let clients = client::clients(stand.service.url(), READERS).await?;
    let mut outcome = Outcome::default();
    for room in [QUIET, ACTIVE] {
        client::create_room(&channel, room).await?;
        let subscription = if room == ACTIVE {
            Some(Crowd::open(std::slice::from_ref(&channel), room, 1, false).await?)
        } else {
            None
        };
        native::fill(&context, &client::subject(room), &client::payload(PAYLOAD_BYTES), STORED).await?;
        let mut publisher = None;
        if let Some(subscription) = &subscription {
            subscription.received(&[0], STORED).await?;
            publisher = Some(keep_active(&context, room));
        }
        let mut streams = Vec::new();
        for context in native::connections(&stand.nats, READERS).await? {
            streams.push(context.get_stream(client::stream_name(room)).await?);
        }
        let log = Log { room, stand: &stand, clients: &clients, streams };
        for limit in [200, 1000] {
            alone(&mut outcome, &scale, &log, limit).await?;
        }
        for limit in [200, 1000] {
            beside_each_other(&mut outcome, &scale, &log, limit).await?;
        }
        if let Some(ended) = publisher.as_mut().and_then(JoinSet::try_join_next) {
            return Err(ended?.context("the room was not active to the end"));
        }
    }
    Ok(outcome)
}

/// Publishes a message into the room every [`PAUSE`], until the set is dropped. The task ends only with an error.
pub(crate) fn keep_active(context: &jetstream::Context, room: &str) -> JoinSet<anyhow::Error> {
    let (context, subject, payload) = (context.clone(), client::subject(room), client::payload(PAYLOAD_BYTES));
    let mut publisher = JoinSet::new();
    publisher.spawn(async move {
        let mut pace = time::interval(PAUSE);
        loop {
            pace.tick().await;
            if let Err(error) = native::publish(&context, &subject, &payload).await {
                return error;
            }
        }
    });
    publisher
}

impl Log<'_> {
    /// What the claims about this room say of it.
    fn of(&self) -> &'static str {
        if self.room == ACTIVE { " of an active room" } else { "" }
    }
}

async fn alone(outcome: &mut Outcome, scale: &Scale, log: &Log<'_>, limit: u64) -> Result<()> {
    let (turn, room) = (scale.turn / 2, log.room);
    let client = log.clients.first().context("a client")?.clone();
    let stream = log.streams.first().context("a stream")?.clone();
    let same = stream.clone();
    let ours = Side::new("unibus", &log.stand.ours(), move || {
        let client = client.clone();
        one_at_a_time(turn, move || page(client.clone(), room, limit))
    });
    let fetches = Side::new(FETCH, &log.stand.direct(), move || {
        let stream = stream.clone();
        one_at_a_time(turn, move || fetch(stream.clone(), limit))
    });
    let gets = Side::new(GETS, &log.stand.direct(), move || {
        let stream = same.clone();
        one_at_a_time(turn, move || get_each(stream.clone(), limit))
    });
    let claim = format!("History of the newest {limit}{}, p50", log.of());
    let cost = format!("a million pages of {limit}{}", log.of());
    let beside = |ours: &Measured, side: &Measured| {
        anyhow::Ok(Line::new(&claim, Unit::Seconds, ours.figure("p50")?, (side.side, side.figure("p50")?)))
    };
    if room == ACTIVE {
        let [ours, fetches] = in_turns(scale, [ours, fetches]).await?;
        outcome.spent(&cost, &[&ours, &fetches]);
        let line = beside(&ours, &fetches)?;
        outcome.lines.push(if limit == 200 { line.reach(Reach::Below(500e-6)) } else { line });
    } else {
        let [ours, gets, fetches] = in_turns(scale, [ours, gets, fetches]).await?;
        outcome.spent(&cost, &[&ours, &gets, &fetches]);
        outcome.lines.push(beside(&ours, &gets)?.reach(Reach::AtMost(1.0 / 15.0)));
        outcome.lines.push(beside(&ours, &fetches)?.reach(Reach::AtMost(1.2)));
    }
    Ok(())
}

async fn beside_each_other(outcome: &mut Outcome, scale: &Scale, log: &Log<'_>, limit: u64) -> Result<()> {
    let (turn, room) = (scale.turn / 2, log.room);
    let (clients, streams) = (log.clients.to_vec(), log.streams.clone());
    let sides = [
        Side::new("unibus", &log.stand.ours(), move || {
            let clients = clients.clone();
            together(READERS, turn, move |reader, _| {
                let client = clients.get(reader).cloned();
                async move { page(client.context("a client")?, room, limit).await }
            })
        }),
        Side::new(FETCH, &log.stand.direct(), move || {
            let streams = streams.clone();
            together(READERS, turn, move |reader, _| {
                let stream = streams.get(reader).cloned();
                async move { fetch(stream.context("a stream")?, limit).await }
            })
        }),
    ];
    let [ours, fetches] = in_turns(scale, sides).await?;
    let claim = format!("History of the newest {limit}{}, {READERS} readers, pages", log.of());
    outcome.spent(&format!("a million pages of {limit}{}, {READERS} readers", log.of()), &[&ours, &fetches]);
    let line = Line::new(claim, Unit::PerSecond, ours.figure("rate")?, (FETCH, fetches.figure("rate")?));
    outcome.lines.push(match (room, limit) {
        (ACTIVE, 200) => line.reach(Reach::Above(3000.0)),
        (ACTIVE, _) => line,
        _ => line.reach(Reach::AtLeast(0.9)),
    });
    Ok(())
}

pub(super) async fn page(mut client: Client, room: &str, limit: u64) -> Result<()> {
    let request = HistoryRequest { room_id: room.to_owned(), limit: i32::try_from(limit)?, anchor: None };
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

pub(super) async fn fetch(stream: Stream, limit: u64) -> Result<()> {
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
