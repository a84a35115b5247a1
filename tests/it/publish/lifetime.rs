//! How long messages are kept: their own lifetime, and the bounds of their room.

use std::time::Duration;

use tonic::{Code, Status};
use unibus::v1::{CreateRoomRequest, PublishRequest, Retention};

use crate::support::{
    Client, Lobby, assert_status, create_ephemeral, eventually, history, payloads, persisted, publish, publish_n,
};

async fn publish_for(client: &Client, room_id: &str, payload: &str, seconds: i64) -> Result<u64, Status> {
    let request = PublishRequest {
        room_id: room_id.into(),
        payload: payload.to_owned().into(),
        ttl: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..PublishRequest::default()
    };
    Ok(client.clone().publish(request).await?.into_inner().sequence)
}

/// Waits until the room holds exactly these payloads.
async fn holds(client: &Client, room_id: &str, expected: &[&str]) {
    eventually(Duration::from_secs(10), async || {
        let held = payloads(&history(client, room_id, 0).await.messages);
        (held == expected).then_some(()).ok_or(format!("{held:?}"))
    })
    .await;
}

/// Creates a room with these bounds.
async fn bounded(client: &Client, room_id: &str, retention: Retention) {
    let request = CreateRoomRequest { retention: Some(retention), ..persisted(room_id) };
    client.clone().create_room(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_gone_after_its_lifetime() {
    // Goal: `ttl` applies to one message, not to its neighbours. Method: one with a lifetime between two without; it is read
    // at first, and gone later.
    let (_lobby, mut client) = Lobby::without_room().await;
    let request = CreateRoomRequest { allow_message_ttl: true, ..persisted("lobby") };
    let room = client.create_room(request).await.unwrap().into_inner().room;
    assert!(room.expect("a room").allow_message_ttl);

    publish(&client, "lobby", "before").await.unwrap();
    // Long enough to be read in time also on a busy machine.
    let sequence = publish_for(&client, "lobby", "brief", 3).await.unwrap();
    assert_eq!(sequence, 2);
    publish(&client, "lobby", "after").await.unwrap();
    let page = history(&client, "lobby", 0).await;
    assert_eq!(payloads(&page.messages), ["before", "brief", "after"]);
    assert!(page.messages.iter().all(|message| message.headers.is_empty()));
    holds(&client, "lobby", &["before", "after"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lifetime_needs_a_room_that_allows_it() {
    // Goal: a lifetime is refused rather than ignored. Method: `ttl` in rooms without it; nothing is stored.
    let (_lobby, client) = Lobby::open().await;
    let refused = publish_for(&client, "lobby", "brief", 60).await;
    assert_status(refused, Code::FailedPrecondition, "TTL_NOT_ALLOWED");
    assert_eq!(history(&client, "lobby", 0).await.last_sequence, 0);

    create_ephemeral(&client, "live").await;
    let refused = publish_for(&client, "live", "brief", 60).await;
    let refused = refused.expect_err("nothing is kept here");
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_gone_after_the_rooms_max_age() {
    // Goal: `max_age` applies, also where it is shorter than NATS's window for duplicates. Method: a room for 2 seconds;
    // messages are read at first and gone later; sequences go on.
    let (_lobby, client) = Lobby::without_room().await;
    let max_age = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    let retention = Retention { max_age, ..Retention::default() };
    bounded(&client, "brief", retention).await;
    publish_n(&client, "brief", 3).await;
    assert_eq!(history(&client, "brief", 0).await.messages.len(), 3);
    holds(&client, "brief", &[]).await;

    let page = history(&client, "brief", 0).await;
    assert_eq!((page.first_sequence, page.last_sequence), (4, 3));
    assert!(!page.has_older && !page.has_newer);
    assert_eq!(publish(&client, "brief", "x").await.unwrap().sequence, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_messages_go_first() {
    // Goal: the bounds on messages and bytes hold. Method: a room for 3 messages and one for 10 kB, with more published.
    let (_lobby, client) = Lobby::without_room().await;
    let three = Retention { max_messages: 3, ..Retention::default() };
    bounded(&client, "three", three).await;
    publish_n(&client, "three", 10).await;
    let page = history(&client, "three", 0).await;
    assert_eq!(payloads(&page.messages), ["8", "9", "10"]);
    assert_eq!((page.first_sequence, page.last_sequence), (8, 10));

    let small = Retention { max_bytes: 10_000, ..Retention::default() };
    bounded(&client, "small", small).await;
    for _ in 0..20 {
        publish(&client, "small", vec![0; 1000]).await.unwrap();
    }
    let page = history(&client, "small", 0).await;
    assert!((5..=9).contains(&page.messages.len()), "{}", page.messages.len());
    assert_eq!(page.messages.last().expect("a message").sequence, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shortest_max_age_is_taken() {
    // Goal: the documented bound is exact. Method: a room for 100 ms.
    let (_lobby, client) = Lobby::without_room().await;
    let max_age = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let retention = Retention { max_age, ..Retention::default() };
    bounded(&client, "brief", retention).await;
    publish(&client, "brief", "x").await.unwrap();
    holds(&client, "brief", &[]).await;
}
