//! A start at a time that has not come yet.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tonic::Code;
use unibus::v1::{AckMode, Message, SeekSubscriberRequest, Start, SubscribeRequest, start::At};

use crate::support::{
    Client, Frames, Lobby, assert_field, assert_status, everything, explicit, floor, publish, publish_n, sequences,
    starting,
};

/// So far ahead that messages are stored in the meantime.
const AHEAD: Duration = Duration::from_millis(1500);

fn ahead(by: Duration) -> At {
    At::Since((SystemTime::now() + by).into())
}

/// Publishes a message each 20 ms for as long as `call` takes, and on for a while.
async fn while_publishing<T>(client: &Client, call: impl Future<Output = T>) -> T {
    let publishing = async {
        loop {
            publish(client, "lobby", "x").await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let called = async {
        let result = call.await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        result
    };
    tokio::select! {
        () = publishing => unreachable!("it goes on"),
        result = called => result,
    }
}

/// The first message stored at or after the time of this start.
async fn first_since(client: &Client, at: &At) -> u64 {
    let At::Since(since) = at else { panic!("{at:?}") };
    let is_since = |message: &Message| {
        let time = message.published_at.expect("a time");
        (time.seconds, time.nanos) >= (since.seconds, since.nanos)
    };
    let all = everything(client, "lobby").await;
    let first = all.iter().position(is_since).expect("a message since then");
    assert!(first > 0, "the time had come already");
    all[first].sequence
}

fn durable(at: At, subscriber: &str) -> SubscribeRequest {
    SubscribeRequest { start: Some(Start { at: Some(at) }), ..explicit("lobby", subscriber) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_begins_when_its_time_has_come() {
    // Goal: what is stored before `since` never comes, also when that time lies ahead. Method: subscriptions with and without
    // a name whose time comes while messages are published; the first message is the first one of that time. The durable
    // one begins there again, since it acknowledged nothing.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;

    let at = ahead(AHEAD);
    let open = Frames::open(&client, starting("lobby", at.clone()));
    let mut frames = while_publishing(&client, open).await.unwrap();
    let first = first_since(&client, &at).await;
    assert_eq!(frames.opened().position, first - 1);
    assert_eq!(sequences(&frames.messages(2).await), [first, first + 1]);

    let at = ahead(AHEAD);
    let open = Frames::open(&client, durable(at.clone(), "ann"));
    let mut frames = while_publishing(&client, open).await.unwrap();
    let first = first_since(&client, &at).await;
    assert_eq!(sequences(&frames.messages(1).await), [first]);
    drop(frames);
    let mut again = Frames::open(&client, durable(ahead(Duration::from_secs(3600)), "ann")).await.unwrap();
    assert!(again.opened().resumed);
    assert_eq!(sequences(&again.messages(1).await), [first]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_is_moved_to_a_time_that_comes() {
    // Goal: the same of SeekSubscriber. Method: move a subscriber to a time ahead while messages are published.
    let (_lobby, mut client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    drop(Frames::open(&client, durable(At::All(()), "ann")).await.unwrap());

    let at = ahead(AHEAD);
    let request = SeekSubscriberRequest {
        room_id: "lobby".into(),
        subscriber: "ann".into(),
        position: Some(Start { at: Some(at.clone()) }),
    };
    let publisher = client.clone();
    let sought = while_publishing(&publisher, client.seek_subscriber(request)).await.unwrap().into_inner();
    assert_eq!(sought.position, first_since(&client, &at).await - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_far_ahead_is_refused_by_name() {
    // Goal: what cannot be kept is not promised. Method: an hour ahead, and the year 9999; the field is named, no durable is
    // left behind, and a subscriber stays where it was.
    let (lobby, mut client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    drop(Frames::open(&client, durable(At::AfterSequence(2), "ann")).await.unwrap());
    let last = At::Since(Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 });
    for at in [ahead(Duration::from_secs(3600)), last] {
        let refused = Frames::open(&client, starting("lobby", at.clone())).await.map(|_| ());
        assert_field(refused, "start.since", "unnamed");
        let auto = SubscribeRequest { ack_mode: AckMode::Auto.into(), ..durable(at.clone(), "bob") };
        let refused = Frames::open(&client, auto).await.map(|_| ());
        assert_field(refused, "start.since", "durable");
        let left = lobby.nats.stream("lobby").await.consumer_info("lobby_bob").await;
        assert!(left.is_err(), "a durable was left behind");
        let request = SeekSubscriberRequest {
            room_id: "lobby".into(),
            subscriber: "ann".into(),
            position: Some(Start { at: Some(at.clone()) }),
        };
        let refused = client.seek_subscriber(request).await;
        assert_status(refused.map(drop), Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 2);
    }
}
