//! Where a subscription starts.

use std::time::Duration;

use tonic::Code;
use unibus::v1::{DeleteRoomRequest, Message, Start, SubscribeRequest, start::At};

use crate::support::{
    Client, Frames, Lobby, Nats, assert_field, assert_status, create_room, explicit, history, listed, metadata,
    payloads, publish, publish_n, sequences, starting,
};

/// A room `lobby` with this many messages, at least a millisecond apart; and the messages.
async fn room_of(client: &Client, count: usize) -> Vec<Message> {
    create_room(client, "lobby").await;
    for number in 1..=count {
        publish(client, "lobby", number.to_string()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    history(client, "lobby", 1000).await.messages
}

/// The sequences of the backlog from this place on, and the position that was announced.
async fn backlog(client: &Client, at: At) -> (u64, Vec<u64>) {
    let request = SubscribeRequest { until_caught_up: true, ..starting("lobby", at) };
    let mut frames = Frames::open(client, request).await.unwrap();
    let messages = frames.until_caught_up().await;
    assert_eq!(frames.gaps, [], "{at:?}", at = frames.opened());
    (frames.opened().position, sequences(&messages))
}

/// The status that a start is refused with, whether durable or not; no durable is left behind.
async fn refused(nats: &Nats, client: &Client, at: At, code: Code, reason: &str) -> tonic::Status {
    let mut durable = starting("lobby", at.clone());
    durable.subscriber = "refused".into();
    let status = Frames::open(client, durable).await.map(|_| ());
    assert_status(status, code, reason);
    let left = nats.stream("lobby").await.consumer_info("lobby_refused").await;
    assert!(left.is_err(), "{at:?} left a durable behind");
    let status = Frames::open(client, starting("lobby", at)).await.map(|_| ());
    assert_status(status, code, reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_new_and_a_sequence() {
    // Goal: the plain starts. Method: a room of ten; from the oldest, after the newest, after each sequence from 0 to the
    // last; what is published later follows.
    let (_lobby, client) = Lobby::without_room().await;
    room_of(&client, 10).await;
    assert_eq!(backlog(&client, At::All(())).await, (0, listed(1..=10)));
    assert_eq!(backlog(&client, At::New(())).await, (10, vec![]));
    for sequence in 0..=10 {
        let expected = (sequence, listed(sequence + 1..=10));
        assert_eq!(backlog(&client, At::AfterSequence(sequence)).await, expected);
    }
    let mut new = Frames::open(&client, starting("lobby", At::New(()))).await.unwrap();
    publish(&client, "lobby", "11").await.unwrap();
    assert_eq!(sequences(&new.messages(1).await), [11]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cursor_of_a_message_or_a_page() {
    // Goal: what history and messages carry is a place to start. Method: each message's cursor, and a page's newer cursor.
    let (_lobby, client) = Lobby::without_room().await;
    for message in room_of(&client, 5).await {
        let expected = (message.sequence, listed(message.sequence + 1..=5));
        assert_eq!(backlog(&client, At::AfterCursor(message.cursor)).await, expected);
    }
    let newer = history(&client, "lobby", 2).await.newer_cursor;
    publish(&client, "lobby", "6").await.unwrap();
    assert_eq!(backlog(&client, At::AfterCursor(newer)).await, (5, vec![6]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn since_a_time_includes_a_message_of_that_very_time() {
    // Goal: `since` is "at or after", to the nanosecond. Method: the exact time of each message, a nanosecond before and
    // after; long before the first; in an empty room.
    let (_lobby, client) = Lobby::without_room().await;
    let messages = room_of(&client, 5).await;
    let since = |seconds: i64, nanos: i32| At::Since(prost_types::Timestamp { seconds, nanos });
    for message in &messages {
        let sequence = message.sequence;
        let at = message.published_at.expect("a time");
        let from = listed(sequence..=5);
        assert_eq!(backlog(&client, since(at.seconds, at.nanos)).await.1, from);
        if (1..999_999_999).contains(&at.nanos) {
            assert_eq!(backlog(&client, since(at.seconds, at.nanos - 1)).await.1, from);
            let later = listed(sequence + 1..=5);
            assert_eq!(backlog(&client, since(at.seconds, at.nanos + 1)).await.1, later);
        }
    }
    assert_eq!(backlog(&client, since(0, 0)).await, (0, vec![1, 2, 3, 4, 5]));
    create_room(&client, "empty").await;
    let mut empty = Frames::open(&client, starting("empty", since(0, 0))).await.unwrap();
    assert_eq!(empty.until_caught_up().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_so_many_are_counted_past_holes() {
    // Goal: `last` means messages, not sequences. Method: without holes, then with deleted messages in the middle and at
    // the end; fewer, exactly as many as, and more than there are; none is refused.
    let (lobby, client) = Lobby::without_room().await;
    room_of(&client, 12).await;
    let last = async |count| backlog_with_gaps(&client, At::Last(count)).await;
    assert_eq!(last(1).await, [12]);
    assert_eq!(last(5).await, [8, 9, 10, 11, 12]);
    assert_eq!(last(12).await, listed(1..=12));
    assert_eq!(last(13).await, listed(1..=12));
    assert_eq!(last(u64::MAX).await, listed(1..=12));

    lobby.nats.delete_messages("lobby", [4, 5, 6, 9, 11, 12]).await;
    assert_eq!(last(1).await, [10]);
    assert_eq!(last(2).await, [8, 10]);
    assert_eq!(last(4).await, [3, 7, 8, 10]);
    assert_eq!(last(6).await, [1, 2, 3, 7, 8, 10]);
    assert_eq!(last(7).await, [1, 2, 3, 7, 8, 10]);
    let none = Frames::open(&client, starting("lobby", At::Last(0))).await.map(|_| ());
    assert_field(none, "start.last", "0");
}

/// As [`backlog`], where messages are missing.
async fn backlog_with_gaps(client: &Client, at: At) -> Vec<u64> {
    let request = SubscribeRequest { until_caught_up: true, ..starting("lobby", at) };
    let mut frames = Frames::open(client, request).await.unwrap();
    sequences(&frames.until_caught_up().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_the_end_is_refused() {
    // Goal: a position that is not there yet is a mistake, not a wait. Method: after the last sequence, in a filled and an
    // empty room; the last one itself is fine.
    let (lobby, client) = Lobby::without_room().await;
    room_of(&client, 3).await;
    for sequence in [4, u64::MAX] {
        let at = At::AfterSequence(sequence);
        let status = refused(&lobby.nats, &client, at, Code::OutOfRange, "POSITION_AFTER_END").await;
        assert_eq!(metadata(&status, "last_sequence"), "3");
    }
    create_room(&client, "empty").await;
    let status = Frames::open(&client, starting("empty", At::AfterSequence(1))).await.map(|_| ());
    assert_status(status, Code::OutOfRange, "POSITION_AFTER_END");
    Frames::open(&client, starting("empty", At::AfterSequence(0))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_that_mean_nothing_here_are_refused() {
    // Goal: a cursor is never reinterpreted. Method: garbage; another room's; one of the room's former life.
    let (lobby, mut client) = Lobby::without_room().await;
    create_room(&client, "other").await;
    publish(&client, "other", "1").await.unwrap();
    let foreign = history(&client, "other", 1).await.messages[0].cursor.clone();
    let former = room_of(&client, 3).await[0].cursor.clone();
    let truncated = former[..former.len() - 1].to_owned();
    for cursor in ["garbage".into(), "%%%".into(), String::new(), "A".repeat(5000), truncated, foreign] {
        let at = At::AfterCursor(cursor);
        refused(&lobby.nats, &client, at, Code::InvalidArgument, "CURSOR_INVALID").await;
    }
    let request = DeleteRoomRequest { room_id: "lobby".into() };
    client.delete_room(request).await.unwrap();
    room_of(&client, 3).await;
    let at = At::AfterCursor(former);
    refused(&lobby.nats, &client, at, Code::FailedPrecondition, "CURSOR_EXPIRED").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cursor_of_opened_is_a_place_in_this_log_alone() {
    // Goal: a client that has got no message yet misses none, and knows a new log. Method: subscriptions that begin at the end
    // and before the first message, unnamed and durable; another one after the cursor of `opened` gets exactly what follows. The
    // same cursor is refused in the log of a room that was created again, although it is longer.
    let (lobby, mut client) = Lobby::without_room().await;
    room_of(&client, 3).await;
    let mut cursors = Vec::new();
    for (at, subscriber, position) in
        [(At::New(()), "", 3), (At::All(()), "", 0), (At::New(()), "ann", 3), (At::AfterSequence(2), "", 2)]
    {
        let request = SubscribeRequest { subscriber: subscriber.into(), ..starting("lobby", at) };
        let opened = Frames::open(&client, request).await.unwrap().opened().clone();
        assert_eq!(opened.position, position);
        cursors.push((opened.cursor, position));
    }
    publish(&client, "lobby", "4").await.unwrap();
    for (cursor, position) in &cursors {
        let expected: Vec<u64> = (position + 1..=4).collect();
        assert_eq!(backlog(&client, At::AfterCursor(cursor.clone())).await, (*position, expected));
    }
    client.delete_room(DeleteRoomRequest { room_id: "lobby".into() }).await.unwrap();
    room_of(&client, 9).await;
    for (cursor, _) in cursors {
        refused(&lobby.nats, &client, At::AfterCursor(cursor), Code::FailedPrecondition, "CURSOR_EXPIRED").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_starts_once_and_resumes_ever_after() {
    // Goal: `start` is for the first time. Method: a durable after 3, which acknowledges nothing; then with other starts;
    // it stays where it was, and says that it resumed.
    let (_lobby, client) = Lobby::without_room().await;
    room_of(&client, 5).await;
    for (at, resumed) in
        [(At::AfterSequence(3), false), (At::All(()), true), (At::New(()), true), (At::AfterSequence(9), true)]
    {
        let request = SubscribeRequest { start: Some(Start { at: Some(at) }), ..explicit("lobby", "ann") };
        let mut frames = Frames::open(&client, request).await.unwrap();
        assert_eq!((frames.opened().position, frames.opened().resumed), (3, resumed));
        assert_eq!(sequences(&frames.until_caught_up().await), [4, 5]);
    }
    let new = SubscribeRequest { start: Some(Start { at: Some(At::New(())) }), ..explicit("lobby", "bob") };
    drop(Frames::open(&client, new).await.unwrap());
    publish_n(&client, "lobby", 1).await;
    let mut frames = Frames::open(&client, explicit("lobby", "bob")).await.unwrap();
    assert_eq!(payloads(&frames.until_caught_up().await), ["1"]);
}
