//! Coming back: after a clean end, a cut connection, the death of the service, and the death of NATS.

use std::{net::SocketAddr, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, transport::Endpoint};
use unibus::v1::{AckMode, SubscribeRequest};

use crate::support::{
    Client, Consuming, Frames, Lobby, Nats, Process, Unibus, acknowledge, assert_status, client_with_window,
    create_room, explicit, floor, floor_reaches, listed, metadata, over, publish, publish_n, sequences, subscription,
};

/// How soon a message that was not acknowledged comes again: far below the ack wait of a durable.
const AT_ONCE: Duration = Duration::from_secs(5);
/// How long a subscription may take to end.
const SOON: Duration = Duration::from_secs(10);

/// Opens the durable `ann` of the room `lobby` again, and asserts that it resumes after `position` and that the rest, up
/// to `last`, comes in order and at once.
async fn resumes_after(client: &Client, position: u64, last: u64) -> Frames {
    let begun = Instant::now();
    let mut frames = Frames::open(client, explicit("lobby", "ann")).await.unwrap();
    assert!(frames.opened().resumed);
    assert_eq!(frames.opened().position, position);
    let messages = frames.until_caught_up().await;
    assert_eq!(sequences(&messages), listed(position + 1..=last));
    assert_eq!(frames.gaps, []);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    frames
}

/// A room `lobby` with ten messages, all of them delivered to the durable `ann`, which acknowledged the first five.
async fn half_acknowledged(client: &Client) -> Frames {
    create_room(client, "lobby").await;
    publish_n(client, "lobby", 10).await;
    let mut frames = Frames::open(client, explicit("lobby", "ann")).await.unwrap();
    assert!(!frames.opened().resumed);
    assert_eq!(sequences(&frames.messages(10).await), listed(1..=10));
    assert_eq!(acknowledge(client, "lobby", "ann", 5).await.unwrap(), 5);
    frames
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_acknowledged_comes_again_in_order_and_at_once() {
    // Goal: EXPLICIT loses nothing and does not make the subscriber wait. Method: read ten, acknowledge five, close, open
    // again; the other five; again without a further ack; again after an ack of all.
    let (_lobby, client) = Lobby::without_room().await;
    drop(half_acknowledged(&client).await);
    drop(resumes_after(&client, 5, 10).await);
    drop(resumes_after(&client, 5, 10).await);
    acknowledge(&client, "lobby", "ann", 10).await.unwrap();
    let mut frames = resumes_after(&client, 10, 10).await;
    publish(&client, "lobby", "11").await.unwrap();
    assert_eq!(sequences(&frames.messages(1).await), [11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_ack_the_whole_backlog_comes_again() {
    // Goal: reading alone moves nothing under EXPLICIT. Method: read all twice; the position is 0 natively all the time.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    let mut first = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&first.messages(5).await), [1, 2, 3, 4, 5]);
    drop(first);
    drop(resumes_after(&client, 0, 5).await);
    assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_acks_follow_what_the_client_has_read() {
    // Goal: AUTO needs no calls. Method: read ten messages; the position is 10 natively while the subscription is open, and
    // the next one starts there.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    assert_eq!(sequences(&frames.messages(10).await), listed(1..=10));
    assert_eq!(floor_reaches(&lobby.nats, "lobby", "ann", 10).await, 10);
    drop(frames);
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    assert!(frames.opened().resumed);
    assert_eq!(frames.opened().position, 10);
    publish(&client, "lobby", "11").await.unwrap();
    assert_eq!(sequences(&frames.messages(1).await), [11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_acks_nothing_that_waits_in_the_service() {
    // Goal: a message is acked when the client's window took it, not when the service had it ready. Method: a client with
    // a small window that never reads; the next subscription starts within that window, and everything after it comes.
    const PAYLOAD_BYTES: usize = 1024;
    const WINDOW_BYTES: u32 = 16 * 1024;
    const COUNT: u64 = 300;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    for _ in 0..COUNT {
        publish(&client, "lobby", vec![7; PAYLOAD_BYTES]).await.unwrap();
    }

    let narrow = client_with_window(unibus.address(), WINDOW_BYTES).await;
    let silent = Frames::durable(&narrow, "lobby", "ann").await;
    floor_reaches(&nats, "lobby", "ann", 1).await;
    drop(silent);
    drop(narrow);

    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    let position = frames.opened().position;
    // What the window holds, and what a client that has read one frame may have been granted on top of it.
    let takeable = 2 * u64::from(WINDOW_BYTES) / PAYLOAD_BYTES as u64;
    assert!((1..=takeable).contains(&position), "{position} of {takeable}");
    let messages = frames.until_caught_up().await;
    assert_eq!(sequences(&messages), listed(position + 1..=COUNT));
}

/// Passes connections on to the service, and cuts them when it is dropped, as a crash of the client's machine would.
struct Wire {
    address: SocketAddr,
    _relay: AbortOnDropHandle<()>,
}

impl Wire {
    async fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(service).await.unwrap();
                connections.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        };
        Self { address, _relay: AbortOnDropHandle::new(tokio::spawn(relay)) }
    }

    async fn client(&self) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        over(endpoint.connect().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resume_after_a_cut_connection_has_no_gap() {
    // Goal: a client that vanishes loses nothing. Method: cut its connection with half of the messages acknowledged;
    // another connection resumes there.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let wire = Wire::to(unibus.address()).await;
    let mut cut = half_acknowledged(&wire.client().await).await;
    drop(wire);
    let ended = cut.end(SOON).await;
    assert_ne!(ended.code(), Code::Ok);
    resumes_after(&unibus.client().await, 5, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resume_after_the_service_was_killed_has_no_gap() {
    // Goal: the service keeps nothing that must survive. Method: SIGKILL it with half of the messages acknowledged; another
    // process resumes there, explicit and automatic subscribers alike.
    let nats = Nats::start().await;
    let mut killed = Process::start(&nats).await;
    let client = killed.client().await;
    let _explicit = half_acknowledged(&client).await;
    let mut auto = Frames::durable(&client, "lobby", "bob").await;
    auto.messages(10).await;
    floor_reaches(&nats, "lobby", "bob", 10).await;
    killed.kill9();

    let service = Process::start(&nats).await;
    let client = service.client().await;
    publish(&client, "lobby", "11").await.unwrap();
    resumes_after(&client, 5, 11).await;
    let mut auto = Frames::durable(&client, "lobby", "bob").await;
    assert_eq!(auto.opened().position, 10);
    assert_eq!(sequences(&auto.until_caught_up().await), [11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answered_acknowledge_survives_the_death_of_nats() {
    // Goal: an Acknowledge is durable when it returns. Method: SIGKILL the NATS server at once after the answer, restart it,
    // several times over; the position is the one that was answered, for the service and natively.
    let (mut lobby, client) = Lobby::without_room().await;
    drop(half_acknowledged(&client).await);
    for position in 6..=9 {
        let answered = acknowledge(&client, "lobby", "ann", position).await.unwrap();
        assert_eq!(answered, position);
        lobby.nats.kill9();
        lobby.nats.restart().await;
        assert_eq!(floor(&lobby.nats, "lobby", "ann").await, position);
        reopens(&client).await;
        drop(resumes_after(&client, position, 10).await);
    }
}

/// Waits until a subscription can be opened again.
async fn reopens(client: &Client) {
    crate::support::eventually(Duration::from_secs(20), async || {
        let opened = Frames::open(client, explicit("lobby", "other")).await;
        opened.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_ends_subscriptions_with_their_position_and_the_process_with_success() {
    // Goal: a planned stop is told from a failure, and costs nothing. Method: an automatic, an explicit and a transient
    // subscription; SIGTERM; each ends with UNAVAILABLE and its position, the process exits 0; another process resumes.
    let nats = Nats::start().await;
    let mut stopped = Process::start(&nats).await;
    let client = stopped.client().await;
    let explicit = half_acknowledged(&client).await;
    let mut open = vec![explicit];
    for subscriber in ["bob", ""] {
        let mut frames = Frames::durable(&client, "lobby", subscriber).await;
        frames.messages(10).await;
        open.push(frames);
    }

    let begun = Instant::now();
    stopped.terminate();
    for frames in &mut open {
        let ended = Err::<(), _>(frames.end(SOON).await);
        let ended = assert_status(ended, Code::Unavailable, "DRAINING");
        assert_eq!(metadata(&ended, "position"), "10");
    }
    let status = stopped.wait(SOON).await;
    assert_eq!(status.code(), Some(0), "{:?}", stopped.stdout());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());

    let service = Process::start(&nats).await;
    let client = service.client().await;
    resumes_after(&client, 5, 10).await;
    let auto = Frames::durable(&client, "lobby", "bob").await;
    assert_eq!(auto.opened().position, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_does_not_hold_up_the_drain() {
    // Goal: the drain is bounded whatever clients do, and says honestly that it cut somebody off. Method: a client whose
    // window is full and that reads nothing; SIGTERM; the process ends soon after the drain timeout, with 1; nothing that
    // the client could not take counts as taken.
    const COUNT: u64 = 50;
    let nats = Nats::start().await;
    let dir = TempDir::new().unwrap();
    let data_dir = format!("--data-dir={}", dir.path().display());
    let url = format!("--nats-url={}", nats.url());
    let mut stopped = Process::spawn(&[&url, &data_dir, "--drain-timeout=1s"]);
    stopped.ready().await;
    let client = stopped.client().await;
    create_room(&client, "lobby").await;
    for _ in 0..COUNT {
        publish(&client, "lobby", vec![7; 16 * 1024]).await.unwrap();
    }
    let narrow = client_with_window(stopped.address(), 64 * 1024).await;
    let _silent = Frames::durable(&narrow, "lobby", "ann").await;
    // By the time that a position is written back, the window is full.
    floor_reaches(&nats, "lobby", "ann", 1).await;
    stopped.terminate();
    assert_eq!(stopped.wait(SOON).await.code(), Some(1), "{:?}", stopped.stdout());

    let service = Process::start(&nats).await;
    let mut frames = Frames::durable(&service.client().await, "lobby", "ann").await;
    let position = frames.opened().position;
    assert!(position <= 2 * 64 / 16, "{position}");
    assert_eq!(sequences(&frames.until_caught_up().await), listed(position + 1..=COUNT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_say_acknowledges_itself() {
    // Goal: nothing is lost by a client that has not chosen to lose something. Method: a durable subscription without an
    // `ack_mode` reads everything and ends; the next one, and one on a Consume stream, get everything again; what is
    // acknowledged does not come again.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let unset = SubscribeRequest { ack_mode: AckMode::Unspecified.into(), ..subscription("lobby", "ann") };
    for _ in 0..2 {
        let request = SubscribeRequest { until_caught_up: true, ..unset.clone() };
        let mut frames = Frames::open(&client, request).await.unwrap();
        assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 3]);
        assert!(frames.next_frame(Duration::from_secs(10)).await.unwrap().is_none());
    }
    let mut consuming = Consuming::start(&client).await;
    consuming.open(unset.clone()).await;
    assert_eq!(sequences(&consuming.messages("lobby", 3).await), [1, 2, 3]);
    drop(consuming);
    assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 0);
    assert_eq!(acknowledge(&client, "lobby", "ann", 2).await.unwrap(), 2);
    let mut frames = Frames::open(&client, unset).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), [3]);
}
