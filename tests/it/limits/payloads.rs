//! How large a message may be, and that a larger one harms nobody.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use tonic::Code;
use unibus::v1::{CreateRoomRequest, PublishRequest, Retention, subscribe_response::Frame};

use crate::support::{
    Client, Frames, Issuer, Lobby, Nats, NatsOptions, Unibus, assert_status, create_ephemeral, create_room, fields,
    history, persisted, publish, reason,
};

const MEBIBYTE: usize = 1024 * 1024;

fn zeros(count: usize) -> Bytes {
    vec![0; count].into()
}

/// Asserts that a payload of this size is refused for its size.
async fn assert_too_large(client: &Client, room_id: &str, bytes: usize) {
    let refused = publish(client, room_id, zeros(bytes)).await;
    let refused = assert_status(refused, Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
    assert_eq!(fields(&refused), ["payload"], "{refused:?}");
}

/// The largest payload that the room takes.
async fn payload_limit(client: &Client, room_id: &str, above: usize) -> usize {
    let (mut accepted, mut refused) = (0, above);
    while refused - accepted > 1 {
        let middle = accepted.midpoint(refused);
        match publish(client, room_id, zeros(middle)).await {
            Ok(_) => accepted = middle,
            Err(status) => {
                assert_eq!(reason(&status), "PAYLOAD_TOO_LARGE", "{middle}: {status:?}");
                refused = middle;
            }
        }
    }
    accepted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_payload_is_a_message() {
    // Goal: 0 bytes are a payload like any other. Method: publish one between two others, read by history and subscription.
    let (_lobby, client) = Lobby::open().await;
    for payload in ["a", "", "b"] {
        publish(&client, "lobby", payload).await.unwrap();
    }
    let page = history(&client, "lobby", 0).await.messages;
    let read = Frames::transient(&client, "lobby").await.until_caught_up().await;
    for messages in [page, read] {
        let payloads: Vec<&[u8]> = messages.iter().map(|message| &message.payload[..]).collect();
        assert_eq!(payloads, [b"a".as_slice(), b"", b"b"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_embedded_server_a_payload_may_have_one_mebibyte() {
    // Goal: the documented limit is exact. Method: a payload at the limit comes back byte for byte; one byte more is
    // refused by name, and the next publish on the same connection works.
    let unibus = Unibus::embedded().await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let payload: Bytes = (0..=250).cycle().take(MEBIBYTE).collect();

    let stored = publish(&client, "lobby", payload.clone()).await.unwrap();
    assert_eq!(stored.sequence, 1);
    assert_too_large(&client, "lobby", MEBIBYTE + 1).await;
    let stored = publish(&client, "lobby", "after").await.unwrap();
    assert_eq!(stored.sequence, 2);
    let page = history(&client, "lobby", 0).await;
    assert!(page.messages[0].payload == payload, "the payload changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_is_too_large_never_reaches_nats() {
    // Goal: the limit follows from the NATS server's, and an offence does not cost the connection that all share. Method:
    // find the limit in front of a server with the default one; offend again and again beside a live subscription of an
    // ephemeral room, which would report a lost connection as a gap.
    let (_lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    let mut live = Frames::transient(&client, "live").await;

    let limit = payload_limit(&client, "lobby", 2 * MEBIBYTE).await;
    assert!(limit <= MEBIBYTE, "{limit} is more than NATS takes");
    assert!(limit >= MEBIBYTE - 64 * 1024, "{limit} is much less than NATS takes");
    for room_id in ["lobby", "live"] {
        assert_too_large(&client, room_id, limit + 1).await;
        assert_too_large(&client, room_id, MEBIBYTE).await;
        assert_too_large(&client, room_id, MEBIBYTE + 1).await;
        publish(&client, room_id, zeros(limit)).await.unwrap();
    }

    let message = live.messages(1).await;
    assert_eq!(message[0].payload.len(), limit);
    assert_eq!(live.gaps, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_payload_may_have_the_largest_headers() {
    // Goal: the bounds on payload, headers, message id and sender hold together. Method: a message at all of its bounds at
    // once, with as many headers as there may be, by the member with the longest id; stored and sent.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let sender = "\u{1f422}".repeat(126);
    let mut client = issuer.client(&unibus, &sender).await;
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;
    let limit = payload_limit(&client, "lobby", 2 * MEBIBYTE).await;
    let before = history(&client, "lobby", 1).await.last_sequence;
    let headers = (0..1000).map(|number| (format!("header{number:03}"), "x".repeat(23)));
    let headers: HashMap<String, String> = headers.collect();

    let stored = PublishRequest {
        room_id: "lobby".into(),
        payload: zeros(limit),
        headers: headers.clone(),
        message_id: "x".repeat(255),
        ..PublishRequest::default()
    };
    let sent = PublishRequest { room_id: "live".into(), message_id: String::new(), ..stored.clone() };
    let mut live = Frames::transient(&client, "live").await;
    let answer = client.publish(stored).await.unwrap().into_inner();
    assert_eq!(answer.sequence, before + 1);
    client.publish(sent).await.unwrap();

    let stored = history(&client, "lobby", 1).await.messages;
    for message in [&stored[0], &live.messages(1).await[0]] {
        assert_eq!(message.payload.len(), limit);
        assert_eq!(message.headers, headers);
        assert_eq!(message.sender, sender);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_may_take_smaller_messages_only() {
    // Goal: `max_message_bytes` bounds the payload, and nothing but the payload. Method: a room for 10 bytes; a payload of
    // 10 with headers and a message id, one of 11.
    let (_lobby, mut client) = Lobby::without_room().await;
    let request = CreateRoomRequest {
        retention: Some(Retention { max_message_bytes: 10, ..Retention::default() }),
        ..persisted("small")
    };
    client.create_room(request).await.unwrap();

    let request = PublishRequest {
        room_id: "small".into(),
        payload: zeros(10),
        headers: HashMap::from([("name".into(), "x".repeat(1000))]),
        message_id: "x".repeat(100),
        ..PublishRequest::default()
    };
    assert_eq!(client.publish(request).await.unwrap().into_inner().sequence, 1);
    assert_too_large(&client, "small", 11).await;
    assert_eq!(publish(&client, "small", zeros(10)).await.unwrap().sequence, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_a_page_is_read_all_the_same() {
    // Goal: what a room took, its readers get, where the operator allows large messages. Method: a NATS server for 8 MiB, a
    // payload of 5 MiB between small ones, read by history and subscription with a client that takes as much.
    let options = NatsOptions::new().max_payload(8 * MEBIBYTE);
    let nats = options.start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.rooms.payload_max = 6 * 1024 * 1024;
    })
    .await;
    let client = unibus.client().await.max_decoding_message_size(16 * MEBIBYTE);
    create_room(&client, "lobby").await;
    let sizes = [1, 5 * MEBIBYTE, 2];
    for size in sizes {
        publish(&client, "lobby", zeros(size)).await.unwrap();
    }

    let page = history(&client, "lobby", 0).await;
    assert_eq!(page.messages.len(), 1, "the newest alone");
    let page =
        crate::support::page(&client, "lobby", 0, unibus::v1::history_request::Anchor::BeforeCursor(page.older_cursor));
    let page = page.await.unwrap();
    assert_eq!(page.messages.len(), 1, "the large one alone");
    assert_eq!(page.messages[0].payload.len(), sizes[1]);
    assert!(page.has_older && page.has_newer);

    let mut frames = Frames::transient(&client, "lobby").await;
    for size in sizes {
        loop {
            let frame = frames.next_frame(Duration::from_secs(20)).await.unwrap();
            if let Some(Frame::Message(message)) = frame {
                assert_eq!(message.payload.len(), size);
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_default_clients_cannot_read_is_refused_by_default() {
    // Goal: nobody stores what blocks the durables of clients with default settings. Method: a NATS server for 8 MiB and no flag:
    // 3 MiB with as many headers as there may be is stored and read by a default client, one byte more is refused.
    let nats = NatsOptions::new().max_payload(8 * MEBIBYTE).start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let request = PublishRequest {
        room_id: "lobby".into(),
        payload: zeros(3 * MEBIBYTE),
        headers: HashMap::from([("name".into(), "x".repeat(32_000))]),
        message_id: "x".repeat(255),
        ..PublishRequest::default()
    };
    client.clone().publish(request).await.unwrap();
    assert_too_large(&client, "lobby", 3 * MEBIBYTE + 1).await;
    assert_eq!(history(&client, "lobby", 0).await.messages.len(), 1);
    let mut frames = Frames::durable(&client, "lobby", "reader").await;
    assert_eq!(frames.messages(1).await[0].sequence, 1);
}
