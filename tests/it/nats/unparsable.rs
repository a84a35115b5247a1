//! Messages whose headers the NATS client cannot parse, which any native program can store.

use std::time::Duration;

use futures_util::future::join_all;
use unibus::v1::{Message, PublishRequest, subscribe_response::Frame};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, create_ephemeral, create_room, everything, explicit, history, payloads,
    publish, sequences, subscription,
};

/// Header blocks that the NATS client cannot parse, and what is left of each: `Kept: yes` or nothing.
const BLOCKS: [(&[u8], bool); 6] = [
    (b"NATS/1.0\r\nX-Name: caf\xe9\r\nKept: yes\r\n\r\n", true),
    (b"NATS/1.0\r\nX-Name: a\rb\r\nKept: yes\r\n\r\n", true),
    (b"NATS/1.0\r\nX-\xff: a\r\nKept: yes\r\n\r\n", true),
    (b"NATS/1.0\r\nno colon\r\nKept: yes\r\n\r\n", true),
    (b"NATS/1.0\r\nX Name: a\r\nKept: yes\r\n\r\n", true),
    (b"garbage", false),
];
const FRAME_WAIT: Duration = Duration::from_secs(20);

fn assert_kept(message: &Message, block: usize) {
    let expected = if BLOCKS[block].1 { Some("yes") } else { None };
    assert_eq!(message.headers.get("Kept").map(String::as_str), expected, "{block}: {message:?}");
    assert!(!message.headers.contains_key("X-Name"), "{message:?}");
}

/// Publishes to the room one message after the other, each of which must be stored.
async fn publish_throughout(client: &Client, room: &str, count: usize) {
    for number in 0..count {
        let request =
            PublishRequest { room_id: room.into(), payload: number.to_string().into(), ..PublishRequest::default() };
        client.clone().publish(request).await.unwrap_or_else(|status| panic!("{number} in {room}: {status:?}"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_parsed_is_delivered_and_costs_nobody_anything() {
    // Goal: such a message never stops a room, a connection or an instance. Method: store one of each kind between good
    // ones; read the room as backlog, live, as a durable and as history, while others publish to a stored and an ephemeral
    // room over the same instance. Every message comes once, with the headers that can be read; no publish fails, and the
    // ephemeral room's reader is told of no gap.
    let (lobby, client) = Lobby::without_room().await;
    for room in ["lobby", "other"] {
        create_room(&client, room).await;
    }
    create_ephemeral(&client, "radio").await;
    let mut live = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    live.until_caught_up().await;
    let mut radio = Frames::open(&client, subscription("radio", "")).await.unwrap();
    radio.opened();

    let poisoning = async {
        for (block, _) in BLOCKS {
            publish(&client, "lobby", "good").await.unwrap();
            lobby.nats.publish_raw("unibus.room.lobby", block, b"bad").await;
        }
        publish(&client, "lobby", "last").await.unwrap();
        let count = 2 * BLOCKS.len() + 1;
        for read in [
            live.messages(count).await,
            history(&client, "lobby", 50).await.messages,
            everything(&client, "lobby").await,
        ] {
            assert_eq!(sequences(&read), Vec::from_iter(1..=count as u64));
            for (index, message) in read.iter().enumerate().take(count - 1).filter(|(index, _)| index % 2 == 1) {
                assert_eq!(message.payload, "bad");
                assert_kept(message, index / 2);
            }
        }
        let mut durable = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
        assert_eq!(durable.messages(count).await.len(), count);
    };
    let innocent = join_all([publish_throughout(&client, "other", 300), publish_throughout(&client, "radio", 300)]);
    tokio::join!(poisoning, innocent);
    assert_eq!(radio.messages(300).await.len(), 300);
    assert!(radio.gaps.is_empty(), "{:?}", radio.gaps);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_full_of_them_is_read_and_survives_restarts() {
    // Goal: a room may hold nothing else, and it outlives restarts. Method: 300 of them in a row, read by an instance that
    // was never told of any; the other instance's reader goes on beside it.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    create_room(&client, "other").await;
    for number in 0..300 {
        nats.publish_raw("unibus.room.lobby", BLOCKS[number % BLOCKS.len()].0, b"bad").await;
    }
    publish(&client, "lobby", "end").await.unwrap();
    drop(client);
    unibus.shutdown().await.unwrap();

    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    let mut other = Frames::open(&client, subscription("other", "")).await.unwrap();
    let read = Frames::open(&client, subscription("lobby", "")).await.unwrap().messages(301).await;
    assert_eq!(sequences(&read), Vec::from_iter(1..=301));
    assert_eq!(history(&client, "lobby", 1000).await.messages.len(), 301);
    publish(&client, "other", "still here").await.unwrap();
    assert_eq!(payloads(&other.messages(1).await), ["still here"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_ephemeral_room_it_is_a_gap_and_nothing_more() {
    // Goal: what is not stored cannot be fetched again, so it is told as a gap. Method: one of each kind to an ephemeral
    // room; its subscription goes on, and no stored room's publisher notices.
    let (lobby, client) = Lobby::without_room().await;
    create_ephemeral(&client, "radio").await;
    create_room(&client, "other").await;
    for (block, _) in BLOCKS {
        let mut radio = Frames::open(&client, subscription("radio", "")).await.unwrap();
        radio.opened();
        lobby.nats.publish_raw("unibus.room.radio", block, b"bad").await;
        publish(&client, "other", "x").await.unwrap();
        loop {
            match radio.next_frame(FRAME_WAIT).await.unwrap().expect("a frame") {
                Frame::Gap(_) => break,
                Frame::Message(message) => panic!("{message:?}"),
                _ => {}
            }
        }
        publish(&client, "radio", "good").await.unwrap();
        assert_eq!(payloads(&radio.messages(1).await), ["good"]);
    }
}
