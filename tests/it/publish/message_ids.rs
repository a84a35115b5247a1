//! Whose a message id is, and for how long it is known.

use async_nats::HeaderMap;
use tonic::Code;
use unibus::v1::{DeleteMessageRequest, PublishRequest, PurgeRoomRequest, Role};

use crate::support::{
    Client, Issuer, Lobby, Nats, NatsOptions, Unibus, assert_status, create_room, eventually, everything,
    membership::{add, add_from},
    payloads, publish_n,
    publishing::{by_batch, by_calls, by_stream, named, plain, together},
};

/// Publishes a message with its id; whether it was known.
async fn is_known(client: &Client, room_id: &str, id: &str) -> bool {
    let stored = eventually(std::time::Duration::from_secs(20), async || {
        client.clone().publish(named(room_id, id)).await.map_err(|status| status.to_string())
    });
    stored.await.into_inner().duplicate
}

/// Rooms with messages of which some were erased, purged, or have expired. Their window is the default or a day.
async fn prepared(nats: &Nats, client: &mut Client, has_long_window: bool) {
    let window = prost_types::Duration { seconds: 24 * 3600, nanos: 0 };
    for room_id in ["lobby", "purged", "short"] {
        let request = unibus::v1::CreateRoomRequest {
            allow_message_ttl: room_id == "short",
            dedupe_window: has_long_window.then_some(window),
            ..crate::support::persisted(room_id)
        };
        client.create_room(request).await.unwrap();
        let ids = if room_id == "short" { vec![] } else { vec!["first", "second", "third"] };
        for id in ids {
            client.publish(named(room_id, id)).await.unwrap();
        }
    }
    let erased = DeleteMessageRequest { room_id: "lobby".into(), sequence: 2 };
    client.delete_message(erased).await.unwrap();
    client.purge_room(PurgeRoomRequest { room_id: "purged".into(), ..PurgeRoomRequest::default() }).await.unwrap();
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    client.publish(PublishRequest { ttl, ..named("short", "first") }).await.unwrap();
    eventually(std::time::Duration::from_secs(10), async || {
        let messages = nats.stream("short").await.cached_info().state.messages;
        (messages == 0).then_some(()).ok_or_else(|| format!("{messages} messages"))
    })
    .await;
}

/// The ids of messages that are gone, with their rooms.
const GONE: [(&str, &str); 5] =
    [("lobby", "second"), ("purged", "first"), ("purged", "second"), ("purged", "third"), ("short", "first")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_outlives_its_message_while_nats_runs() {
    // Goal: within the window a retry is no new message, also when the message is gone. Method: erase, purge, let expire; then
    // publish again with each id.
    for has_long_window in [false, true] {
        let (lobby, mut client) = Lobby::without_room().await;
        prepared(&lobby.nats, &mut client, has_long_window).await;
        for (room_id, id) in GONE {
            assert!(is_known(&client, room_id, id).await, "{id} in {room_id}");
        }
        for id in ["first", "third"] {
            assert!(is_known(&client, "lobby", id).await, "{id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_nats_the_ids_of_stored_messages_are_known() {
    // Goal: the exact promise: a restarted server knows the ids of the messages that it still stores, and no others. Method: the
    // same after a clean stop and after SIGKILL, with and without synced writes.
    for (clean, synced, has_long_window) in [(true, false, true), (false, false, false), (false, true, true)] {
        let options = if synced { NatsOptions::new().sync_always() } else { NatsOptions::new() };
        let mut nats = options.start().await;
        let unibus = Unibus::start(&nats).await;
        let mut client = unibus.client().await;
        prepared(&nats, &mut client, has_long_window).await;
        create_room(&client, "late").await;
        if clean {
            nats.stop().await;
        }
        nats.restart().await;
        for id in ["first", "third"] {
            assert!(is_known(&client, "lobby", id).await, "{id}, {clean}");
        }
        for (room_id, id) in GONE {
            assert!(!is_known(&client, room_id, id).await, "{id} in {room_id}, {clean}");
            assert!(is_known(&client, room_id, id).await, "{id} in {room_id}, {clean}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_embedded_server_the_ids_of_stored_messages_are_known() {
    // Goal: the same promise without a NATS server of one's own. Method: an id of a stored message, of one that a purge
    // removed, and of one that was erased; the service ends with its nats-server and starts again on the same data.
    let data_dir = tempfile::TempDir::new().unwrap();
    let unibus = Unibus::try_embedded_in(data_dir.path()).await.unwrap();
    let mut client = unibus.client().await;
    let window = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let request = unibus::v1::CreateRoomRequest { dedupe_window: window, ..crate::support::persisted("lobby") };
    client.create_room(request).await.unwrap();
    for id in ["purged", "erased", "stored"] {
        client.publish(named("lobby", id)).await.unwrap();
    }
    client.purge_room(PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(1) }).await.unwrap();
    client.delete_message(DeleteMessageRequest { room_id: "lobby".into(), sequence: 2 }).await.unwrap();
    for id in ["purged", "erased", "stored"] {
        assert!(is_known(&client, "lobby", id).await, "{id}");
    }
    unibus.shutdown().await.unwrap();
    let unibus = Unibus::try_embedded_in(data_dir.path()).await.unwrap();
    let client = unibus.client().await;
    for (id, known) in [("purged", false), ("erased", false), ("stored", true)] {
        assert_eq!(is_known(&client, "lobby", id).await, known, "{id}");
    }
}

/// A message with this id.
fn with_id(payload: &str, id: &str) -> PublishRequest {
    PublishRequest { message_id: id.into(), ..plain("lobby", payload) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_belongs_to_its_sender() {
    // Goal: nobody keeps another sender's message out by publishing its id first. Method: two writers publish the same ids by
    // every way to publish, also the longest; each is stored once for each writer, a retry is answered as the duplicate of
    // the own one, also with an expected sequence and in an atomic batch; readers see the ids as they were given.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    add(&ann, "lobby", "bob", Role::Writer).await.unwrap();
    let bob = issuer.client(&unibus, "bob").await;
    let long = "x".repeat(255);
    let ids = ["order-77", long.as_str(), "a", "b"];
    let mut expected = 0;
    for round in 0..2 {
        for (client, who) in [(&bob, "bob"), (&ann, "ann")] {
            let message = |number: usize| with_id(&format!("{who} {number}"), ids[number]);
            let mut outcomes = by_calls(client, vec![message(0)]).await;
            outcomes.extend(by_stream(client, vec![message(1)]).await);
            outcomes.extend(by_batch(client, vec![message(2)]).await);
            outcomes.extend(by_calls(client, vec![message(3)]).await);
            for outcome in outcomes {
                let outcome = outcome.unwrap();
                assert_eq!(outcome.duplicate, round == 1, "{who}: {outcome:?}");
            }
        }
        expected = if round == 0 { 2 * ids.len() as u64 } else { expected };
        assert_eq!(everything(&ann, "lobby").await.len() as u64, expected);
    }
    let read = everything(&ann, "lobby").await;
    for (message, (who, number)) in
        read.iter().zip(["bob", "ann"].iter().flat_map(|who| (0..4).map(move |number| (who, number))))
    {
        assert_eq!((message.sender.as_str(), message.message_id.as_str()), (*who, ids[number]));
        assert_eq!(message.payload, format!("{who} {number}"));
    }

    // a retry of a message that was stored after what it expected, and another one's that was not
    let after = |payload, id| PublishRequest { expected_last_sequence: Some(expected), ..with_id(payload, id) };
    assert!(!bob.clone().publish(after("bob", "expecting")).await.unwrap().into_inner().duplicate);
    let again = bob.clone().publish(after("bob", "expecting")).await.unwrap().into_inner();
    assert_eq!(again.sequence, expected + 1);
    let other = ann.clone().publish(after("ann", "expecting")).await;
    assert_status(other, Code::FailedPrecondition, "SEQUENCE_MISMATCH");

    let batch = |who: &str| vec![with_id(who, "together-1"), with_id(who, "together-2")];
    for client in [&bob, &ann] {
        let stored = together(client, batch("x")).await.unwrap();
        let again = together(client, batch("x")).await.unwrap();
        assert!(stored.iter().all(|result| !result.duplicate) && again.iter().all(|result| result.duplicate));
        assert_eq!(stored[0].sequence, again[0].sequence);
    }
    let mixed = together(&ann, vec![with_id("x", "new"), with_id("x", "order-77")]).await;
    assert_status(mixed, Code::AlreadyExists, "BATCH_DUPLICATE");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_learns_of_a_hidden_message_by_its_id() {
    // Goal: `duplicate` tells a member nothing of what it may not see. Method: a writer that sees messages from the fourth on
    // publishes with the id of a hidden one.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    ann.clone().publish(with_id("hidden", "secret-id")).await.unwrap();
    publish_n(&ann, "lobby", 2).await;
    add_from(&ann, "lobby", "eve", Role::Writer, 4).await.unwrap();
    let eve = issuer.client(&unibus, "eve").await;
    let stored = eve.clone().publish(with_id("eve", "secret-id")).await.unwrap().into_inner();
    assert_eq!((stored.sequence, stored.duplicate), (4, false));
    let stored = together(&eve, vec![with_id("eve", "other"), with_id("eve", "third")]).await.unwrap();
    assert_eq!(stored[0].sequence, 5);
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authorisation_ids_are_shared_with_native_programs() {
    // Goal: native programs and the service know each other's ids as before. Method: with authorisation off, each publishes what
    // the other one has published; with it on, a native program's id keeps nobody out and is read as it is.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    let jetstream = lobby.nats.jetstream().await;
    let native = async |id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        let ack = jetstream.publish_with_headers(room.subject.clone(), headers, "native".into()).await.unwrap();
        ack.await.unwrap()
    };
    assert!(!native("n-1").await.duplicate);
    assert!(client.clone().publish(named("lobby", "n-1")).await.unwrap().into_inner().duplicate);
    assert!(!client.clone().publish(named("lobby", "u-1")).await.unwrap().into_inner().duplicate);
    assert!(native("u-1").await.duplicate);

    let issuer = Issuer::new();
    let guarded = issuer.guard(&lobby.nats, |config| config.auth.admins = vec![String::from("root")]).await;
    let admin = issuer.client(&guarded, "root").await;
    assert!(!admin.clone().publish(named("lobby", "n-1")).await.unwrap().into_inner().duplicate);
    let read = everything(&client, "lobby").await;
    assert_eq!(payloads(&read), ["native", "u-1", "n-1"]);
    let ids: Vec<_> = read.iter().map(|message| message.message_id.as_str()).collect();
    assert_eq!(ids, ["n-1", "u-1", "n-1"]);
    guarded.shutdown().await.unwrap();
}
