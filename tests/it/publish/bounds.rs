//! What a room could never keep is refused before it takes the place of what it keeps.

use std::collections::HashMap;

use tonic::{Code, Status};
use unibus::{
    NatsSync,
    v1::{CreateRoomRequest, PublishRequest, Retention, Room, UpdateRoomRequest},
};

use crate::support::{
    Client, Issuer, Lobby, Nats, NatsOptions, Random, Unibus, assert_field, assert_status, create_room, eventually,
    history, payloads, persisted, publish,
    publishing::{by_batch, by_calls, by_stream, plain, together},
    reason, sequences, settled,
};

/// Creates a room that keeps no more than this.
async fn bounded(client: &Client, room_id: &str, retention: Retention) -> Result<Room, Status> {
    let request = CreateRoomRequest { retention: Some(retention), allow_message_ttl: true, ..persisted(room_id) };
    Ok(client.clone().create_room(request).await?.into_inner().room.expect("a room"))
}

fn bytes(max_bytes: i64) -> Retention {
    Retention { max_bytes, ..Retention::default() }
}

/// What the room holds.
async fn kept(client: &Client, room_id: &str) -> Vec<String> {
    payloads(&history(client, room_id, 0).await.messages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_kept_is_refused_and_removes_nothing() {
    // Goal: an OK means that the room holds the message. Method: a room for 300 bytes with one message; a message of 1,000
    // bytes by every way to publish, and from a native program; the first message stays.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = &unibus.client().await;
    let room = bounded(client, "small", bytes(300)).await.unwrap();
    publish(client, "small", "kept").await.unwrap();
    let large = || vec![plain("small", "x".repeat(1000))];
    let mut outcomes = by_calls(client, large()).await;
    outcomes.extend(by_stream(client, large()).await);
    outcomes.extend(by_batch(client, large()).await);
    outcomes.push(together(client, large()).await.map(|mut stored| stored.remove(0)));
    for outcome in outcomes {
        assert_status(outcome, Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
    }
    let native = nats.client().await;
    native.publish(room.subject, "x".repeat(1000).into()).await.unwrap();
    settled(&native).await;
    assert_eq!(kept(client, "small").await, ["kept"]);
    publish(client, "small", "next").await.unwrap();
    assert_eq!(kept(client, "small").await, ["kept", "next"]);
}

/// A message with a random choice of what a message may have.
fn any_message(random: &mut Random, room_id: &str, last: u64, number: u64) -> PublishRequest {
    let headers = (0..random.within(0..4)).map(|header| (format!("Name-{header}"), "x".repeat(random.count(0..9))));
    let headers: HashMap<_, _> = headers.collect();
    PublishRequest {
        room_id: room_id.into(),
        headers,
        message_id: if random.within(0..2) == 0 { String::new() } else { format!("id-{number}") },
        expected_last_sequence: (random.within(0..2) == 0).then_some(last),
        ttl: (random.within(0..3) == 0).then_some(prost_types::Duration { seconds: 1000, nanos: 0 }),
        ..PublishRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_message_that_is_kept_is_taken() {
    // Goal: the refusal is exact, so nothing is refused that could be kept. Method: rooms with random bounds; messages with
    // and without headers, ids, expectations, lifetimes and senders; search for the largest payload that is taken. It is kept, and
    // fills the room to the last bytes.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (open, guarded) = (Unibus::start(&nats).await, issuer.guard(&nats, |_| {}).await);
    let clients = [open.client().await, issuer.client(&guarded, "ann").await];
    let mut random = Random::seeded();
    let mut number = 0;
    for round in 0..6 {
        let client = &clients[round % 2];
        let room_id = format!("room_{round}");
        let max = random.within(500..3000);
        bounded(client, &room_id, bytes(max.try_into().unwrap())).await.unwrap();
        let mut last = 0;
        let template = any_message(&mut random, &room_id, 0, 0);
        let (mut accepted, mut refused) = (0_usize, 3000_usize);
        while refused - accepted > 1 {
            number += 1;
            let middle = accepted.midpoint(refused);
            let message_id = if template.message_id.is_empty() { String::new() } else { format!("id-{number:03}") };
            let expected = template.expected_last_sequence.map(|_| last);
            let request = PublishRequest {
                payload: vec![b'x'; middle].into(),
                message_id,
                expected_last_sequence: expected,
                ..template.clone()
            };
            match client.clone().publish(request).await {
                Ok(stored) => {
                    last = stored.into_inner().sequence;
                    accepted = middle;
                    let stored = history(client, &room_id, 0).await.messages;
                    assert_eq!(stored.last().map(|message| message.sequence), Some(last), "{middle} of {max}");
                }
                Err(status) => {
                    assert_eq!(reason(&status), "PAYLOAD_TOO_LARGE", "{status:?}");
                    refused = middle;
                }
            }
        }
        let state = nats.stream(&room_id).await.cached_info().state.clone();
        assert_eq!(state.messages, 1, "{template:?}");
        assert!((max - 5..=max).contains(&state.bytes), "{} of {max} bytes: {template:?}", state.bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_go_together_are_kept_like_those_that_go_alone() {
    // Goal: what JetStream adds to a message of a batch costs no message. Method: a server that syncs each write, where many
    // that wait are stored as one batch; a room for one such message and little more; the newest one is kept.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(nats.url());
        config.nats.sync = NatsSync::Always;
    })
    .await;
    let client = unibus.client().await;
    bounded(&client, "small", bytes(400)).await.unwrap();
    let requests = vec![plain("small", "x".repeat(320)); 200];
    for outcome in by_stream(&client, requests).await {
        outcome.unwrap();
    }
    let page = history(&client, "small", 0).await;
    assert_eq!(sequences(&page.messages), [200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_atomic_batch_is_kept_as_a_whole_or_refused() {
    // Goal: none of a batch that is answered OK is gone at once. Method: rooms bounded in messages and in bytes; batches of one
    // message more than they hold, and the largest that they hold.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = &unibus.client().await;
    bounded(client, "three", Retention { max_messages: 3, ..Retention::default() }).await.unwrap();
    publish(client, "three", "kept").await.unwrap();
    assert_field(together(client, vec![plain("three", "x"); 4]).await, "messages", "four");
    assert_eq!(kept(client, "three").await, ["kept"]);
    together(client, vec![plain("three", "x"); 3]).await.unwrap();
    assert_eq!(kept(client, "three").await, ["x", "x", "x"]);

    bounded(client, "small", bytes(2000)).await.unwrap();
    publish(client, "small", "kept").await.unwrap();
    let (mut accepted, mut refused) = (1_usize, 40_usize);
    while refused - accepted > 1 {
        let middle = accepted.midpoint(refused);
        match together(client, vec![plain("small", "x".repeat(10)); middle]).await {
            Ok(stored) => {
                accepted = middle;
                let kept = sequences(&history(client, "small", 0).await.messages);
                assert!(stored.iter().all(|stored| kept.contains(&stored.sequence)), "{middle} messages");
            }
            Err(status) => {
                assert_status::<()>(Err(status), Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
                refused = middle;
            }
        }
    }
    let state = nats.stream("small").await.cached_info().state.clone();
    assert!((accepted as u64..=accepted as u64 + 1).contains(&state.messages), "{state:?} after {accepted}");
    assert!(accepted > 5, "{accepted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_that_leaves_room_for_nothing_is_refused() {
    // Goal: no room is created, or becomes, one that loses all that is published. Method: the least bound that is taken, with
    // and without senders; a message fits it, and no smaller one is taken by CreateRoom or UpdateRoom.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (open, guarded) = (Unibus::start(&nats).await, issuer.guard(&nats, |_| {}).await);
    for (room_id, client) in [("open", open.client().await), ("guarded", issuer.client(&guarded, "ann").await)] {
        let mut least = 1;
        while let Err(status) = bounded(&client, room_id, bytes(least)).await {
            assert_field::<()>(Err(status), "retention.max_bytes", &least.to_string());
            least += 1;
            assert!(least < 1000, "no bound is taken");
        }
        publish(&client, room_id, "x").await.unwrap();
        publish(&client, room_id, "y").await.unwrap();
        assert_eq!(kept(&client, room_id).await, ["y"]);

        create_room(&client, "other").await;
        publish(&client, "other", "x").await.unwrap();
        let room = Room { room_id: "other".into(), retention: Some(bytes(10)), ..Room::default() };
        let mask = prost_types::FieldMask { paths: vec!["retention.max_bytes".into()] };
        let request = UpdateRoomRequest { room: Some(room), update_mask: Some(mask) };
        assert_field(client.clone().update_room(request).await, "room.retention.max_bytes", "10");
        assert_eq!(kept(&client, "other").await, ["x"]);
        client.clone().delete_room(unibus::v1::DeleteRoomRequest { room_id: "other".into() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stripped_stream_does_not_take_what_it_cannot_keep() {
    // Goal: the refusal does not rest on the stream's own settings. Method: a native program strips them; a message that is too
    // large for the room is refused all the same.
    let (lobby, client) = Lobby::without_room().await;
    bounded(&client, "small", bytes(300)).await.unwrap();
    publish(&client, "small", "kept").await.unwrap();
    let mut config = lobby.nats.stream("small").await.cached_info().config.clone();
    config.max_message_size = -1;
    let jetstream = lobby.nats.jetstream().await;
    jetstream.update_stream(config).await.unwrap();
    assert_status(publish(&client, "small", vec![b'x'; 1000]).await, Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
    assert_eq!(kept(&client, "small").await, ["kept"]);
    eventually(std::time::Duration::from_secs(10), async || {
        let size = lobby.nats.stream("small").await.cached_info().config.max_message_size;
        (size > 0).then_some(()).ok_or_else(|| size.to_string())
    })
    .await;
}
