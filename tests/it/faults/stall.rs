//! A client whose connection stands still, beside others.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use unibus::v1::subscribe_response::Frame;

use crate::support::{
    Client, Frames, Mode, Nats, Process, Proxy, connect, create_room, explicit, publish, subscription,
};

const PAYLOAD_BYTES: usize = 64 * 1024;
/// 128 MiB in all: far more than all buffers between the service and a client hold.
const COUNT: u64 = 2048;
/// Half of what is published; the buffers of the six connections are in it.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;
const ALL_WITHIN: Duration = Duration::from_secs(120);

/// Publishes everything, several at a time, and sees how large the service gets meanwhile.
async fn publish_all(clients: &[Client], service: &Process) -> u64 {
    let publishers = clients.iter().map(async |client| {
        let mut largest = 0;
        for _ in 0..COUNT / clients.len() as u64 {
            publish(client, "lobby", vec![7; PAYLOAD_BYTES]).await.unwrap();
            largest = largest.max(service.resident_bytes());
        }
        largest
    });
    join_all(publishers).await.into_iter().max().expect("a publisher")
}

/// Reads everything within one subscription; each message once, in order.
async fn read_all(frames: &mut Frames) {
    let mut position = 0;
    while position < COUNT {
        match frames.next_frame(Duration::from_secs(30)).await.unwrap().expect("open") {
            Frame::Message(message) => {
                assert_eq!(message.sequence, position + 1);
                position = message.sequence;
            }
            Frame::Gap(gap) => panic!("{gap:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stand_still_slow_nobody_cost_little_memory_and_go_on_without_loss() {
    // Goal: a client that takes nothing for a while is alone with it. Method: the network to two subscribers freezes while
    // 128 MiB are published; three others get everything meanwhile, and the service grows by a bound only; then the network
    // goes on, and both read everything within the subscriptions that they had.
    let nats = Nats::start().await;
    let service = Process::start_with(&nats, &["--heartbeat-interval=1s", "--keepalive-interval=10m"], None).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    let proxy = Proxy::start(service.address()).await;
    let (first, second) = (connect(proxy.address()).await, connect(proxy.address()).await);
    let mut still = [
        Frames::open(&first, subscription("lobby", "auto")).await.unwrap(),
        Frames::open(&second, explicit("lobby", "explicit")).await.unwrap(),
    ];
    let mut others = Vec::new();
    for subscriber in ["ann", "bob", ""] {
        others.push(Frames::open(&service.client().await, subscription("lobby", subscriber)).await.unwrap());
    }
    let publishers = [service.client().await, service.client().await];

    proxy.set(Mode::Freeze);
    let before = service.resident_bytes();
    let (peak, _) = timeout(ALL_WITHIN, async {
        tokio::join!(publish_all(&publishers, &service), join_all(others.iter_mut().map(read_all)))
    })
    .await
    .expect("the others read everything while two stand still");
    let growth = peak.max(service.resident_bytes()).saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{before} bytes, then {growth} more");

    proxy.set(Mode::Pass);
    timeout(ALL_WITHIN, join_all(still.iter_mut().map(read_all)))
        .await
        .expect("those that stood still read everything");
}
