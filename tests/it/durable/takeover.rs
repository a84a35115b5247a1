//! One open subscription for each durable subscriber: the newest.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::{
    Client, Frames, Lobby, Nats, Process, Unibus, acknowledge, assert_status, create_room, eventually, explicit,
    floor_reaches, listed, metadata, payloads, publish, publish_n, reason, sequences,
};

/// How long a subscription may take to end.
const SOON: Duration = Duration::from_secs(10);

/// Asserts that a subscription ended because a newer one took over, at this position.
async fn is_taken_over(frames: &mut Frames, position: u64) {
    let ended = Err::<(), Status>(frames.end(SOON).await);
    let ended = assert_status(ended, Code::Aborted, "TAKEN_OVER");
    assert_eq!(metadata(&ended, "position"), position.to_string());
}

/// Waits until the instance behind this client knows the room.
async fn knows(client: &Client, room_id: &str) {
    eventually(Duration::from_secs(5), async || {
        let opened = Frames::open(client, explicit(room_id, "")).await;
        opened.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;
}

/// The older one reads ten messages, the newer one takes over and goes on where the older one stood.
async fn takes_over(older: &Client, newer: &Client) {
    create_room(older, "lobby").await;
    publish_n(older, "lobby", 10).await;
    knows(newer, "lobby").await;
    let mut old = Frames::durable(older, "lobby", "ann").await;
    let mut bystander = Frames::durable(older, "lobby", "bob").await;
    assert_eq!(sequences(&old.until_caught_up().await), listed(1..=10));
    bystander.messages(10).await;

    let mut new = Frames::durable(newer, "lobby", "ann").await;
    is_taken_over(&mut old, 10).await;
    assert!(new.opened().resumed);
    let again = sequences(&new.until_caught_up().await);
    assert_eq!(again, listed(new.opened().position + 1..=10));
    publish(newer, "lobby", "11").await.unwrap();
    assert_eq!(sequences(&new.messages(1).await), [11]);
    assert_eq!(sequences(&bystander.messages(1).await), [11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_subscription_takes_over_on_the_same_instance() {
    // Goal: one subscription for a durable. Method: open it twice on one instance; the older one ends with its position, the
    // newer one goes on; another subscriber is not touched.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    takes_over(&unibus.client().await, &unibus.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_subscription_takes_over_from_another_instance() {
    // Goal: one subscription for a durable, across instances. Method: as on one instance, with the newer one on another.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    takes_over(&first.client().await, &second.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_older_one_had_read_does_not_come_again() {
    // Goal: taking over writes the older one's automatic position first. Method: back and forth between two instances, a
    // message in between; each is delivered once, the last of them at the latest with the newest position.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [first.client().await, second.client().await];
    create_room(&clients[0], "lobby").await;
    knows(&clients[1], "lobby").await;
    let mut last: Option<Frames> = None;
    for sequence in 1..=6 {
        let client = &clients[usize::from(sequence % 2 == 0)];
        let mut frames = Frames::durable(client, "lobby", "ann").await;
        assert_eq!(frames.opened().position, sequence - 1);
        if let Some(mut older) = last.take() {
            is_taken_over(&mut older, sequence - 1).await;
        }
        publish(client, "lobby", sequence.to_string()).await.unwrap();
        assert_eq!(sequences(&frames.messages(1).await), [sequence]);
        floor_reaches(&nats, "lobby", "ann", sequence).await;
        last = Some(frames);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explicit_take_over_delivers_what_was_not_acknowledged() {
    // Goal: being taken over acknowledges nothing. Method: read five without an ack, take over; all five come again.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    let mut old = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    old.messages(5).await;
    let mut new = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    is_taken_over(&mut old, 5).await;
    assert_eq!(sequences(&new.until_caught_up().await), [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_take_overs_leaves_exactly_one() {
    // Goal: however many compete, one is left, and it works. Method: twenty subscriptions opened at once on two instances;
    // nineteen end because they were taken over; the one that is left gets the next message.
    const STORM: usize = 20;
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [first.client().await, second.client().await];
    create_room(&clients[0], "lobby").await;
    publish_n(&clients[0], "lobby", 3).await;
    knows(&clients[1], "lobby").await;

    let attempts = (0..STORM).map(|number| Frames::open(&clients[number % 2], explicit("lobby", "ann")));
    let opened = tokio::time::timeout(Duration::from_secs(30), join_all(attempts)).await.unwrap();
    let mut readers = Vec::new();
    for attempt in opened {
        match attempt {
            Ok(mut frames) => readers.push(tokio::spawn(async move { frames.end(SOON).await })),
            // Others were faster several times in a row: nothing was done, and a retry is advised.
            Err(status) if reason(&status) == "CONFLICT" => {
                assert_eq!(status.code(), Code::Aborted, "{status:?}");
            }
            Err(status) => assert_taken_over(status),
        }
    }
    let count = readers.len();
    eventually(SOON, async || {
        let left = readers.iter().filter(|reader| !reader.is_finished()).count();
        (left == 1).then_some(()).ok_or_else(|| format!("{left} of {count} are left"))
    })
    .await;
    let mut left = 0;
    for reader in readers {
        if reader.is_finished() {
            assert_taken_over(reader.await.unwrap());
        } else {
            left += 1;
            reader.abort();
        }
    }
    assert_eq!(left, 1);

    // The storm has left nothing behind that stands in the way of the next one.
    let mut next = Frames::open(&clients[0], explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&next.until_caught_up().await), [1, 2, 3]);
    publish(&clients[1], "lobby", "after").await.unwrap();
    assert_eq!(payloads(&next.messages(1).await), ["after"]);
}

#[track_caller]
fn assert_taken_over(status: Status) {
    assert_status::<()>(Err(status), Code::Aborted, "TAKEN_OVER");
}

/// An instance beside one that was killed while it had the open subscription of `ann` in `lobby`, which holds five messages.
async fn left_by_a_killed_owner(nats: &Nats) -> Unibus {
    let mut killed = Process::start(nats).await;
    let left = Unibus::start(nats).await;
    let client = killed.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 5).await;
    knows(&left.client().await, "lobby").await;
    let mut old = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    old.messages(5).await;
    killed.kill9();
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_over_from_a_killed_instance_is_immediate() {
    // Goal: an owner that died holds nobody up. Method: a subscription on a process; SIGKILL it; open the subscriber on the
    // instance that is left; its first frame and the backlog come within two seconds, and acknowledging works.
    let nats = Nats::start().await;
    let left = left_by_a_killed_owner(&nats).await;
    let other = left.client().await;

    let begun = Instant::now();
    let mut new = Frames::open(&other, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&new.until_caught_up().await), [1, 2, 3, 4, 5]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let acknowledged = acknowledge(&other, "lobby", "ann", 5).await.unwrap();
    assert_eq!(acknowledged, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledge_for_a_killed_instance_is_immediate() {
    // Goal: an owner that died does not hold up acks either. Method: a subscription on a process; SIGKILL it; acknowledge
    // through the instance that is left, within two seconds.
    let nats = Nats::start().await;
    let left = left_by_a_killed_owner(&nats).await;
    let other = left.client().await;

    let begun = Instant::now();
    assert_eq!(acknowledge(&other, "lobby", "ann", 4).await.unwrap(), 4);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
