//! Consume: several rooms on one stream, each with its frames, its mode and its end.

use std::time::Duration;

use unibus::v1::{GapReason, SubscribeRequest, consume_response::Frame, start::At};

use crate::support::{
    CommandsBy, Consuming, Frames, Lobby, Nats, Unibus, create_ephemeral, create_room, explicit, floor_reaches, listed,
    payloads, publish, publish_n, sequences, starting, subscription,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_share_a_stream_and_frames_say_whose_they_are() {
    // Goal: each room's frames are those of Subscribe, in order, tagged. Method: two persisted rooms with a backlog and an
    // ephemeral one on one stream; backlog, caught_up, live messages; beside them Subscribe shows the same messages.
    for by in CommandsBy::ALL {
        rooms_share(by).await;
    }
}

async fn rooms_share(by: CommandsBy) {
    let (_lobby, client) = Lobby::without_room().await;
    for (room, count) in [("red", 30), ("blue", 20)] {
        create_room(&client, room).await;
        publish_n(&client, room, count).await;
    }
    create_ephemeral(&client, "live").await;

    let mut stream = Consuming::start_by(by, &client).await;
    let opened = stream.open(subscription("red", "ann")).await;
    assert_eq!((opened.position, opened.last_sequence, opened.resumed), (0, 30, false));
    assert_eq!(stream.open(subscription("blue", "")).await.last_sequence, 20);
    stream.open(subscription("live", "")).await;
    for (room, count) in [("red", 30), ("blue", 20)] {
        let mut subscribed = Frames::transient(&client, room).await;
        let messages = stream.messages(room, count).await;
        assert_eq!(sequences(&messages), listed(1..=count as u64));
        assert_eq!(messages, subscribed.until_caught_up().await);
        let Frame::CaughtUp(caught_up) = stream.next_of(room).await else { panic!("not caught_up") };
        assert_eq!(caught_up.position, count as u64);
    }
    assert!(matches!(stream.next_of("live").await, Frame::CaughtUp(_)));

    for (room, payload) in [("blue", "b"), ("live", "l"), ("red", "r"), ("blue", "b2")] {
        publish(&client, room, payload).await.unwrap();
    }
    assert_eq!(payloads(&stream.messages("red", 1).await), ["r"]);
    assert_eq!(payloads(&stream.messages("blue", 2).await), ["b", "b2"]);
    assert_eq!(payloads(&stream.messages("live", 1).await), ["l"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_start_and_gap_is_as_in_subscribe() {
    // Goal: an open takes what Subscribe takes. Method: after a sequence that is no longer kept, with the gap told; the
    // newest few; a cursor; until_caught_up ends that room alone, with OK.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "red").await;
    create_room(&client, "blue").await;
    publish_n(&client, "red", 10).await;
    publish_n(&client, "blue", 10).await;
    lobby.nats.stream("red").await.purge().sequence(4).await.unwrap();

    let mut stream = Consuming::start(&client).await;
    let from_one = SubscribeRequest { until_caught_up: true, ..starting("red", At::AfterSequence(1)) };
    assert_eq!(stream.open(from_one).await.position, 1);
    let Frame::Gap(gap) = stream.next_of("red").await else { panic!("not a gap") };
    assert_eq!((gap.from_sequence, gap.to_sequence, gap.reason()), (2, 3, GapReason::Purged));
    assert_eq!(sequences(&stream.messages("red", 7).await), listed(4..=10));
    assert_eq!(stream.closed("red").await.code(), tonic::Code::Ok);

    assert_eq!(stream.open(starting("blue", At::Last(2))).await.position, 8);
    let newest = stream.messages("blue", 2).await;
    assert_eq!(sequences(&newest), [9, 10]);
    assert_eq!(stream.open(starting("red", At::New(()))).await.position, 10);
    stream.close("blue").await;
    assert_eq!(stream.closed("blue").await.code(), tonic::Code::Ok);
    assert_eq!(stream.open(starting("blue", At::AfterCursor(newest[0].cursor.clone()))).await.position, 9);
    assert_eq!(sequences(&stream.messages("blue", 1).await), [10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn automatic_acks_follow_each_room_by_itself() {
    // Goal: in AUTO mode what the client's stream has taken moves each durable's own position, and no other. Method: two
    // AUTO rooms, an EXPLICIT and a transient one, interleaved on one stream; then the positions as native clients see them,
    // while the stream is open and after it was dropped.
    let (lobby, client) = Lobby::without_room().await;
    for room in ["red", "blue", "green", "grey"] {
        create_room(&client, room).await;
    }
    let mut stream = Consuming::start(&client).await;
    stream.open(subscription("red", "ann")).await;
    stream.open(subscription("blue", "ann")).await;
    stream.open(explicit("green", "ann")).await;
    stream.open(subscription("grey", "")).await;
    for (room, count) in [("red", 40), ("blue", 25), ("green", 10), ("grey", 5)] {
        publish_n(&client, room, count).await;
        assert_eq!(sequences(&stream.messages(room, count).await), listed(1..=count as u64));
    }
    assert_eq!(floor_reaches(&lobby.nats, "red", "ann", 40).await, 40);
    assert_eq!(floor_reaches(&lobby.nats, "blue", "ann", 25).await, 25);
    publish_n(&client, "red", 1).await;
    assert_eq!(sequences(&stream.messages("red", 1).await), [41]);
    stream.close("red").await;
    assert_eq!(stream.closed("red").await.code(), tonic::Code::Ok);
    assert_eq!(floor_reaches(&lobby.nats, "red", "ann", 41).await, 41);
    drop(stream);

    for (room, position) in [("red", 41), ("blue", 25), ("green", 0)] {
        let mut frames = Frames::durable(&client, room, "ann").await;
        assert_eq!(frames.opened().position, position, "{room}");
        let again = frames.until_caught_up().await.len();
        assert_eq!(again, if room == "green" { 10 } else { 0 }, "{room}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_rooms_beat_each_by_itself() {
    // Goal: every open room gives signs of life, one that waits for credit too. Method: a short interval, an idle room and
    // one with a backlog and one message's credit; three heartbeats of each, with their positions.
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.heartbeat_interval = Duration::from_millis(200);
    })
    .await;
    let client = unibus.client().await;
    create_room(&client, "idle").await;
    create_room(&client, "held").await;
    publish_n(&client, "held", 3).await;
    let mut stream = Consuming::start(&client).await;
    stream.open(subscription("idle", "")).await;
    stream.open_within(subscription("held", ""), 1, 0).await;
    assert!(matches!(stream.next_of("idle").await, Frame::CaughtUp(_)));
    assert_eq!(sequences(&stream.messages("held", 1).await), [1]);
    for (room, position) in [("idle", 0), ("held", 1)] {
        for _ in 0..3 {
            let Frame::Heartbeat(heartbeat) = stream.next_of(room).await else { panic!("no heartbeat of {room}") };
            assert_eq!(heartbeat.position, position, "{room}");
        }
    }
}
