//! Compares the ways in which an instance could follow the stream of an active room. Uses NATS alone, without the
//! service.
//!
//! The candidates:
//! - A core subscription to the room's subject. This is the baseline, because it is the minimum cost of NATS. It
//!   receives a message before the message is stored, and without its sequence.
//! - A core subscription to the subject to which the stream republishes, with sequences.
//! - An ephemeral pull consumer without acks, with the settings of `src/store/reader.rs`.
//! - The ordered push consumer of async-nats.
//!
//! The measurements:
//! - One message: published with core NATS when the one before has arrived.
//! - A stream of 256 B messages: published with core NATS, at most 2048 under way, until all have arrived and are
//!   stored; and the CPU time of NATS and the client.
//! - Idle: 1,000 streams with one follower each, on one connection; the CPU time of NATS and the client.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use async_nats::{
    header::NATS_SEQUENCE,
    jetstream::{
        self,
        consumer::{AckPolicy, DeliverPolicy, pull, push},
        stream::Republish,
    },
};
use futures_util::{StreamExt, TryStreamExt, future, stream, stream::BoxStream};
use tokio::{sync::Mutex, time};

use crate::{
    client::{self, PAYLOAD_BYTES},
    measure::{Measured, Scale, Side, Turn, busy_percent, in_turns, within},
    native,
    processes::{Disk, Nats},
    report::{Line, Outcome, Unit},
};

const WINDOW: u64 = 2048;
const CORE: &str = "core subscription";

#[derive(Clone, Copy, Debug)]
enum Kind {
    Core,
    Republished,
    Pull,
    OrderedPush,
}

const KINDS: [(Kind, &str); 4] = [
    (Kind::Core, CORE),
    (Kind::Republished, "republish subscription"),
    (Kind::Pull, "pull consumer without acks"),
    (Kind::OrderedPush, "ordered push consumer"),
];

/// The sequences of a stream's messages, as they come; 0 where the message does not carry it.
type Followed = BoxStream<'static, Result<u64>>;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let nats = Nats::start(Disk::Interval).await?;
    let publisher = native::connect(&nats).await?;
    let mut upstreams = Vec::new();
    for (number, (kind, _)) in KINDS.into_iter().enumerate() {
        // each has a stream of its own, so that no turn costs another one's follower anything
        upstreams.push(Upstream::create(&publisher, native::connect(&nats).await?, kind, number).await?);
    }
    let processes = [("nats", nats.id())];
    let single = upstreams.iter().zip(KINDS).map(|(upstream, (_, name))| {
        let (upstream, publisher) = (upstream.clone(), publisher.clone());
        Side::new(name, &processes, move || upstream.clone().one_by_one(publisher.clone(), scale.turn / 2))
    });
    let single: [Side; KINDS.len()] = single.collect::<Vec<_>>().try_into().ok().context("four")?;
    compare(&mut outcome, "upstream, one message, p50", Unit::Seconds, "p50", &in_turns(&scale, single).await?)?;

    let messages = scale.pick(100_000, 5_000);
    let streamed = upstreams.iter().zip(KINDS).map(|(upstream, (_, name))| {
        let (upstream, publisher) = (upstream.clone(), publisher.clone());
        Side::new(name, &processes, move || upstream.clone().stream(publisher.clone(), messages))
    });
    let streamed: [Side; KINDS.len()] = streamed.collect::<Vec<_>>().try_into().ok().context("four")?;
    let streamed = in_turns(&scale, streamed).await?;
    let claim = format!("upstream, {messages} messages");
    outcome.spent(&claim, &streamed.each_ref());
    compare(&mut outcome, &claim, Unit::PerSecond, "rate", &streamed)?;
    drop((upstreams, nats));

    idle(&mut outcome, &scale).await?;
    Ok(outcome)
}

/// A line for each candidate beside the first.
fn compare(outcome: &mut Outcome, claim: &str, unit: Unit, figure: &str, sides: &[Measured]) -> Result<()> {
    let core = sides.first().context("a baseline")?.figure(figure)?;
    for side in sides.iter().skip(1) {
        let claim = format!("{claim}: {}", side.side);
        outcome.lines.push(Line::new(claim, unit, side.figure(figure)?, (CORE, core.clone())));
    }
    Ok(())
}

#[derive(Clone)]
struct Upstream {
    name: String,
    subject: String,
    followed: Arc<Mutex<Followed>>,
}

impl Upstream {
    /// A stream, and a follower of it over this connection.
    async fn create(
        publisher: &jetstream::Context,
        context: jetstream::Context,
        kind: Kind,
        number: usize,
    ) -> Result<Self> {
        let (name, subject) = (format!("UP_{number}"), format!("up.{number}"));
        let republish = matches!(kind, Kind::Republished).then(|| Republish {
            source: ">".to_owned(),
            destination: "again.>".to_owned(),
            headers_only: false,
        });
        native::create_stream(publisher, &name, &subject, republish).await?;
        let followed = follow(&context, kind, &name, &subject).await?;
        native::settled(&context.client()).await;
        Ok(Self { name, subject, followed: Arc::new(Mutex::new(followed)) })
    }

    async fn one_by_one(self, publisher: jetstream::Context, duration: Duration) -> Result<Turn> {
        let mut followed = self.followed.lock().await;
        let (client, payload) = (publisher.client(), client::payload(PAYLOAD_BYTES));
        let end = Instant::now() + duration;
        let mut times = Vec::new();
        while Instant::now() < end {
            let started = Instant::now();
            client.publish(self.subject.clone(), payload.clone()).await?;
            within(Duration::from_secs(10), "a message", async { followed.try_next().await?.context("no more") })
                .await?;
            times.push(started.elapsed());
        }
        Turn::times(times)
    }

    async fn stream(self, publisher: jetstream::Context, messages: u64) -> Result<Turn> {
        let mut followed = self.followed.lock().await;
        let (client, payload) = (publisher.client(), client::payload(PAYLOAD_BYTES));
        let free = tokio::sync::Semaphore::new(WINDOW as usize);
        let before = native::last_sequence(&publisher, &self.name).await?;
        let started = Instant::now();
        let publish = async {
            for _ in 0..messages {
                free.acquire().await?.forget();
                client.publish(self.subject.clone(), payload.clone()).await?;
            }
            anyhow::Ok(())
        };
        let receive = async {
            for _ in 0..messages {
                std::hint::black_box(followed.try_next().await?.context("no more")?);
                free.add_permits(1);
            }
            Ok(())
        };
        within(Duration::from_secs(60), "a stream of messages", future::try_join(publish, receive)).await?;
        native::stored(&publisher, &self.name, before + messages).await?;
        Ok(Turn::rate(messages, started.elapsed()))
    }
}

async fn follow(context: &jetstream::Context, kind: Kind, name: &str, subject: &str) -> Result<Followed> {
    Ok(match kind {
        Kind::Core => context.client().subscribe(subject.to_owned()).await?.map(|_| Ok(0)).boxed(),
        Kind::Republished => {
            let messages = context.client().subscribe(format!("again.{subject}")).await?;
            let sequence = |message: async_nats::Message| {
                let headers = message.headers.context("a message that was not republished")?;
                Ok(headers.get_last(NATS_SEQUENCE).context("a sequence")?.as_str().parse()?)
            };
            messages.map(sequence).boxed()
        }
        Kind::Pull => {
            let config = pull::Config {
                deliver_policy: DeliverPolicy::New,
                ack_policy: AckPolicy::None,
                memory_storage: true,
                num_replicas: 1,
                inactive_threshold: Duration::from_secs(30),
                ..pull::Config::default()
            };
            let consumer = context.get_stream_no_info(name).await?.create_consumer(config).await?;
            let messages = consumer
                .stream()
                .max_messages_per_batch(256)
                .max_bytes_per_batch(3 << 20)
                .heartbeat(Duration::from_secs(2))
                .expires(Duration::from_secs(20))
                .messages()
                .await?;
            messages.map(|message| sequence(&message?)).boxed()
        }
        Kind::OrderedPush => {
            let config = push::OrderedConfig {
                deliver_subject: context.client().new_inbox(),
                deliver_policy: DeliverPolicy::New,
                ..push::OrderedConfig::default()
            };
            let consumer = context.get_stream(name).await?.create_consumer(config).await?;
            consumer.messages().await?.map(|message| sequence(&message?)).boxed()
        }
    })
}

fn sequence(message: &jetstream::Message) -> Result<u64> {
    Ok(message.info().map_err(|error| anyhow::anyhow!(error))?.stream_sequence)
}

/// The cost of followers of streams without new messages.
async fn idle(outcome: &mut Outcome, scale: &Scale) -> Result<()> {
    let (count, spans) = scale.pick((1000, 2), (20, 1));
    let span = scale.pick(Duration::from_secs(5), Duration::from_secs(1));
    let mut figures = Vec::new();
    for (kind, _) in KINDS {
        let nats = Nats::start(Disk::Interval).await?;
        let context = native::connect(&nats).await?;
        let created = stream::iter(0..count).map(|number| Upstream::create(&context, context.clone(), kind, number));
        let upstreams: Vec<_> = created.buffer_unordered(16).try_collect().await?;
        let mut polling = tokio::task::JoinSet::new();
        for upstream in upstreams {
            polling.spawn(async move { upstream.followed.lock().await.try_next().await });
        }
        time::sleep(scale.pick(Duration::from_secs(2), Duration::from_millis(100))).await;
        let [mut server, mut client] = [Vec::new(), Vec::new()];
        for _ in 0..spans {
            let [first, second] = busy_percent([nats.id(), std::process::id()], span).await?;
            server.push(first);
            client.push(second);
        }
        figures.push([server, client]);
    }
    let [server, client] = figures.first().cloned().context("a baseline")?;
    for ((_, name), [of_server, of_client]) in KINDS.into_iter().zip(figures).skip(1) {
        for (whose, ours, core) in [("nats-server", of_server, &server), ("the client", of_client, &client)] {
            let claim = format!("upstream, {count} idle, CPU of {whose}: {name}");
            outcome.lines.push(Line::new(claim, Unit::Percent, ours, (CORE, core.clone())));
        }
    }
    Ok(())
}
