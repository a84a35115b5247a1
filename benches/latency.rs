//! What the service adds to NATS, as ratios: each row beside a baseline that is measured in the same run, on the same
//! nats-server, in turns. `cargo bench` prints the table.
//!
//! One process holds the service, the client and the baseline, so the ratios say what a call costs, not how a machine
//! scales. Every figure is the median of the rounds' medians, with the spread of the rounds.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)] // a benchmark that cannot run says so

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream::Stream};
use bytes::Bytes;
use futures_util::StreamExt;
use tonic::transport::Channel;
use unibus::{
    Config, Server,
    v1::{CreateRoomRequest, GetRoomRequest, HistoryRequest, PublishRequest, room_service_client::RoomServiceClient},
};

const PAYLOAD: Bytes = Bytes::from_static(&[b'x'; 256]);
const ROUNDS: usize = 7;
const CALLS: usize = 300;
const READS: usize = 30;
const STORED: usize = 1200;

type Client = RoomServiceClient<Channel>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let data_dir = tempfile::tempdir().expect("a directory");
    let started = Instant::now();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = Config { listen: any, admin_listen: any, data_dir: data_dir.path().into(), ..Config::default() };
    let server = Server::bind(config).await.expect("the service");
    println!("start, with an own nats-server on an empty directory: {:?}", started.elapsed());

    let client = Client::connect(format!("http://{}", server.local_addr())).await.expect("a client");
    let room = CreateRoomRequest { room_id: "bench".into(), persist: true, ..CreateRoomRequest::default() };
    client.clone().create_room(room).await.expect("a room");
    let native = native(server.nats_url()).await;
    let stream = native.get_stream("UNIBUS_bench").await.expect("the room's stream");
    for _ in 0..STORED {
        publish_native(&native).await;
    }

    println!("\n| what | service | baseline | ratio |\n|---|---|---|---|");
    let echo = measure(CALLS, || get_missing(&client)).await;
    row("a unary call that asks NATS nothing but a key", &echo, None);
    let (service, direct) = compare(CALLS, || publish(&client), || publish_native(&native)).await;
    row("publish 256 B, synced, one at a time; async-nats", &service, Some(&direct));
    for limit in [200, 1000] {
        let (service, consumer) = compare(READS, || history(&client, limit), || fetch(&stream, limit)).await;
        row(&format!("history of the newest {limit}; an ephemeral consumer's fetch"), &service, Some(&consumer));
        let (service, sequential) = compare(READS / 10, || history(&client, limit), || get_each(&stream, limit)).await;
        row(&format!("history of the newest {limit}; sequential gets"), &service, Some(&sequential));
    }
    server.shutdown().await.expect("a clean stop");
}

/// Median of each round, ascending.
struct Rounds(Vec<Duration>);

impl Rounds {
    fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }
}

async fn measure<F: Future<Output = ()>>(calls: usize, mut call: impl FnMut() -> F) -> Rounds {
    compare(calls, &mut call, || async {}).await.0
}

/// Both sides in turns, after a round of each that does not count.
async fn compare<F, G>(calls: usize, mut one: impl FnMut() -> F, mut other: impl FnMut() -> G) -> (Rounds, Rounds)
where
    F: Future<Output = ()>,
    G: Future<Output = ()>,
{
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (a, b) = (round_of(calls, &mut one).await, round_of(calls, &mut other).await);
        if round > 0 {
            ones.push(a);
            others.push(b);
        }
    }
    ones.sort();
    others.sort();
    (Rounds(ones), Rounds(others))
}

async fn round_of<F: Future<Output = ()>>(calls: usize, call: &mut impl FnMut() -> F) -> Duration {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls.max(1) {
        let started = Instant::now();
        call().await;
        times.push(started.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

fn row(what: &str, service: &Rounds, baseline: Option<&Rounds>) {
    let show = |rounds: &Rounds| {
        let (low, high) = (rounds.0[0], rounds.0[rounds.0.len() - 1]);
        format!("{:.1?} ({low:.1?} to {high:.1?})", rounds.median())
    };
    let other = baseline.map(show).unwrap_or_default();
    let ratio =
        baseline.map(|baseline| format!("{:.2}", service.median().as_secs_f64() / baseline.median().as_secs_f64()));
    println!("| {what} | {} | {other} | {} |", show(service), ratio.unwrap_or_default());
}

async fn get_missing(client: &Client) {
    let request = GetRoomRequest { room_id: "missing".into() };
    client.clone().get_room(request).await.expect_err("no such room");
}

async fn publish(client: &Client) {
    let request = PublishRequest { room_id: "bench".into(), payload: PAYLOAD, ..PublishRequest::default() };
    client.clone().publish(request).await.expect("an acknowledgement");
}

async fn history(client: &Client, limit: usize) {
    let limit = i64::try_from(limit).expect("a small number");
    let request = HistoryRequest { room_id: "bench".into(), limit, anchor: None };
    let page = client.clone().history(request).await.expect("a page").into_inner();
    assert_eq!(page.messages.len() as u64, limit.unsigned_abs());
}

/// async-nats takes no user and password from a URL.
async fn native(url: &str) -> jetstream::Context {
    let (user_info, address) = url.trim_start_matches("nats://").split_once('@').expect("a URL with a user");
    let (user, password) = user_info.split_once(':').expect("a password");
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    jetstream::new(options.connect(address).await.expect("a connection"))
}

async fn publish_native(native: &jetstream::Context) {
    let sent = native.publish("unibus.room.bench", PAYLOAD).await.expect("a connection");
    sent.await.expect("an acknowledgement");
}

async fn last_sequence(stream: &Stream) -> u64 {
    stream.get_info().await.expect("a stream").state.last_sequence
}

async fn fetch(stream: &Stream, limit: usize) {
    let start_sequence = last_sequence(stream).await + 1 - limit as u64;
    let config = jetstream::consumer::pull::Config {
        deliver_policy: jetstream::consumer::DeliverPolicy::ByStartSequence { start_sequence },
        ack_policy: jetstream::consumer::AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(5),
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let messages = consumer.fetch().max_messages(limit).messages().await.expect("a fetch");
    assert_eq!(messages.filter(|message| std::future::ready(message.is_ok())).count().await, limit);
}

async fn get_each(stream: &Stream, limit: usize) {
    let last = last_sequence(stream).await;
    for sequence in last + 1 - limit as u64..=last {
        stream.get_raw_message(sequence).await.expect("a message");
    }
}
