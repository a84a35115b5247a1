//! A subscription from its first frame on: the backlog, the end of it, live messages, signs of life.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use unibus::v1::{SubscribeRequest, subscribe_response::Frame};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, acknowledge, assert_status, create_ephemeral, create_room, eventually, listed,
    payloads, publish, publish_n, sequences, subscription,
};

/// Longer than two heartbeats of these tests.
const FRAME_WITHIN: Duration = Duration::from_secs(5);

/// The next frame, which must come.
async fn frame(frames: &mut Frames) -> Frame {
    let next = frames.next_frame(FRAME_WITHIN).await.unwrap();
    next.expect("the subscription is open")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_joiner_gets_the_whole_backlog_and_then_what_is_new() {
    // Goal: scrollback. Method: a room with more messages than any buffer holds; a durable and a transient subscriber join
    // late; all of it in order, then a new message.
    const COUNT: usize = 3000;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    let room = create_room(&client, "lobby").await;
    nats.publish_n(&room.subject, COUNT).await;
    for subscriber in ["ann", ""] {
        let mut frames = Frames::durable(&client, "lobby", subscriber).await;
        let opened = frames.opened().clone();
        assert_eq!((opened.position, opened.first_sequence, opened.last_sequence), (0, 1, COUNT as u64));
        assert!(!opened.resumed);
        let messages = frames.until_caught_up().await;
        assert_eq!(sequences(&messages), listed(1..=COUNT as u64));
        assert_eq!(messages[COUNT - 1].payload, COUNT.to_string());
    }
    let mut frames = Frames::durable(&client, "lobby", "bob").await;
    assert_eq!(frames.until_caught_up().await.len(), COUNT);
    publish(&client, "lobby", "new").await.unwrap();
    assert_eq!(payloads(&frames.messages(1).await), ["new"]);
    assert_eq!(frames.gaps, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_seam_between_backlog_and_live() {
    // Goal: whoever joins while others publish gets each message once, in order. Method: a publisher that does not pause;
    // twenty subscribers that join one after the other; each reads up to the same last message.
    const COUNT: u64 = 1000;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let publisher = unibus.client().await;
    let publishing = async move { publish_n(&publisher, "lobby", usize::try_from(COUNT).unwrap()).await };
    let publishing = AbortOnDropHandle::new(tokio::spawn(publishing));
    let mut readers = Vec::new();
    for number in 0..20 {
        let subscriber = if number % 2 == 0 { format!("reader{number}") } else { String::new() };
        let mut frames = Frames::durable(&client, "lobby", &subscriber).await;
        readers.push(tokio::spawn(async move {
            let messages = frames.messages(usize::try_from(COUNT).unwrap()).await;
            assert_eq!(frames.gaps, []);
            sequences(&messages)
        }));
    }
    publishing.await.unwrap();
    for read in join_all(readers).await {
        assert_eq!(read.unwrap(), listed(1..=COUNT));
    }
}

/// Opens a subscription, and asserts that `caught_up` comes after `backlog` messages, at this position, and never again:
/// not with the next message, nor when the room is idle.
async fn is_caught_up_once(client: &Client, request: SubscribeRequest, backlog: usize, position: u64) {
    let room_id = request.room_id.clone();
    let mut frames = Frames::open(client, request).await.unwrap();
    for _ in 0..backlog {
        assert!(matches!(frame(&mut frames).await, Frame::Message(_)));
    }
    let caught_up = frame(&mut frames).await;
    assert!(matches!(&caught_up, Frame::CaughtUp(at) if at.position == position), "{caught_up:?}");
    publish(client, &room_id, "live").await.unwrap();
    let (mut messages, mut heartbeats) = (0, 0);
    while messages == 0 || heartbeats < 2 {
        match frame(&mut frames).await {
            Frame::Message(_) => messages += 1,
            Frame::Heartbeat(_) => heartbeats += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(messages, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caught_up_comes_once_in_every_kind_of_room() {
    // Goal: a client can tell backlog from live. Method: an empty room, a filled one, one whose messages are all deleted,
    // and an ephemeral one, with and without a durable; the frame, a message, two heartbeats.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = &unibus.client().await;
    for (room_id, count) in [("empty", 0), ("filled", 3), ("purged", 2)] {
        create_room(client, room_id).await;
        publish_n(client, room_id, count).await;
    }
    nats.stream("purged").await.purge().await.unwrap();
    create_ephemeral(client, "live").await;
    let once = |room_id: &str, subscriber: &str, backlog, position| {
        is_caught_up_once(client, subscription(room_id, subscriber), backlog, position)
    };
    tokio::join!(once("empty", "ann", 0, 0), once("filled", "ann", 3, 3), once("live", "", 0, 0));
    // One message was published in each.
    tokio::join!(once("empty", "", 1, 1), once("filled", "", 4, 4), once("purged", "", 0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_caught_up_ends_with_ok() {
    // Goal: a batch reader ends by itself. Method: empty, filled, resumed and ephemeral; `caught_up` is the last frame.
    let (_lobby, client) = Lobby::without_room().await;
    create_room(&client, "empty").await;
    create_room(&client, "filled").await;
    publish_n(&client, "filled", 5).await;
    create_ephemeral(&client, "live").await;
    for (room_id, subscriber, expected) in
        [("empty", "", 0), ("empty", "ann", 0), ("filled", "", 5), ("filled", "ann", 5), ("live", "", 0)]
    {
        let request = SubscribeRequest { until_caught_up: true, ..subscription(room_id, subscriber) };
        let mut frames = Frames::open(&client, request).await.unwrap();
        assert_eq!(frames.until_caught_up().await.len(), expected, "{room_id} {subscriber}");
        assert_eq!(frames.next_frame(FRAME_WITHIN).await.unwrap(), None, "{room_id} {subscriber}");
    }
    // The subscription that ended by itself has kept its position.
    publish_n(&client, "filled", 2).await;
    let request = SubscribeRequest { until_caught_up: true, ..subscription("filled", "ann") };
    let mut frames = Frames::open(&client, request).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), [6, 7]);
    assert_eq!(frames.end(FRAME_WITHIN).await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_subscription_gives_signs_of_life_with_its_position() {
    // Goal: silence means a dead connection. Method: idle rooms of all kinds; heartbeats at the announced interval, with
    // the position of what was sent.
    let (_lobby, client) = Lobby::without_room().await;
    create_room(&client, "empty").await;
    create_room(&client, "filled").await;
    publish_n(&client, "filled", 3).await;
    create_ephemeral(&client, "live").await;
    for (room_id, position) in [("empty", 0), ("filled", 3), ("live", 0)] {
        let mut frames = Frames::transient(&client, room_id).await;
        let interval = frames.opened().heartbeat_interval.expect("an interval");
        assert_eq!((interval.seconds, interval.nanos), (1, 0));
        frames.until_caught_up().await;
        let idle = Instant::now();
        for _ in 0..2 {
            let next = frame(&mut frames).await;
            assert!(matches!(&next, Frame::Heartbeat(at) if at.position == position), "{room_id} {next:?}");
        }
        assert!(idle.elapsed() > Duration::from_millis(1500), "{room_id}: {:?}", idle.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscribers_whose_names_map_alike_never_share_a_position() {
    // Goal: a durable belongs to one subscriber. Method: `a-b` first; `a_b` and `a.b`, on another instance too, have nothing to
    // acknowledge and then the whole backlog; `a-b` is not disturbed; in another room the name is free.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    create_room(&client, "other").await;
    publish_n(&client, "lobby", 3).await;
    let mut frames = Frames::durable(&client, "lobby", "a-b").await;
    assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 3]);
    eventually(FRAME_WITHIN, async || {
        let opened = Frames::open(&other, subscription("other", "")).await;
        opened.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;

    for (client, subscriber) in [(&client, "a_b"), (&other, "a.b")] {
        assert!(acknowledge(client, "lobby", subscriber, 1).await.is_err(), "{subscriber}");
        let mut frames = Frames::durable(client, "lobby", subscriber).await;
        assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 3], "{subscriber}");
        assert_eq!(acknowledge(client, "lobby", subscriber, 3).await.unwrap(), 3);
    }
    publish(&client, "lobby", "4").await.unwrap();
    assert_eq!(sequences(&frames.messages(1).await), [4]);
    Frames::durable(&client, "other", "a_b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_consumer_of_another_kind_is_left_alone() {
    // Goal: a durable that cannot be a subscriber's is refused, not changed. Method: a native durable without acks under
    // the mapped name; subscribing under it is refused; it is as it was.
    let (lobby, client) = Lobby::open().await;
    let config =
        pull::Config { durable_name: Some("lobby_ann".into()), ack_policy: AckPolicy::None, ..pull::Config::default() };
    let stream = lobby.nats.stream("lobby").await;
    stream.create_consumer(config).await.unwrap();
    let refused = Frames::open(&client, subscription("lobby", "ann")).await.map(|_| ());
    assert_status(refused, Code::AlreadyExists, "STREAM_INCOMPATIBLE");
    let info = stream.consumer_info("lobby_ann").await.unwrap();
    assert_eq!(info.config.ack_policy, AckPolicy::None);
}
