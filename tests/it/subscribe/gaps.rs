//! Messages that are gone: every sequence is delivered or named in a gap, once, in order.

use std::time::Duration;

use tonic::Code;
use unibus::v1::{
    CreateRoomRequest, Gap, GapReason, PurgeRoomRequest, Retention, SubscribeRequest, start::At,
    subscribe_response::Frame,
};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, client_with_window, create_room, eventually, explicit, history, listed,
    persisted, publish, publish_n, sequences, starting, subscription,
};

const FRAME_WITHIN: Duration = Duration::from_secs(10);

fn gap(from_sequence: u64, to_sequence: u64, reason: GapReason) -> Gap {
    Gap { from_sequence, to_sequence, reason: reason.into(), dropped: 0 }
}

/// Reads up to and including this sequence, and asserts that nothing is missing or doubled after `position`; gives the
/// sequences of the messages and the reasons of the gaps.
async fn read_to(frames: &mut Frames, mut position: u64, last: u64) -> (Vec<u64>, Vec<GapReason>) {
    let (mut messages, mut reasons) = (Vec::new(), Vec::new());
    while position < last {
        match frames.next_frame(FRAME_WITHIN).await.unwrap().expect("open") {
            Frame::Message(message) => {
                assert_eq!(message.sequence, position + 1, "{:?}", frames.gaps);
                position = message.sequence;
                messages.push(position);
            }
            Frame::Gap(gap) => {
                assert_eq!(gap.from_sequence, position + 1, "{gap:?}");
                assert!(gap.to_sequence >= gap.from_sequence && gap.dropped == 0, "{gap:?}");
                position = gap.to_sequence;
                reasons.push(gap.reason());
            }
            Frame::CaughtUp(at) => assert_eq!(at.position, position),
            Frame::Heartbeat(at) => assert_eq!(at.position, position),
            other @ Frame::Opened(_) => panic!("{other:?}"),
        }
    }
    assert_eq!(position, last);
    (messages, reasons)
}

async fn bounded_room(client: &Client, max_messages: i64) {
    let retention = Some(Retention { max_messages, ..Retention::default() });
    let request = CreateRoomRequest { retention, ..persisted("lobby") };
    client.clone().create_room(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_before_the_first_kept_message_tells_what_expired() {
    // Goal: retention is no silent loss. Method: a room that keeps three of ten; start after 0, after 4, from the oldest,
    // and with a durable that had stopped at 2.
    let (_lobby, client) = Lobby::without_room().await;
    bounded_room(&client, 3).await;
    publish_n(&client, "lobby", 2).await;
    let request = SubscribeRequest { until_caught_up: true, ..subscription("lobby", "ann") };
    let mut before = Frames::open(&client, request).await.unwrap();
    before.until_caught_up().await;
    assert_eq!(before.end(FRAME_WITHIN).await.code(), Code::Ok);
    publish_n(&client, "lobby", 8).await;

    for (request, from) in [
        (starting("lobby", At::AfterSequence(0)), Some(1)),
        (starting("lobby", At::AfterSequence(4)), Some(5)),
        (starting("lobby", At::AfterSequence(7)), None),
        (starting("lobby", At::All(())), None),
        (subscription("lobby", "ann"), Some(3)),
    ] {
        let case = format!("{request:?}");
        let mut frames = Frames::open(&client, request).await.unwrap();
        assert_eq!(frames.opened().first_sequence, 8, "{case}");
        assert_eq!(frames.opened().position, from.unwrap_or(8) - 1, "{case}");
        assert_eq!(sequences(&frames.until_caught_up().await), [8, 9, 10], "{case}");
        let expected = from.map(|from| gap(from, 7, GapReason::Expired));
        assert_eq!(frames.gaps, listed(expected), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_told_as_such_where_nothing_expires() {
    // Goal: in a room without bounds a purge is the only explanation. Method: purge natively up to 5 of 8, then all; start
    // at the beginning each time; the next message follows.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 8).await;
    let stream = lobby.nats.stream("lobby").await;
    stream.purge().sequence(6).await.unwrap();
    let mut frames = Frames::open(&client, starting("lobby", At::AfterSequence(0))).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), [6, 7, 8]);
    assert_eq!(frames.gaps, [gap(1, 5, GapReason::Purged)]);

    stream.purge().await.unwrap();
    let mut frames = Frames::open(&client, starting("lobby", At::AfterSequence(0))).await.unwrap();
    assert_eq!(frames.until_caught_up().await, []);
    assert_eq!(frames.gaps, [gap(1, 8, GapReason::Purged)]);
    publish(&client, "lobby", "9").await.unwrap();
    assert_eq!(sequences(&frames.messages(1).await), [9]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_messages_between_kept_ones_are_named() {
    // Goal: a hole is named with its exact bounds. Method: delete two runs in the middle natively; read all; start within a
    // hole; resume a durable within a hole.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;
    lobby.nats.delete_messages("lobby", [3, 5, 6, 7]).await;

    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 4, 8, 9, 10]);
    assert_eq!(frames.gaps, [gap(3, 3, GapReason::Deleted), gap(5, 7, GapReason::Deleted)]);
    let mut frames = Frames::open(&client, starting("lobby", At::AfterSequence(5))).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), [8, 9, 10]);
    assert_eq!(frames.gaps, [gap(6, 7, GapReason::Deleted)]);
    drop(Frames::open(&client, explicit("lobby", "bob")).await.unwrap());
    crate::support::acknowledge(&client, "lobby", "bob", 6).await.unwrap();
    let mut frames = Frames::open(&client, explicit("lobby", "bob")).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), [8, 9, 10]);
    assert_eq!(frames.gaps, [gap(7, 7, GapReason::Deleted)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_end_does_not_keep_the_backlog_open() {
    // Goal: `caught_up` comes although the last messages are gone. Method: delete the newest two of five, then every one;
    // the backlog ends with a gap, and what is published later follows.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    lobby.nats.delete_messages("lobby", [4, 5]).await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 3]);
    assert_eq!(frames.gaps, [gap(4, 5, GapReason::Deleted)]);
    lobby.nats.delete_messages("lobby", [1, 2, 3]).await;
    let mut empty = Frames::open(&client, starting("lobby", At::AfterSequence(0))).await.unwrap();
    assert_eq!(empty.until_caught_up().await, []);
    assert_eq!(read_gaps(&empty), [(1, 5)]);
    publish(&client, "lobby", "6").await.unwrap();
    assert_eq!(sequences(&frames.messages(1).await), [6]);
    assert_eq!(sequences(&empty.messages(1).await), [6]);
}

/// The bounds of the gaps, adjoining ones taken together.
fn read_gaps(frames: &Frames) -> Vec<(u64, u64)> {
    let mut bounds: Vec<(u64, u64)> = Vec::new();
    for gap in &frames.gaps {
        match bounds.last_mut() {
            Some(last) if last.1 + 1 == gap.from_sequence => last.1 = gap.to_sequence,
            _ => bounds.push((gap.from_sequence, gap.to_sequence)),
        }
    }
    bounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_does_not_disturb_a_subscriber_that_has_read_it_all() {
    // Goal: what was delivered is not reported as lost. Method: read all, purge natively, publish; the next message, no gap.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    frames.until_caught_up().await;
    lobby.nats.stream("lobby").await.purge().await.unwrap();
    publish(&client, "lobby", "6").await.unwrap();
    assert_eq!(sequences(&frames.messages(1).await), [6]);
    assert_eq!(frames.gaps, []);
}

/// A subscriber stands still in a backlog of large messages; `remove` takes messages away; then it reads on to a message
/// that is published last. Nothing may be missing without a gap, and there must be one.
async fn reads_on_after(remove: impl AsyncFnOnce(&Nats)) -> Vec<GapReason> {
    const COUNT: u64 = 600;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    for _ in 0..COUNT {
        publish(&client, "lobby", vec![7; 16 * 1024]).await.unwrap();
    }
    let narrow = client_with_window(unibus.address(), 64 * 1024).await;
    let mut frames = Frames::durable(&narrow, "lobby", "ann").await;
    let (first, gaps) = read_to(&mut frames, 0, 3).await;
    assert_eq!((first, gaps), (vec![1, 2, 3], vec![]));
    remove(&nats).await;
    publish(&client, "lobby", "last").await.unwrap();
    let (messages, gaps) = read_to(&mut frames, 3, COUNT + 1).await;
    assert_eq!(messages.last(), Some(&(COUNT + 1)));
    assert!(!gaps.is_empty(), "the test removes nothing that was still to come");
    gaps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_ahead_of_a_slow_subscriber_is_a_gap() {
    // Goal: what is purged before it was sent is told. Method: a subscriber that stands still while everything is purged.
    let gaps = reads_on_after(async |nats| {
        nats.stream("lobby").await.purge().await.unwrap();
    });
    assert_eq!(gaps.await, [GapReason::Purged]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_ahead_of_a_slow_subscriber_are_gaps() {
    // Goal: what is deleted before it was sent is told. Method: a subscriber that stands still while every second message of
    // the later ones is deleted.
    let gaps = reads_on_after(async |nats| {
        nats.delete_messages("lobby", (500..600).step_by(2)).await;
    });
    assert!(gaps.await.iter().all(|reason| *reason == GapReason::Deleted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_that_overtakes_a_slow_subscriber_is_a_gap() {
    // Goal: a room's bounds go on while a subscriber stands still, and it is told. Method: a room of a hundred messages; the
    // subscriber stands still while another thousand come; it reads on to the last.
    const LAST: u64 = 1100;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    bounded_room(&client, 100).await;
    for _ in 0..100 {
        publish(&client, "lobby", vec![7; 8 * 1024]).await.unwrap();
    }
    let narrow = client_with_window(unibus.address(), 64 * 1024).await;
    let mut frames = Frames::durable(&narrow, "lobby", "ann").await;
    read_to(&mut frames, 0, 3).await;
    for _ in 100..LAST {
        publish(&client, "lobby", vec![7; 8 * 1024]).await.unwrap();
    }
    let (messages, gaps) = read_to(&mut frames, 3, LAST).await;
    assert_eq!(messages.last(), Some(&LAST));
    assert!(!gaps.is_empty());
    assert!(gaps.iter().all(|reason| *reason == GapReason::Expired), "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_by_the_service_is_called_so_and_reaches_who_was_behind() {
    // Goal: a purge is told apart from expiry where messages expire too, and what was purged is not delivered from memory.
    // Method: a reader with a small window that does not read while messages pass and the room is purged on another
    // instance; then it reads: every sequence once, the purged ones in gaps of that reason.
    let nats = Nats::start().await;
    let instances = [Unibus::start(&nats).await, Unibus::start(&nats).await];
    let client = instances[0].client().await;
    let max_age = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let retention = Some(Retention { max_age, ..Retention::default() });
    client.clone().create_room(CreateRoomRequest { retention, ..persisted("lobby") }).await.unwrap();
    let narrow = client_with_window(instances[0].address(), 16 * 1024).await;
    let mut slow = Frames::transient(&narrow, "lobby").await;
    for _ in 0..200 {
        publish(&client, "lobby", vec![7; 4096]).await.unwrap();
    }
    let purge = PurgeRoomRequest { room_id: "lobby".into(), ..PurgeRoomRequest::default() };
    instances[1].client().await.purge_room(purge).await.unwrap();
    // the instance that has the subscription learns of it by its watch
    let page = eventually(Duration::from_secs(10), async || match history(&client, "lobby", 0).await {
        page if page.messages.is_empty() => Ok(page),
        page => Err(format!("{} messages", page.messages.len())),
    });
    assert_eq!(page.await.last_sequence, 200);
    publish(&client, "lobby", "after").await.unwrap();
    let mut position = 0;
    while position < 201 {
        match slow.next_frame(Duration::from_secs(10)).await.unwrap().expect("open") {
            Frame::Message(message) => {
                assert_eq!(message.sequence, position + 1);
                position = message.sequence;
            }
            Frame::Gap(gap) => {
                assert_eq!((gap.from_sequence, gap.reason()), (position + 1, GapReason::Purged));
                position = gap.to_sequence;
            }
            _ => {}
        }
    }
    assert!(!slow.gaps.is_empty(), "the reader was not slow enough");
}
