//! Native NATS programs beside the service: the names and settings that they rely on, and what they may do to them.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull},
    stream::{DiscardPolicy, RetentionPolicy, StorageType},
};
use futures_util::{StreamExt, TryStreamExt};
use tonic::Code;
use unibus::v1::{CreateRoomRequest, DeleteRoomRequest, Retention, start::At};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, acknowledge, assert_status, bare_stream, create_ephemeral, create_room,
    durable_info, eventually, explicit, floor, floor_reaches, history, metadata, payloads, persisted, publish,
    publish_n, sequences, settled, starting, subscription,
};

/// How long something may take that nobody asks for.
const SOON: Duration = Duration::from_secs(10);

/// What a native client sends when it makes sure of a durable.
fn bare_durable(name: &str) -> pull::Config {
    pull::Config { durable_name: Some(name.into()), ack_policy: AckPolicy::Explicit, ..pull::Config::default() }
}

/// Takes and acknowledges the next `count` messages of a durable as a native peer does; gives their sequences.
async fn native_take(nats: &Nats, mapped_room: &str, durable: &str, count: usize) -> Vec<u64> {
    let stream = nats.stream(mapped_room).await;
    let durable = stream.create_consumer(bare_durable(durable)).await.unwrap();
    let fetch = durable.fetch().max_messages(count).expires(SOON);
    let mut messages = fetch.messages().await.unwrap();
    let mut taken = Vec::new();
    while let Some(message) = messages.try_next().await.unwrap() {
        taken.push(message.info().unwrap().stream_sequence);
        message.double_ack().await.unwrap();
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_has_the_carried_over_name_and_settings() {
    // Goal: native programs find the stream where the former bus had it. Method: a room whose id needs mapping; look at
    // its stream natively: name, subject, files, Limits, one replica, and nothing that refuses a bare update.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "Team-a.b/ü_1").await;
    assert_eq!(room.subject, "unibus.room.Team_a_b___1");

    let config = lobby.nats.stream("Team_a_b___1").await.cached_info().config.clone();
    assert_eq!(config.name, "UNIBUS_Team_a_b___1");
    assert_eq!(config.subjects, [room.subject]);
    assert_eq!(config.storage, StorageType::File);
    assert_eq!(config.retention, RetentionPolicy::Limits);
    assert_eq!(config.discard, DiscardPolicy::Old);
    assert_eq!(config.num_replicas, 1);
    assert!(config.max_messages <= 0 && config.max_bytes <= 0 && config.max_age.is_zero());
    assert!(!config.deny_delete && !config.deny_purge && !config.allow_message_ttl);
    assert!(!config.allow_rollup && !config.sealed && !config.no_ack);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_durable_has_the_carried_over_name_and_settings() {
    // Goal: a subscriber is the same durable for native peers. Method: subscribers that start at different places, whose
    // names need mapping; look at their durables natively.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "team-a").await;
    publish_n(&client, "team-a", 3).await;
    let mut from_the_end = starting("team-a", At::New(()));
    from_the_end.subscriber = "bob".into();
    let _all = Frames::durable(&client, "team-a", "ann/phone.1").await;
    let _new = Frames::open(&client, from_the_end).await.unwrap();

    for (mapped, position) in [("ann_phone_1", 0), ("bob", 3)] {
        let info = durable_info(&lobby.nats, "team_a", mapped).await;
        let config = info.config;
        assert_eq!(info.name, format!("team_a_{mapped}"));
        assert_eq!(config.durable_name.as_deref(), Some(info.name.as_str()));
        assert_eq!(config.deliver_policy, DeliverPolicy::All, "{mapped}");
        assert_eq!(config.ack_policy, AckPolicy::Explicit, "{mapped}");
        assert_eq!(config.replay_policy, ReplayPolicy::Instant, "{mapped}");
        assert_eq!(config.deliver_subject, None, "{mapped}");
        assert!(!config.memory_storage, "{mapped}");
        assert!(config.filter_subject.is_empty() && config.filter_subjects.is_empty());
        assert!(info.ack_floor.stream_sequence >= position, "{mapped}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_publishes_reach_subscribers_as_backlog_and_live() {
    // Goal: a plain core NATS publisher is a publisher of the room. Method: one message before the subscription, one
    // after; both come, numbered, with a cursor.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    let native = lobby.nats.client().await;
    native.publish(room.subject.clone(), "early".into()).await.unwrap();
    settled(&native).await;

    let mut reader = Frames::durable(&client, "lobby", "ann").await;
    let early = reader.messages(1).await;
    native.publish(room.subject, "late".into()).await.unwrap();
    let late = reader.messages(1).await;
    assert_eq!(payloads(&early), ["early"]);
    assert_eq!(payloads(&late), ["late"]);
    assert_eq!((early[0].sequence, late[0].sequence), (1, 2));
    assert!(!late[0].cursor.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_durables_receive_what_the_service_publishes() {
    // Goal: native peers with durables of their own are served by the same stream. Method: publish through the service,
    // fetch natively.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    assert_eq!(native_take(&lobby.nats, "lobby", "lobby_peer", 3).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_and_service_acks_move_the_same_position() {
    // Goal: a peer may change between the Go client and the service. Method: a durable made natively with two acks; the
    // service resumes after them, acknowledges further; the native peer continues there, and the service after it.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 10).await;

    assert_eq!(native_take(&lobby.nats, "lobby", "lobby_ann", 2).await, [1, 2]);
    let mut reader = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert!(reader.opened().resumed);
    assert_eq!(reader.opened().position, 2);
    assert_eq!(sequences(&reader.messages(1).await), [3]);
    assert_eq!(acknowledge(&client, "lobby", "ann", 5).await.unwrap(), 5);
    drop(reader);

    assert_eq!(native_take(&lobby.nats, "lobby", "lobby_ann", 2).await, [6, 7]);
    let behind = acknowledge(&client, "lobby", "ann", 6).await.unwrap();
    assert_eq!(behind, 7, "a native ack was taken back");
    let reader = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(reader.opened().position, 7);
    assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_create_or_update_succeeds_at_any_time_and_is_repaired_unasked() {
    // Goal: native clients may make sure of stream and durable on every call, and nothing of the room is lost by it.
    // Method: a room with retention and an open subscriber; several rounds of bare create-or-update of both; after each,
    // with no call to the service, the settings come back; position and subscription are as they were.
    let (lobby, mut client) = Lobby::without_room().await;
    let hour = prost_types::Duration { seconds: 3600, nanos: 0 };
    let request = CreateRoomRequest {
        retention: Some(Retention { max_age: Some(hour), max_messages: 1000, ..Retention::default() }),
        ..persisted("lobby")
    };
    client.create_room(request).await.unwrap();
    let whole = lobby.nats.stream("lobby").await.cached_info().config.clone();
    assert!(whole.allow_direct && whole.allow_atomic_publish && whole.max_consumers > 1000);
    assert!(whole.metadata.contains_key("unibus.room"));
    let mut reader = Frames::durable(&client, "lobby", "ann").await;

    let jetstream = lobby.nats.jetstream().await;
    for round in 1..=3 {
        publish(&client, "lobby", round.to_string()).await.unwrap();
        assert_eq!(sequences(&reader.messages(1).await), [round]);
        floor_reaches(&lobby.nats, "lobby", "ann", round).await;
        let stripped = jetstream.create_or_update_stream(bare_stream("lobby")).await.unwrap();
        assert!(!stripped.config.allow_direct, "nothing was stripped");
        let stream = lobby.nats.stream("lobby").await;
        stream.create_consumer(bare_durable("lobby_ann")).await.unwrap();

        eventually(SOON, async || {
            let config = lobby.nats.stream("lobby").await.cached_info().config.clone();
            (config == whole).then_some(()).ok_or_else(|| format!("{config:?}"))
        })
        .await;
        assert_eq!(floor(&lobby.nats, "lobby", "ann").await, round);
    }
    publish(&client, "lobby", "on").await.unwrap();
    assert_eq!(payloads(&reader.messages(1).await), ["on"]);
    assert_eq!(reader.gaps, []);
}

/// A room with three messages and an open subscriber; and the cursor of the second message.
async fn room_in_use(client: &Client) -> (Frames, String) {
    create_room(client, "lobby").await;
    publish_n(client, "lobby", 3).await;
    let mut reader = Frames::durable(client, "lobby", "ann").await;
    let messages = reader.until_caught_up().await;
    assert_eq!(sequences(&messages), [1, 2, 3]);
    (reader, messages[1].cursor.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_natively_deleted_stream_heals_as_a_new_life() {
    // Goal: a deleted stream is a new beginning, never a mixture. Method: delete it natively under an open subscription;
    // that one ends and says why; publishing works again from 1; the old cursor is refused; the durable begins anew.
    let (lobby, client) = Lobby::without_room().await;
    let (mut reader, cursor) = room_in_use(&client).await;

    lobby.nats.jetstream().await.delete_stream("UNIBUS_lobby").await.unwrap();
    let stored = publish(&client, "lobby", "anew").await.unwrap();
    assert_eq!(stored.sequence, 1);
    let ended = assert_status::<()>(Err(reader.end(SOON).await), Code::Aborted, "ROOM_RECREATED");
    assert_eq!(metadata(&ended, "position"), "3");
    let refused = Frames::open(&client, starting("lobby", At::AfterCursor(cursor))).await;
    assert_status(refused.map(|_| ()), Code::FailedPrecondition, "CURSOR_EXPIRED");

    let mut reader = Frames::durable(&client, "lobby", "ann").await;
    assert!(!reader.opened().resumed);
    assert_eq!(payloads(&reader.until_caught_up().await), ["anew"]);
    let config = lobby.nats.stream("lobby").await.cached_info().config.clone();
    assert!(config.allow_direct && config.metadata.contains_key("unibus.room"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_natively_recreated_stream_is_taken_on_and_repaired() {
    // Goal: a native client may make the stream anew by itself. Method: delete and re-create it with the bare settings and
    // a message; the old subscription ends, the settings are completed unasked, the new message is there.
    let (lobby, client) = Lobby::without_room().await;
    let whole = {
        create_room(&client, "lobby").await;
        lobby.nats.stream("lobby").await.cached_info().config.clone()
    };
    let (mut reader, _) = room_in_use(&client).await;

    let jetstream = lobby.nats.jetstream().await;
    jetstream.delete_stream("UNIBUS_lobby").await.unwrap();
    jetstream.create_or_update_stream(bare_stream("lobby")).await.unwrap();
    let ack = jetstream.publish("unibus.room.lobby", "native".into()).await.unwrap();
    assert_eq!(ack.await.unwrap().sequence, 1);

    assert_status::<()>(Err(reader.end(SOON).await), Code::Aborted, "ROOM_RECREATED");
    eventually(SOON, async || {
        let config = lobby.nats.stream("lobby").await.cached_info().config.clone();
        (config == whole).then_some(()).ok_or_else(|| format!("{config:?}"))
    })
    .await;
    assert_eq!(payloads(&history(&client, "lobby", 0).await.messages), ["native"]);
    let mut reader = Frames::durable(&client, "lobby", "ann").await;
    assert_eq!(payloads(&reader.until_caught_up().await), ["native"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_deleted_under_its_subscribers_ends_them_with_not_found() {
    // Goal: nobody waits for a room that is gone. Method: durable, transient and ephemeral subscriptions on the instance
    // that deletes and on another; all end with the same status.
    let nats = Nats::start().await;
    let (here, there) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (mut client, other) = (here.client().await, there.client().await);
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;
    eventually(SOON, async || {
        let rooms = crate::support::list_rooms(&other, 0, "").await.unwrap().rooms;
        (rooms.len() == 2).then_some(()).ok_or_else(|| format!("{rooms:?}"))
    })
    .await;
    let mut open = Vec::new();
    for (client, subscriber) in [(&client, "ann"), (&client, ""), (&other, "bob"), (&other, "")] {
        open.push(Frames::durable(client, "lobby", subscriber).await);
        open.push(Frames::open(client, subscription("live", "")).await.unwrap());
    }

    for room_id in ["lobby", "live"] {
        let request = DeleteRoomRequest { room_id: room_id.into() };
        client.delete_room(request).await.unwrap();
    }
    for mut frames in open {
        assert_status::<()>(Err(frames.end(SOON).await), Code::NotFound, "ROOM_NOT_FOUND");
    }
    let names: Vec<_> = nats.jetstream().await.stream_names().map(Result::unwrap).collect().await;
    assert!(!names.iter().any(|name| name.starts_with("UNIBUS_")), "{names:?}");
}
