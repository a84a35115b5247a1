//! The newest page of a room: how many messages, in which order, and what is said around them.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::join};
use tonic::Code;
use unibus::v1::{
    AckMode, AcknowledgeRequest, CreateRoomRequest, HistoryResponse, Retention, SubscribeRequest,
    history_request::Anchor,
};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, assert_status, create_ephemeral, create_room, eventually, history, page,
    payloads, persisted, publish, publish_n, sequences,
};

/// A room with `count` messages, published natively for speed.
async fn room_with(nats: &Nats, client: &Client, count: usize) {
    let room = create_room(client, "lobby").await;
    nats.publish_n(&room.subject, count).await;
}

/// First and last sequence of a page, and how many messages there are; also checks that they ascend.
fn span(page: &HistoryResponse) -> (u64, u64, usize) {
    let sequences = sequences(&page.messages);
    assert!(sequences.is_sorted_by(|one, next| one < next), "{sequences:?}");
    let first = sequences.first().copied().unwrap_or_default();
    let last = sequences.last().copied().unwrap_or_default();
    (first, last, sequences.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_page_holds_the_newest_two_hundred() {
    // Goal: without a limit a page is the newest 200, oldest first. Method: 250 messages, no limit.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 250).await;

    let page = history(&client, "lobby", 0).await;
    assert_eq!(span(&page), (51, 250, 200));
    assert_eq!(payloads(&page.messages[..2]), ["51", "52"]);
    assert_eq!(payloads(&page.messages[198..]), ["249", "250"]);
    assert!(page.has_older && !page.has_newer);
    assert_ne!(page.older_cursor, "");
    assert_ne!(page.newer_cursor, "");
    assert_eq!((page.first_sequence, page.last_sequence), (1, 250));
    let is_stored = |message: &unibus::v1::Message| !message.cursor.is_empty() && message.published_at.is_some();
    assert!(page.messages.iter().all(is_stored));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_clamped_and_never_refused() {
    // Goal: any number is a limit. Method: 1100 messages; limits around both bounds, and at the ends of 64 bits.
    let (lobby, client) = Lobby::without_room().await;
    room_with(&lobby.nats, &client, 1100).await;

    let cases = [
        (1, 1),
        (2, 2),
        (199, 199),
        (200, 200),
        (201, 201),
        (999, 999),
        (1000, 1000),
        (1001, 1000),
        (i32::MAX, 1000),
        (0, 200),
        (-1, 200),
        (i32::MIN, 200),
    ];
    for (limit, count) in cases {
        let page = history(&client, "lobby", limit).await;
        let first = 1100 - count + 1;
        let expected = (first, 1100, usize::try_from(count).unwrap());
        assert_eq!(span(&page), expected, "limit {limit}");
        assert!(page.has_older && !page.has_newer, "limit {limit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_smaller_than_the_page_is_given_whole() {
    // Goal: nothing older is promised where there is nothing. Method: rooms with one message less than the limit, just as
    // many, and one more.
    let (_lobby, client) = Lobby::open().await;
    for (count, expected, has_older) in [(4, 4, false), (5, 5, false), (6, 5, true)] {
        publish(&client, "lobby", "x").await.unwrap();
        if count == 4 {
            publish_n(&client, "lobby", 3).await;
        }
        let page = history(&client, "lobby", 5).await;
        assert_eq!(span(&page), (count - expected + 1, count, usize::try_from(expected).unwrap()));
        assert_eq!(page.has_older, has_older);
        assert_eq!(page.older_cursor.is_empty(), !has_older);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_without_messages_gives_an_empty_page() {
    // Goal: emptiness is no error. Method: an empty persisted room, an ephemeral one, and a room that nobody created, which
    // is one.
    let (_lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;

    let empty = history(&client, "lobby", 0).await;
    assert_eq!(empty.messages, []);
    assert!(!empty.has_older && !empty.has_newer);
    assert_eq!(empty.older_cursor, "");
    assert_ne!(empty.newer_cursor, "", "what comes later can be asked for");
    assert_eq!((empty.first_sequence, empty.last_sequence), (1, 0));

    let live = history(&client, "live", 0).await;
    assert_eq!(live, HistoryResponse::default());
    let missing = page(&client, "nowhere", 0, None).await;
    assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_history_moves_no_subscriber() {
    // Goal: history has no effect on durables. Method: a durable that has read half of a room; history of all of it; the
    // durable goes on where it was, and no consumer was left behind.
    let (lobby, mut client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let ann = SubscribeRequest {
        room_id: "lobby".into(),
        subscriber: "ann".into(),
        ack_mode: AckMode::Explicit.into(),
        ..SubscribeRequest::default()
    };
    let mut frames = Frames::open(&client, ann.clone()).await.unwrap();
    frames.until_caught_up().await;
    let request =
        AcknowledgeRequest { room_id: "lobby".into(), subscriber: "ann".into(), sequence: 3, generation: None };
    client.acknowledge(request).await.unwrap();
    drop(frames);
    publish_n(&client, "lobby", 3).await;

    let stream = lobby.nats.stream("lobby").await;
    let consumers = async || -> HashSet<String> {
        let names = stream.consumer_names();
        names.map(Result::unwrap).collect().await
    };
    let before = consumers().await;
    for _ in 0..5 {
        assert_eq!(span(&history(&client, "lobby", 0).await), (1, 6, 6));
    }
    let after = consumers().await;
    assert!(after.is_subset(&before), "{before:?} became {after:?}");

    let mut frames = Frames::open(&client, ann).await.unwrap();
    assert_eq!(sequences(&frames.until_caught_up().await), [4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_message_is_in_the_next_page() {
    // Goal: history reads what was acknowledged before it was asked. Method: publish and read at once, on two instances, many
    // times over.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let second = Unibus::start(&nats).await;
    let clients = [unibus.client().await, second.client().await];
    create_room(&clients[0], "lobby").await;
    for client in &clients {
        eventually(Duration::from_secs(1), async || {
            let read = page(client, "lobby", 1, None).await;
            read.map_err(|status| status.to_string())
        })
        .await;
    }
    for number in 0..100 {
        let (writer, reader) = (&clients[number % 2], &clients[(number + 1) % 2]);
        let stored = publish(writer, "lobby", number.to_string()).await.unwrap();
        let page = history(reader, "lobby", 1).await;
        assert_eq!(span(&page), (stored.sequence, stored.sequence, 1));
        assert_eq!(page.last_sequence, stored.sequence);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_large_messages_stays_within_its_bytes() {
    // Goal: a client with default settings reads any page, and the newest page holds the newest messages. Method: 40 messages
    // of 200 kB, more than two pages; the newest page, then the rest by its cursors, each message once.
    const PAGE_BYTES_MAX: usize = 3 * 1024 * 1024;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    for _ in 0..40 {
        publish(&client, "lobby", vec![7; 200_000]).await.unwrap();
    }

    let mut anchor = None;
    let mut read = Vec::new();
    loop {
        let page = page(&client, "lobby", 0, anchor).await.unwrap();
        assert!(prost::Message::encoded_len(&page) <= PAGE_BYTES_MAX);
        let mut sequences = sequences(&page.messages);
        assert!(sequences.len() >= 10, "a page makes use of its bytes");
        sequences.append(&mut read);
        read = sequences;
        if !page.has_older {
            break;
        }
        anchor = Some(Anchor::BeforeCursor(page.older_cursor));
    }
    assert_eq!(read, (1..=40).collect::<Vec<u64>>());

    let after = Anchor::AfterSequence(0);
    let page = page(&client, "lobby", 0, after).await.unwrap();
    assert!(prost::Message::encoded_len(&page) <= PAGE_BYTES_MAX);
    assert_eq!(page.messages[0].sequence, 1, "the oldest page holds the oldest");
    assert!(page.has_newer && !page.has_older);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_whole_while_the_room_moves_on() {
    // Goal: what comes and goes meanwhile tears no page. Method: a room that keeps 100 messages, filled without a pause; pages
    // of 20 are full, without a hole, and not older than the last acknowledgement before them.
    let (lobby, mut client) = Lobby::without_room().await;
    let request = CreateRoomRequest {
        retention: Some(Retention { max_messages: 100, ..Retention::default() }),
        ..persisted("lobby")
    };
    client.create_room(request).await.unwrap();
    publish_n(&client, "lobby", 100).await;

    let acknowledged = AtomicU64::new(100);
    let done = AtomicBool::new(false);
    let writer = lobby.unibus.client().await;
    let write = async {
        while !done.load(Ordering::Relaxed) {
            let stored = publish(&writer, "lobby", "x").await.unwrap();
            acknowledged.store(stored.sequence, Ordering::Relaxed);
        }
    };
    let read = async {
        for _ in 0..200 {
            let known = acknowledged.load(Ordering::Relaxed);
            let page = history(&client, "lobby", 20).await;
            let (first, last, count) = span(&page);
            assert_eq!((last - first + 1, count), (20, 20));
            assert!(last >= known, "{last} is older than {known}");
            assert!(page.has_older);
        }
        done.store(true, Ordering::Relaxed);
    };
    join(write, read).await;
    assert!(acknowledged.into_inner() > 200, "the room did not move on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_was_quiet_shows_the_next_change_at_once() {
    // Goal: a page is never that of an earlier state of the log, however long nothing has changed. Method: the same page several
    // times, then a native publish, a deletion or a purge, and the page again; many times, by each anchor.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    lobby.nats.publish_n(&room.subject, 50).await;
    let stream = lobby.nats.stream("lobby").await;
    let mut stored: Vec<u64> = (1..=50).collect();
    for round in 0..60 {
        let middle = stored[stored.len() / 2];
        let (anchor, limit) =
            [(None, 10), (Some(Anchor::AfterSequence(0)), 1000), (Some(Anchor::BeforeSequence(middle)), 7)][round % 3]
                .clone();
        let before = page(&client, "lobby", limit, anchor.clone()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(page(&client, "lobby", limit, anchor.clone()).await.unwrap(), before);
        }
        match round % 4 {
            0 | 1 => {
                lobby.nats.publish_n(&room.subject, 1).await;
                stored.push(stored.last().unwrap() + 1);
            }
            2 => {
                let sequence = stored.remove(stored.len() - 3);
                stream.delete_message(sequence).await.unwrap();
            }
            _ => {
                stream.purge().sequence(stored[1]).await.unwrap();
                stored.remove(0);
            }
        }
        let all: Vec<u64> = match anchor {
            Some(Anchor::BeforeSequence(end)) => stored.iter().copied().filter(|sequence| *sequence < end).collect(),
            _ => stored.clone(),
        };
        let first = all.len().saturating_sub(usize::try_from(limit).unwrap());
        assert_eq!(sequences(&page(&client, "lobby", limit, anchor).await.unwrap().messages), all[first..]);
    }
}
