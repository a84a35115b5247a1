//! Rooms that store nothing, with JetStream and without it.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use tonic::Code;
use unibus::v1::{Durability, GetRoomRequest, PublishRequest};

use crate::support::{
    Frames, Lobby, NatsOptions, Unibus, assert_status, create_ephemeral, create_room, history, payloads, persisted,
    publish, settled,
};

/// How long a message to a live reader may take.
const LIVE_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_native_and_service_subscribers_alike() {
    // Goal: an ephemeral room is plain core NATS on its subject. Method: a native and a gRPC subscriber, then a message with
    // headers from the service, and a native one.
    let (lobby, mut client) = Lobby::without_room().await;
    let room = create_ephemeral(&client, "live").await;
    let native = lobby.nats.client().await;
    let mut native_reader = native.subscribe(room.subject.clone()).await.unwrap();
    settled(&native).await;
    let mut reader = Frames::transient(&client, "live").await;
    assert_eq!(reader.until_caught_up().await, []);

    let headers = HashMap::from([("kind".to_owned(), "greeting".to_owned())]);
    let request = PublishRequest {
        room_id: "live".into(),
        payload: "hello".into(),
        headers: headers.clone(),
        ..PublishRequest::default()
    };
    let sent = client.publish(request).await.unwrap().into_inner();
    assert_eq!((sent.sequence, sent.duplicate), (0, false));
    assert_eq!(sent.durability(), Durability::None);
    assert!(sent.published_at.is_some());
    let received = tokio::time::timeout(LIVE_WITHIN, native_reader.next()).await;
    let received = received.expect("in time").expect("a message");
    assert_eq!(&received.payload[..], b"hello");
    let kind = received.headers.as_ref().and_then(|headers| headers.get("kind"));
    assert_eq!(kind.expect("the header").as_str(), "greeting");

    native.publish(room.subject, "native".into()).await.unwrap();
    let messages = reader.messages(2).await;
    assert_eq!(payloads(&messages), ["hello", "native"]);
    assert_eq!(messages[0].headers, headers);
    for message in &messages {
        assert_eq!((message.sequence, message.cursor.as_str()), (0, ""));
        assert!(message.published_at.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_for_a_late_reader() {
    // Goal: an ephemeral room stores nothing. Method: publish without a reader, then subscribe and read history; the reader
    // gets only what comes afterwards.
    let (lobby, client) = Lobby::without_room().await;
    create_ephemeral(&client, "live").await;
    publish(&client, "live", "early").await.unwrap();
    let mut reader = Frames::transient(&client, "live").await;
    assert_eq!(reader.until_caught_up().await, []);
    publish(&client, "live", "late").await.unwrap();
    assert_eq!(payloads(&reader.messages(1).await), ["late"]);

    let page = history(&client, "live", 0).await;
    assert_eq!(page.messages, []);
    assert!(!page.has_older && !page.has_newer);
    assert_eq!((page.older_cursor.as_str(), page.newer_cursor.as_str()), ("", ""));
    let jetstream = lobby.nats.jetstream().await;
    assert!(jetstream.get_stream("UNIBUS_live").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_log_is_refused() {
    // Goal: a promise that an ephemeral room cannot keep is refused, not dropped. Method: a message id and an expected
    // sequence; a reader gets neither message.
    let (_lobby, mut client) = Lobby::without_room().await;
    create_ephemeral(&client, "live").await;
    let mut reader = Frames::transient(&client, "live").await;
    let plain = PublishRequest { room_id: "live".into(), payload: "refused".into(), ..PublishRequest::default() };
    let with_id = PublishRequest { message_id: "id".into(), ..plain.clone() };
    let expecting = PublishRequest { expected_last_sequence: Some(0), ..plain };
    for request in [with_id, expecting] {
        let refused = client.publish(request).await;
        assert_status(refused, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    }
    publish(&client, "live", "sent").await.unwrap();
    assert_eq!(payloads(&reader.messages(1).await), ["sent"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_jetstream_ephemeral_rooms_work() {
    // Goal: a plain NATS server is enough for rooms that store nothing. Method: one without JetStream: create, get, publish,
    // subscribe, history; a persisted room is refused by name, and leaves nothing behind.
    let nats = NatsOptions::new().without_jetstream().start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;

    let refused = client.create_room(persisted("stored")).await;
    assert_status(refused, Code::FailedPrecondition, "JETSTREAM_MISSING");
    let request = GetRoomRequest { room_id: "stored".into() };
    let missing = client.get_room(request).await;
    assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");

    let room = create_ephemeral(&client, "live").await;
    assert_eq!(create_ephemeral(&client, "live").await.created_at, room.created_at);
    let rooms = [create_ephemeral(&client, "li-ve").await, create_ephemeral(&client, "li_ve").await];
    assert_ne!(rooms[0].subject, rooms[1].subject);
    let mut reader = Frames::transient(&client, "live").await;
    publish(&client, "live", "hello").await.unwrap();
    assert_eq!(payloads(&reader.messages(1).await), ["hello"]);
    assert_eq!(history(&client, "live", 0).await.messages, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_persisted_room_reaches_native_subscribers_too() {
    // Goal: being stored does not hide a message from plain subscribers. Method: a native subscription on the subject of a
    // persisted room.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    let native = lobby.nats.client().await;
    let mut reader = native.subscribe(room.subject).await.unwrap();
    settled(&native).await;
    publish(&client, "lobby", "hello").await.unwrap();
    let received = tokio::time::timeout(LIVE_WITHIN, reader.next()).await;
    let received = received.expect("in time").expect("a message");
    assert_eq!(&received.payload[..], b"hello");
}
