//! Acknowledge: from any instance, with or without an open subscription, never backwards, never past the end.

use std::time::Duration;

use futures_util::future::join_all;
use tonic::Code;

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, acknowledge, assert_status, create_ephemeral, create_room, eventually,
    explicit, floor, listed, metadata, publish_n, sequences,
};

/// Two instances that both know a room `lobby` of `count` messages, in which the durable `ann` exists.
async fn two_with_room(nats: &Nats, count: usize) -> (Unibus, Unibus) {
    let (first, second) = (Unibus::start(nats).await, Unibus::start(nats).await);
    let client = first.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", count).await;
    drop(Frames::open(&client, explicit("lobby", "ann")).await.unwrap());
    let other = second.client().await;
    eventually(Duration::from_secs(5), async || {
        let opened = Frames::open(&other, explicit("lobby", "probe")).await;
        opened.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_instance_acknowledges_for_an_open_subscription() {
    // Goal: a client may acknowledge through any instance. Method: a subscription on the first, acks through the second and
    // the first in turn; the positions are answered and native; the subscription goes on; the next one starts there.
    let nats = Nats::start().await;
    let (first, second) = two_with_room(&nats, 10).await;
    let (client, other) = (first.client().await, second.client().await);
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&frames.messages(10).await), listed(1..=10));

    for (client, position) in [(&other, 3), (&client, 4), (&other, 7)] {
        assert_eq!(acknowledge(client, "lobby", "ann", position).await.unwrap(), position);
        assert_eq!(floor(&nats, "lobby", "ann").await, position);
    }
    publish_n(&client, "lobby", 1).await;
    assert_eq!(sequences(&frames.messages(1).await), [11]);
    drop(frames);
    let mut frames = Frames::open(&other, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.opened().position, 7);
    assert_eq!(sequences(&frames.messages(4).await), [8, 9, 10, 11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_open_subscription_is_needed() {
    // Goal: an ack may come after the subscription ended, on whatever instance. Method: nothing open; acks through one
    // instance, then the other; the next subscription starts there.
    let nats = Nats::start().await;
    let (first, second) = two_with_room(&nats, 10).await;
    let (client, other) = (first.client().await, second.client().await);
    assert_eq!(acknowledge(&other, "lobby", "ann", 2).await.unwrap(), 2);
    assert_eq!(acknowledge(&client, "lobby", "ann", 6).await.unwrap(), 6);
    assert_eq!(acknowledge(&other, "lobby", "ann", 8).await.unwrap(), 8);
    assert_eq!(floor(&nats, "lobby", "ann").await, 8);
    let frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.opened().position, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_never_moves_back() {
    // Goal: a late ack does no harm. Method: a high one, then lower ones and 0, with and without an open subscription; all
    // are answered with the high one.
    let nats = Nats::start().await;
    let (first, second) = two_with_room(&nats, 10).await;
    let (client, other) = (first.client().await, second.client().await);
    assert_eq!(acknowledge(&client, "lobby", "ann", 9).await.unwrap(), 9);
    for lower in [8, 1, 0] {
        assert_eq!(acknowledge(&client, "lobby", "ann", lower).await.unwrap(), 9);
        assert_eq!(acknowledge(&other, "lobby", "ann", lower).await.unwrap(), 9);
    }
    let frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.opened().position, 9);
    assert_eq!(acknowledge(&other, "lobby", "ann", 5).await.unwrap(), 9);
    assert_eq!(floor(&nats, "lobby", "ann").await, 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_cannot_be_acknowledged() {
    // Goal: a mistaken ack is refused and moves nothing. Method: one after the end, and the largest number; an unknown
    // subscriber, also one whose name maps to a known one; an ephemeral room.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    drop(Frames::open(&client, explicit("lobby", "a-b")).await.unwrap());
    for sequence in [4, u64::MAX] {
        let refused = acknowledge(&client, "lobby", "a-b", sequence).await;
        let refused = assert_status(refused, Code::OutOfRange, "POSITION_AFTER_END");
        assert_eq!(metadata(&refused, "last_sequence"), "3");
    }
    assert_eq!(floor(&lobby.nats, "lobby", "a_b").await, 0);

    let unknown = acknowledge(&client, "lobby", "nobody", 1).await;
    assert_status(unknown, Code::NotFound, "SUBSCRIBER_NOT_FOUND");
    let alike = acknowledge(&client, "lobby", "a_b", 1).await.unwrap_err();
    assert!([Code::NotFound, Code::AlreadyExists].contains(&alike.code()), "{alike:?}");
    assert_eq!(floor(&lobby.nats, "lobby", "a_b").await, 0);

    create_ephemeral(&client, "live").await;
    let refused = acknowledge(&client, "live", "ann", 1).await;
    assert_status(refused, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
}

/// Acknowledges each of these at once, each answered with a position that is not below it; gives the highest.
async fn acknowledge_all(client: &Client, sequences: impl Iterator<Item = u64>) -> u64 {
    let calls = sequences.map(async |sequence| {
        let position = acknowledge(client, "lobby", "ann", sequence).await.unwrap();
        assert!(position >= sequence, "{position} for {sequence}");
        position
    });
    join_all(calls).await.into_iter().max().expect("a call")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_acknowledges_on_two_instances_end_at_the_highest() {
    // Goal: races lose no ack. Method: a hundred positions acknowledged at once, the even ones through one instance and the
    // odd ones through the other, without and with an open subscription; the position is the highest at the end.
    let nats = Nats::start().await;
    let (first, second) = two_with_room(&nats, 100).await;
    let (client, other) = (first.client().await, second.client().await);
    for (from, to, open) in [(1, 50, false), (51, 100, true)] {
        let frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
        let _open = open.then_some(frames);
        let odd = (from..=to).rev().filter(|sequence| sequence % 2 == 1);
        let even = (from..=to).filter(|sequence| sequence % 2 == 0);
        let (low, high) = tokio::join!(acknowledge_all(&client, odd), acknowledge_all(&other, even));
        assert!(low.max(high) == to, "{low} {high}");
        assert_eq!(floor(&nats, "lobby", "ann").await, to);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_racing_acknowledges_the_higher_stays() {
    // Goal: the order in which two acks arrive does not matter. Method: many rounds of two acks at once, one through each
    // instance; after each round the position is the higher of the two.
    let nats = Nats::start().await;
    let (first, second) = two_with_room(&nats, 60).await;
    let (client, other) = (first.client().await, second.client().await);
    for round in 0..30 {
        let (lower, higher) = (2 * round + 1, 2 * round + 2);
        let (low, high) =
            tokio::join!(acknowledge(&client, "lobby", "ann", lower), acknowledge(&other, "lobby", "ann", higher));
        assert!(low.unwrap() >= lower);
        assert_eq!(high.unwrap(), higher);
        assert_eq!(floor(&nats, "lobby", "ann").await, higher);
    }
}
