//! Purging: messages go, sequences stay, and that it was a purge is known to whoever looks.

use std::time::Duration;

use async_nats::jetstream::stream;
use futures_util::StreamExt;
use serde_json::Value;
use tonic::{Code, Status};
use unibus::v1::{CreateRoomRequest, PurgeRoomRequest, PurgeRoomResponse, Retention};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, assert_field, assert_status, create_ephemeral, create_room, eventually,
    explicit, history, metadata, persisted, publish, publish_n, sequences,
};

async fn purge(
    client: &Client,
    room_id: &str,
    up_to_sequence: impl Into<Option<u64>>,
) -> Result<PurgeRoomResponse, Status> {
    let request = PurgeRoomRequest { room_id: room_id.into(), up_to_sequence: up_to_sequence.into() };
    Ok(client.clone().purge_room(request).await?.into_inner())
}

/// Messages removed, then the first and last sequence and the messages of the room as it was answered.
fn seen(response: &PurgeRoomResponse) -> (u64, u64, u64, u64) {
    let state = response.room.as_ref().and_then(|room| room.state).expect("a state");
    (response.purged, state.first_sequence, state.last_sequence, state.messages)
}

/// What the registry says of purges, as a native tool sees it.
async fn registered(nats: &Nats, mapped_id: &str) -> (Value, Value) {
    let bucket = nats.jetstream().await.get_key_value("unibus_rooms").await.unwrap();
    let value = bucket.get(mapped_id).await.unwrap().expect("the room");
    let value: Value = serde_json::from_slice(&value).unwrap();
    (value["purged"]["epoch"].clone(), value["purged"]["through"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_removes_up_to_a_sequence_and_once_more_nothing() {
    // Goal: what was asked for goes, once, and sequences go on. Method: parts, repetitions, less than before, all, all of
    // an empty room; after each the answer, the history, and what is registered.
    let (lobby, client) = Lobby::open().await;
    assert_eq!(seen(&purge(&client, "lobby", None).await.unwrap()), (0, 1, 0, 0));
    publish_n(&client, "lobby", 10).await;
    assert_eq!(seen(&purge(&client, "lobby", 0).await.unwrap()), (0, 1, 10, 10));
    assert_eq!(registered(&lobby.nats, "lobby").await, (Value::Null, Value::Null));
    let cases = [
        (Some(3), 3, 4, 7, 3),
        (Some(3), 0, 4, 7, 3),
        (Some(1), 0, 4, 7, 3),
        (Some(5), 2, 6, 5, 5),
        (None, 5, 11, 0, 10),
    ];
    for (up_to, purged, first, messages, through) in cases {
        assert_eq!(seen(&purge(&client, "lobby", up_to).await.unwrap()), (purged, first, 10, messages), "{up_to:?}");
        assert_eq!(registered(&lobby.nats, "lobby").await.1, through, "{up_to:?}");
    }
    assert_eq!(seen(&purge(&client, "lobby", None).await.unwrap()), (0, 11, 10, 0));
    assert_eq!(seen(&purge(&client, "lobby", 10).await.unwrap()), (0, 11, 10, 0));
    assert_eq!(publish(&client, "lobby", "x").await.unwrap().sequence, 11);
    assert_eq!(sequences(&history(&client, "lobby", 0).await.messages), [11]);

    let created = lobby.nats.stream("lobby").await.cached_info().created.unix_timestamp_nanos();
    assert_eq!(registered(&lobby.nats, "lobby").await.0.as_i64().map(i128::from), Some(created));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_on_one_instance_is_seen_on_the_other() {
    // Goal: instances agree. Method: purge parts alternately, each instance with changed labels or bounds of its own in
    // between; nothing of it is lost.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    let retention = Some(Retention { max_messages: 100, ..Retention::default() });
    client.clone().create_room(CreateRoomRequest { retention, ..persisted("lobby") }).await.unwrap();
    publish_n(&client, "lobby", 10).await;
    for (number, up_to) in (2..=10).step_by(2).enumerate() {
        let client = if number % 2 == 0 { &other } else { &client };
        let response = purge(client, "lobby", up_to).await.unwrap();
        assert_eq!(seen(&response), (2, up_to + 1, 10, 10 - up_to));
        assert_eq!(response.room.unwrap().retention, retention);
    }
    for client in [&client, &other] {
        assert!(history(client, "lobby", 0).await.messages.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_purged_is_refused() {
    // Goal: a mistaken purge removes nothing. Method: a position after the end, in a room and in an empty one; an ephemeral
    // room; no such room; a bad id; a stream whose maker denied it, where nothing is registered either.
    let (lobby, client) = Lobby::open().await;
    create_room(&client, "empty").await;
    publish_n(&client, "lobby", 3).await;
    for (room_id, up_to, last) in [("lobby", 4, "3"), ("lobby", u64::MAX, "3"), ("empty", 1, "0")] {
        let refused = assert_status(purge(&client, room_id, up_to).await, Code::OutOfRange, "POSITION_AFTER_END");
        assert_eq!(metadata(&refused, "last_sequence"), last);
    }
    assert_eq!(history(&client, "lobby", 0).await.messages.len(), 3);
    create_ephemeral(&client, "live").await;
    assert_status(purge(&client, "live", None).await, Code::FailedPrecondition, "ROOM_NOT_PERSISTED");
    assert_status(purge(&client, "nowhere", None).await, Code::NotFound, "ROOM_NOT_FOUND");
    assert_field(purge(&client, "a b", None).await, "room_id", "a room id");

    let denied = stream::Config {
        name: "UNIBUS_kept".into(),
        subjects: vec!["kept".into()],
        deny_purge: true,
        ..stream::Config::default()
    };
    lobby.nats.jetstream().await.create_stream(denied).await.unwrap();
    let adopted = CreateRoomRequest { subject: "kept".into(), ..persisted("kept") };
    client.clone().create_room(adopted).await.unwrap();
    publish_n(&client, "kept", 3).await;
    assert_status(purge(&client, "kept", 2).await, Code::FailedPrecondition, "REMOVAL_DENIED");
    assert_eq!(registered(&lobby.nats, "kept").await, (Value::Null, Value::Null));
    assert_eq!(history(&client, "kept", 0).await.messages.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_registered_before_the_messages_go_and_after() {
    // Goal: whoever misses the messages can find out why, and a purge that was only announced counts for nothing. Method: a
    // native client that sees what the service sends to NATS, in order; the second purge of the same sequences registers
    // nothing.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    let witness = lobby.nats.client().await;
    let mut seen = witness.subscribe(">").await.unwrap();
    witness.publish("begin", "".into()).await.unwrap();
    while seen.next().await.expect("open").subject.as_str() != "begin" {}
    purge(&client, "lobby", 3).await.unwrap();
    purge(&client, "lobby", 3).await.unwrap();
    purge(&client, "lobby", 5).await.unwrap();
    witness.publish("end", "".into()).await.unwrap();
    let mut order = Vec::new();
    while let Some(message) = seen.next().await {
        // what the service asked for, and not what the bucket's watchers are told
        let asked = message.reply.as_ref().is_some_and(|reply| reply.starts_with("_INBOX_unibus."));
        match message.subject.as_str() {
            "end" => break,
            _ if !asked => {}
            "$KV.unibus_rooms.lobby" => order.push("registered"),
            "$JS.API.STREAM.PURGE.UNIBUS_lobby" => order.push("purged"),
            _ => {}
        }
    }
    assert_eq!(order, ["registered", "purged", "registered"].repeat(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_made_anew_was_never_purged() {
    // Goal: what is registered of a purge belongs to one life of the log. Method: purge, let a native client delete the
    // stream, publish; the new life's sequences are not taken for purged ones: purging there removes and registers anew.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 9).await;
    purge(&client, "lobby", 8).await.unwrap();
    let before = registered(&lobby.nats, "lobby").await;
    lobby.nats.jetstream().await.delete_stream("UNIBUS_lobby").await.unwrap();
    eventually(Duration::from_secs(10), async || {
        let last = history(&client, "lobby", 1).await.last_sequence;
        (last == 0).then_some(()).ok_or_else(|| format!("the last sequence is {last}"))
    })
    .await;
    publish_n(&client, "lobby", 3).await;
    assert_eq!(seen(&purge(&client, "lobby", 2).await.unwrap()), (2, 3, 3, 1));
    let after = registered(&lobby.nats, "lobby").await;
    assert_ne!(before.0, after.0);
    assert_eq!(after.1, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_moves_positions_to_its_end() {
    // Goal: a subscriber that was behind goes on after the purge. Method: a durable at the beginning; purge four of six;
    // it is at four, and gets the rest.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 6).await;
    drop(Frames::open(&client, explicit("lobby", "ann")).await.unwrap());
    purge(&client, "lobby", 4).await.unwrap();
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.opened().position, 4);
    assert_eq!(sequences(&frames.until_caught_up().await), [5, 6]);
}
