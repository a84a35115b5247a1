//! Streams that were there before the room, and native clients that set them up again.

use std::time::Duration;

use async_nats::jetstream::stream::{
    self, Compression, ConsumerLimits, DiscardPolicy, PersistenceMode, Placement, Republish, RetentionPolicy,
    StorageType, SubjectTransform,
};
use tonic::Code;
use unibus::v1::{CreateRoomRequest, DeleteRoomRequest, GetRoomRequest, Retention};

use crate::support::{
    Client, Frames, Lobby, acknowledge, assert_status, bare_stream, create_room, eventually, history, payloads,
    persisted, publish,
    publishing::{named, plain, together},
    settled,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_stream_is_adopted_with_its_messages() {
    // Goal: rooms of the former bus live on. Method: a native stream with messages under the room's names; create the
    // room; history, a new durable and the next sequence go on from there.
    let (lobby, client) = Lobby::without_room().await;
    lobby.nats.jetstream().await.create_stream(bare_stream("legacy")).await.unwrap();
    lobby.nats.publish_n("unibus.room.legacy", 3).await;

    let room = create_room(&client, "legacy").await;
    let state = room.state.expect("a state");
    assert_eq!((state.first_sequence, state.last_sequence), (1, 3));
    assert_eq!(publish(&client, "legacy", "4").await.unwrap().sequence, 4);
    let expected = ["1", "2", "3", "4"];
    assert_eq!(payloads(&history(&client, "legacy", 0).await.messages), expected);
    let mut ann = Frames::durable(&client, "legacy", "ann").await;
    assert_eq!(payloads(&ann.until_caught_up().await), expected);
}

/// What a native program may have made of the room's stream, and a room cannot work with, with a name for it.
fn incompatible() -> Vec<(&'static str, stream::Config)> {
    let bare = || bare_stream("legacy");
    let subject = || String::from("unibus.room.legacy");
    let limits = |seconds, max_ack_pending| {
        let limits = ConsumerLimits { inactive_threshold: Duration::from_secs(seconds), max_ack_pending };
        stream::Config { consumer_limits: Some(limits), ..bare() }
    };
    let source = stream::Source { name: "source".into(), ..stream::Source::default() };
    let transform = SubjectTransform { source: subject(), destination: "other.legacy".into() };
    vec![
        ("subject", stream::Config { subjects: vec!["elsewhere".into()], ..bare() }),
        ("subjects", stream::Config { subjects: vec![subject(), "more".into()], ..bare() }),
        ("work queue", stream::Config { retention: RetentionPolicy::WorkQueue, ..bare() }),
        ("interest", stream::Config { retention: RetentionPolicy::Interest, ..bare() }),
        ("memory", stream::Config { storage: StorageType::Memory, ..bare() }),
        ("no acknowledgements", stream::Config { no_ack: true, ..bare() }),
        ("asynchronous", stream::Config { persist_mode: Some(PersistenceMode::Async), ..bare() }),
        ("idle consumers", limits(1, 0)),
        ("pending acks", limits(0, 5)),
        ("consumers", limits(1, 5)),
        ("sources", stream::Config { sources: Some(vec![source]), ..bare() }),
        ("transform", stream::Config { subject_transform: Some(transform), ..bare() }),
        ("rollup", stream::Config { allow_rollup: true, ..bare() }),
        ("counters", stream::Config { allow_message_counter: true, ..bare() }),
        ("schedules", stream::Config { allow_message_schedules: true, ..bare() }),
        (
            "markers",
            stream::Config {
                allow_message_ttl: true,
                subject_delete_marker_ttl: Some(Duration::from_secs(2)),
                ..bare()
            },
        ),
        ("first sequence", stream::Config { first_sequence: Some(100), ..bare() }),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_cannot_be_the_rooms_is_left_alone() {
    // Goal: adoption never changes what a stream is for, and a room never gets a stream with which it does not work. Method:
    // streams of the room's name with another subject and with each setting that a room cannot have; each is refused,
    // untouched, and no room is left.
    let (lobby, mut client) = Lobby::without_room().await;
    let jetstream = lobby.nats.jetstream().await;
    let source = stream::Config { name: "source".into(), subjects: vec!["source".into()], ..stream::Config::default() };
    jetstream.create_stream(source).await.unwrap();
    let mut cases = incompatible();
    let mut sealed = bare_stream("legacy");
    sealed.sealed = true;
    cases.push(("sealed", sealed));
    for (case, config) in cases {
        // sealed it can only become
        let created = stream::Config { sealed: false, ..config.clone() };
        jetstream.create_stream(created).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        if config.sealed {
            jetstream.update_stream(config).await.unwrap();
        }
        let before = lobby.nats.stream("legacy").await.cached_info().config.clone();

        let refused = client.create_room(persisted("legacy")).await;
        assert!(refused.is_err(), "{case}");
        assert_status(refused, Code::AlreadyExists, "STREAM_INCOMPATIBLE");

        assert_eq!(lobby.nats.stream("legacy").await.cached_info().config, before, "{case}");
        let request = GetRoomRequest { room_id: "legacy".into() };
        let missing = client.get_room(request).await;
        assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");
        jetstream.delete_stream("UNIBUS_legacy").await.unwrap();
    }
    create_room(&client, "legacy").await;
}

/// Asserts that the room works: by every way to publish, read and remember a position.
async fn assert_works(client: &Client, case: &str) {
    let last = history(client, "legacy", 0).await.last_sequence;
    let stored =
        client.clone().publish(named("legacy", "id")).await.unwrap_or_else(|status| panic!("{case}: {status}"));
    assert_eq!(stored.into_inner().sequence, last + 1, "{case}");
    let again = client.clone().publish(named("legacy", "id")).await.unwrap().into_inner();
    assert_eq!((again.sequence, again.duplicate), (last + 1, true), "{case}");
    together(client, vec![plain("legacy", "a"), plain("legacy", "b")]).await.unwrap();
    let expected = (1..=last).map(|number| number.to_string()).chain(["id", "a", "b"].map(String::from));
    let expected: Vec<_> = expected.collect();
    assert_eq!(payloads(&history(client, "legacy", 0).await.messages), expected, "{case}");
    let mut ann = Frames::durable(client, "legacy", "ann").await;
    assert_eq!(payloads(&ann.until_caught_up().await), expected, "{case}");
    publish(client, "legacy", "live").await.unwrap();
    assert_eq!(payloads(&ann.messages(1).await), ["live"], "{case}");
    let position = acknowledge(client, "legacy", "ann", last + 4).await.unwrap();
    assert_eq!((position, ann.gaps.len()), (last + 4, 0), "{case}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_setting_that_is_adopted_works() {
    // Goal: what is adopted is known to work. Method: streams with messages and each setting that a room may have or that the
    // service replaces; publish, read and acknowledge in the room that gets it.
    let (lobby, mut client) = Lobby::without_room().await;
    let jetstream = lobby.nats.jetstream().await;
    let bare = || bare_stream("legacy");
    let republish =
        Republish { source: "unibus.room.legacy".into(), destination: "copy.legacy".into(), headers_only: false };
    let placement = Placement { cluster: None, tags: vec!["none".into()] };
    let new = DiscardPolicy::New;
    let cases = [
        ("description", stream::Config { description: Some("a room of before".into()), ..bare() }),
        ("republish", stream::Config { republish: Some(republish), ..bare() }),
        ("compression", stream::Config { compression: Some(Compression::S2), ..bare() }),
        ("placement", stream::Config { placement: Some(placement), ..bare() }),
        ("lifetimes", stream::Config { allow_message_ttl: true, ..bare() }),
        ("fast batches", stream::Config { allow_batch_publish: true, ..bare() }),
        ("no deletion", stream::Config { deny_delete: true, ..bare() }),
        ("no purge", stream::Config { deny_purge: true, ..bare() }),
        ("persisted by default", stream::Config { persist_mode: Some(PersistenceMode::Default), ..bare() }),
        ("discard new", stream::Config { discard: new, max_messages: 3, ..bare() }),
        (
            "discard new per subject",
            stream::Config {
                discard: new,
                discard_new_per_subject: true,
                max_messages_per_subject: 3,
                max_messages: 3,
                ..bare()
            },
        ),
        ("bounds", stream::Config { max_messages: 3, max_bytes: 10_000, max_message_size: 100, ..bare() }),
        (
            "age",
            stream::Config { max_age: Duration::from_secs(60), duplicate_window: Duration::from_secs(1), ..bare() },
        ),
        ("consumers", stream::Config { max_consumers: 1, ..bare() }),
    ];
    for (case, config) in cases {
        jetstream.create_stream(config).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        lobby.nats.publish_n("unibus.room.legacy", 3).await;
        let created = client.create_room(persisted("legacy")).await;
        created.unwrap_or_else(|status| panic!("{case}: {status}"));
        assert_works(&client, case).await;
        client.delete_room(DeleteRoomRequest { room_id: "legacy".into() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_native_program_makes_of_a_rooms_stream_is_taken_back() {
    // Goal: a room that was adopted stays one that works. Method: update its stream to each setting that a room cannot have, as
    // far as NATS allows; the settings come back, the room works, and an open subscription goes on.
    let (lobby, mut client) = Lobby::without_room().await;
    let jetstream = lobby.nats.jetstream().await;
    let source = stream::Config { name: "source".into(), subjects: vec!["source".into()], ..stream::Config::default() };
    jetstream.create_stream(source).await.unwrap();
    let mut changed = 0;
    for (case, config) in incompatible() {
        create_room(&client, "legacy").await;
        let own = lobby.nats.stream("legacy").await.cached_info().config.clone();
        let mut live = Frames::transient(&client, "legacy").await;
        live.until_caught_up().await;
        if jetstream.update_stream(config).await.is_ok() {
            changed += 1;
            eventually(Duration::from_secs(10), async || {
                history(&client, "legacy", 0).await;
                let found = lobby.nats.stream("legacy").await.cached_info().config.clone();
                // these NATS lets nobody switch off
                let expected = stream::Config {
                    allow_message_ttl: found.allow_message_ttl,
                    allow_message_schedules: found.allow_message_schedules,
                    allow_rollup: found.allow_message_schedules,
                    ..own.clone()
                };
                (found == expected).then_some(()).ok_or_else(|| format!("{case}: {found:?}"))
            })
            .await;
            assert_works(&client, case).await;
            assert_eq!(payloads(&live.messages(4).await), ["id", "a", "b", "live"], "{case}");
        }
        client.delete_room(DeleteRoomRequest { room_id: "legacy".into() }).await.unwrap();
    }
    assert!(changed > 5, "NATS allowed {changed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_room_is_still_read() {
    // Goal: what cannot be taken back is refused by name and harms nothing else. Method: seal a room's stream; publishing says
    // that nothing more is taken, history goes on.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "legacy").await;
    publish(&client, "legacy", "1").await.unwrap();
    let mut config = lobby.nats.stream("legacy").await.cached_info().config.clone();
    config.sealed = true;
    lobby.nats.jetstream().await.update_stream(config).await.unwrap();
    assert_status(publish(&client, "legacy", "2").await, Code::ResourceExhausted, "STORAGE_FULL");
    let refused = together(&client, vec![plain("legacy", "2"), plain("legacy", "3")]).await;
    assert_status(refused, Code::ResourceExhausted, "STORAGE_FULL");
    assert_eq!(payloads(&history(&client, "legacy", 0).await.messages), ["1"]);
    assert_eq!(payloads(&Frames::transient(&client, "legacy").await.until_caught_up().await), ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_client_may_set_up_the_stream_again_and_it_is_repaired() {
    // Goal: the create-or-update that native clients send on every call works, and what it strips comes back. Method: a
    // room with retention; the bare configuration from outside; the room's use brings the retention back.
    let (lobby, mut client) = Lobby::without_room().await;
    let request = CreateRoomRequest {
        retention: Some(Retention { max_messages: 3, ..Retention::default() }),
        ..persisted("legacy")
    };
    client.create_room(request).await.unwrap();
    publish(&client, "legacy", "1").await.unwrap();

    let jetstream = lobby.nats.jetstream().await;
    let stripped = jetstream.create_or_update_stream(bare_stream("legacy")).await.unwrap();
    assert!(stripped.config.max_messages <= 0, "the test strips nothing");

    eventually(Duration::from_secs(10), async || {
        let stored = publish(&client, "legacy", "more").await;
        stored.map_err(|status| status.to_string())?;
        let kept = lobby.nats.stream("legacy").await.cached_info().config.max_messages;
        (kept == 3).then_some(()).ok_or(format!("max_messages is {kept}"))
    })
    .await;
    let stored = publish(&client, "legacy", "last").await.unwrap();
    let page = history(&client, "legacy", 0).await;
    assert_eq!(page.messages.len(), 3);
    assert_eq!(page.last_sequence, stored.sequence);
    assert_eq!(page.first_sequence, stored.sequence - 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_begins_with_the_room() {
    // Goal: who publishes natively is captured from the room's creation on, before anybody used the service's publish.
    // Method: create the room, publish with core NATS only, read.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;

    let native = lobby.nats.client().await;
    for payload in ["1", "2", "3"] {
        let subject = room.subject.clone();
        native.publish(subject, payload.into()).await.unwrap();
    }
    settled(&native).await;

    let messages = eventually(Duration::from_secs(5), async || {
        let page = history(&client, "lobby", 0).await;
        let count = page.messages.len();
        (count == 3).then_some(page.messages).ok_or(format!("{count} messages"))
    })
    .await;
    assert_eq!(payloads(&messages), ["1", "2", "3"]);
    assert!(messages.iter().all(|message| message.sender.is_empty()));
}
