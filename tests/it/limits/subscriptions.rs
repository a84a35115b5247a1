//! An instance's open subscriptions have a bound, and an idle one costs little.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use tonic::{Code, Status};
use unibus::v1::SubscribeRequest;

use crate::support::{
    Client, Frames, Nats, Process, Unibus, assert_status, create_ephemeral, create_room, eventually, explicit,
    metadata, payloads, publish, subscription,
};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_beyond_the_limit_are_told_so_and_places_are_given_back() {
    // Goal: the bound is exact, however subscriptions end. Method: three places; subscriptions of each kind take them, over
    // two connections, after many that were taken over, closed, ended or refused; a fourth is told which limit it is;
    // other calls work; one leaves, and there is a place again.
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.rooms.max_subscriptions = 3;
    })
    .await;
    let (client, other) = (unibus.client().await, unibus.client().await);
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;

    let mut durable = opened(&client, subscription("lobby", "ann")).await;
    for _ in 0..6 {
        durable = opened(&client, subscription("lobby", "ann")).await;
        drop(opened(&client, subscription("live", "")).await);
        let refused = placed(async || Frames::open(&client, subscription("nowhere", "ann")).await.map(|_| ())).await;
        assert_status(refused, Code::NotFound, "ROOM_NOT_FOUND");
        let request = SubscribeRequest { until_caught_up: true, ..explicit("lobby", "bob") };
        assert_eq!(opened(&client, request).await.end(SOON).await.code(), Code::Ok);
    }
    let live = opened(&client, subscription("live", "")).await;
    let third = opened(&other, subscription("lobby", "")).await;
    for (room_id, subscriber) in [("lobby", "cem"), ("lobby", ""), ("live", "")] {
        for client in [&client, &other] {
            let refused = timeout(SOON, Frames::open(client, subscription(room_id, subscriber))).await;
            let refused = refused.expect("an answer at once").map(|_| ());
            let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
            assert_eq!(metadata(&refused, "limit"), "--max-subscriptions");
        }
    }
    publish(&other, "lobby", "on").await.unwrap();
    drop(live);
    let mut fourth = opened(&other, subscription("lobby", "")).await;
    assert_eq!(payloads(&fourth.messages(1).await), ["on"]);
    drop((durable, third));
}

/// Opens a subscription as soon as there is a place for it.
async fn opened(client: &Client, request: SubscribeRequest) -> Frames {
    placed(async || Frames::open(client, request.clone()).await).await.unwrap()
}

/// What a call answers when it is not for want of a place: that of a closed subscription is free a moment later.
async fn placed<T>(call: impl AsyncFn() -> Result<T, Status>) -> Result<T, Status> {
    eventually(SOON, async || match call().await {
        Err(status) if status.code() == Code::ResourceExhausted => Err(status.to_string()),
        answered => Ok(answered),
    })
    .await
}

const ROOMS: usize = 1000;
const SUBSCRIPTIONS_PER_ROOM: usize = 10;
const CONNECTIONS: usize = 8;
/// Calls under way at the same time.
const AT_ONCE: usize = 64;
/// What an idle subscription may cost in memory, its share of room and connection included; in a debug build.
const BYTES_PER_SUBSCRIPTION_MAX: u64 = 128 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_subscriptions_over_a_thousand_rooms_cost_little_memory_and_are_all_alive() {
    // Goal: an instance carries many idle subscriptions over few connections. Method: ten subscriptions to each of a thousand
    // rooms, over eight connections to a process; each opens and catches up; the process's memory stays below a bound for
    // each; then a message in every hundredth room reaches all its subscribers.
    let nats = Nats::start().await;
    let service = Process::start_with(&nats, &["--heartbeat-interval=10m"], None).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(service.client().await);
    }
    let clients = &clients;
    let creating = (0..ROOMS).map(async |room| {
        create_room(&clients[room % CONNECTIONS], &format!("room{room}")).await;
    });
    stream::iter(creating).buffer_unordered(AT_ONCE).collect::<()>().await;

    let before = service.resident_bytes();
    let opening = (0..ROOMS * SUBSCRIPTIONS_PER_ROOM).map(async |number| {
        let client = &clients[number / ROOMS % CONNECTIONS];
        let mut frames = Frames::transient(client, &format!("room{}", number % ROOMS)).await;
        assert_eq!(frames.until_caught_up().await, []);
        frames
    });
    let mut open: Vec<Frames> = stream::iter(opening).buffered(AT_ONCE).collect().await;
    let growth = service.resident_bytes().saturating_sub(before);
    let each = growth / (ROOMS * SUBSCRIPTIONS_PER_ROOM) as u64;
    assert!(each < BYTES_PER_SUBSCRIPTION_MAX, "{each} bytes each");

    for room in (0..ROOMS).step_by(100) {
        publish(&clients[0], &format!("room{room}"), "hello").await.unwrap();
        for frames in open.iter_mut().skip(room).step_by(ROOMS) {
            assert_eq!(payloads(&frames.messages(1).await), ["hello"]);
        }
    }
}
