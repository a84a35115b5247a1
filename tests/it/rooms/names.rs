//! What a room may be called, and that no two rooms share a name or a subject in NATS.

use std::time::{Duration, SystemTime};

use async_nats::jetstream::stream;
use tonic::Code;
use unibus::v1::{CreateRoomRequest, DeleteRoomRequest, GetRoomRequest};

use crate::support::{
    Client, Frames, Lobby, Nats, NatsOptions, Unibus, assert_status, bare_stream, create_ephemeral, create_room,
    ephemeral, eventually, history, names_field, payloads, persisted, publish,
};

fn with_subject(request: CreateRoomRequest, subject: &str) -> CreateRoomRequest {
    CreateRoomRequest { subject: subject.into(), ..request }
}

/// Whether it is the stream of a room whose mapped name `name` belongs to another id.
fn is_hashed(stream: &str, name: &str) -> bool {
    let hash = stream.strip_prefix(&format!("UNIBUS_{name}_"));
    hash.is_some_and(|hash| hash.len() == 10 && hash.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')))
}

async fn delete(client: &Client, room_id: &str) {
    client.clone().delete_room(DeleteRoomRequest { room_id: room_id.into() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_map_to_one_name_are_rooms_of_their_own() {
    // Goal: no id keeps another one from its room, and none shares one. Method: groups of ids that map to one name, persisted
    // and ephemeral; the first has the name and what the native bus says to it, the others get hashed ones; each has its own
    // messages and its own life, and a deleted room's name goes to the next new one.
    let (lobby, client) = Lobby::without_room().await;
    for (name, ids) in [
        ("a_b", &["a-b", "a_b", "a.b", "a/b", "a\u{fc}b"][..]),
        ("__", &["日本", "__", "é/"]),
        ("_", &["語", "_"]),
        ("______", &["Москва", "привет"]),
    ] {
        for (place, id) in ids.iter().enumerate() {
            let room = create_room(&client, id).await;
            if place == 0 {
                assert_eq!(
                    (room.stream.as_str(), room.subject.as_str()),
                    (&*format!("UNIBUS_{name}"), &*format!("unibus.room.{name}"))
                );
            } else {
                assert!(is_hashed(&room.stream, name), "{id}: {}", room.stream);
                assert_eq!(room.subject, format!("unibus.room.{}", room.stream.strip_prefix("UNIBUS_").unwrap()));
            }
            assert_eq!(create_room(&client, id).await, room, "the same request again");
            publish(&client, id, *id).await.unwrap();
            assert_eq!(publish(&client, id, *id).await.unwrap().sequence, 2);
        }
        for id in ids {
            assert_eq!(payloads(&history(&client, id, 0).await.messages), [*id, *id]);
            let mut frames = Frames::durable(&client, id, "ann").await;
            assert_eq!(payloads(&frames.messages(2).await), [*id, *id]);
        }
        // the native bus finds the one that has the name
        let native = lobby.nats.jetstream().await.get_or_create_stream(bare_stream(name)).await.unwrap();
        assert_eq!(native.cached_info().state.messages, 2);
        delete(&client, ids[0]).await;
        assert_eq!(payloads(&history(&client, ids[1], 0).await.messages), [ids[1], ids[1]]);
        delete(&client, ids[1]).await;
        let heir = create_room(&client, ids[1]).await;
        assert_eq!(heir.stream, format!("UNIBUS_{name}"));
        let back = create_room(&client, ids[0]).await;
        assert!(is_hashed(&back.stream, name), "{}", back.stream);
        assert_eq!(history(&client, ids[0], 0).await.messages, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_room_keeps_its_name_to_itself_too() {
    // Goal: rooms without a stream take part in the names. Method: an ephemeral room, then ids that map to its name; their
    // subjects differ, and a message of one reaches nobody in another. The same without JetStream.
    for nats in [Nats::start().await, NatsOptions::new().without_jetstream().start().await] {
        let unibus = Unibus::start(&nats).await;
        let client = unibus.client().await;
        let ids = ["x.y", "x-y", "x/y"];
        let mut subjects = Vec::new();
        let mut readers = Vec::new();
        for id in ids {
            subjects.push(create_ephemeral(&client, id).await.subject);
            readers.push(Frames::transient(&client, id).await);
        }
        assert_eq!(subjects[0], "unibus.room.x_y");
        subjects.dedup();
        assert_eq!(subjects.len(), ids.len(), "{subjects:?}");
        for (id, reader) in ids.iter().zip(&mut readers) {
            publish(&client, id, *id).await.unwrap();
            assert_eq!(payloads(&reader.messages(1).await), [*id]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_another_ids_hashed_name_blocks_nobody() {
    // Goal: nobody squats on an id by taking the names that it would get. Method: with both names of `a-b` taken by rooms
    // that are called so, `a-b` gets one that no other id maps to.
    let (_lobby, client) = Lobby::without_room().await;
    let hashed = "a_b_2rbwfvt5si";
    for id in ["a_b", hashed] {
        assert_eq!(create_room(&client, id).await.stream, format!("UNIBUS_{id}"));
    }
    let room = create_room(&client, "a-b").await;
    assert!(room.stream.starts_with("UNIBUS_a_b-2rbwfvt5si"), "{}", room.stream);
    for id in ["a_b", hashed, "a-b"] {
        publish(&client, id, id).await.unwrap();
        assert_eq!(payloads(&history(&client, id, 0).await.messages), [id]);
    }
    let reserved = room.stream.strip_prefix("UNIBUS_").unwrap();
    assert_ne!(create_room(&client, reserved).await.stream, room.stream);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_of_another_rooms_name_is_refused_and_the_own_one_is_taken() {
    // Goal: what GetRoom shows can be sent again, and no room speaks on the subject of another one's name. Method: `a_b` and
    // `a-b` with the subjects that each would have, given by the creator.
    let (_lobby, mut client) = Lobby::without_room().await;
    create_room(&client, "a_b").await;
    let given = with_subject(persisted("a-b"), "unibus.room.a_b");
    assert_status(client.create_room(given).await, Code::AlreadyExists, "SUBJECT_TAKEN");
    let request = GetRoomRequest { room_id: "a-b".into() };
    assert_status(client.get_room(request).await, Code::NotFound, "ROOM_NOT_FOUND");
    let room = create_room(&client, "a-b").await;
    let again = client.create_room(with_subject(persisted("a-b"), &room.subject)).await.unwrap();
    assert_eq!(again.into_inner().room.unwrap().created_at, room.created_at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_was_claimed_and_never_used_is_taken_over() {
    // Goal: a creation that stopped half-way keeps a name from nobody for long. Method: claims without a room in the bucket,
    // one old and one of this moment; the first is taken over, the second is another instance's creation under way.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "first").await;
    let names = lobby.nats.jetstream().await.get_key_value("unibus_names").await.unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    for (name, age) in [("old", 60_000), ("new", 0)] {
        let claim = serde_json::json!({
            "room_id": format!("{name}-x"), "room_created_at": "2026-01-01T00:00:00Z",
            "claimed_at_ms": u64::try_from(now - age).unwrap(),
        });
        names.put(format!("unibus.room.{name}_x"), claim.to_string().into()).await.unwrap();
    }
    assert_eq!(create_room(&client, "old.x").await.stream, "UNIBUS_old_x");
    let meanwhile = create_room(&client, "new.x").await.stream;
    assert!(is_hashed(&meanwhile, "new_x"), "{meanwhile}");
    // its own claim stands in nobody's way
    assert_eq!(create_room(&client, "new-x").await.stream, "UNIBUS_new_x");
    assert!(is_hashed(&create_room(&client, "old-x").await.stream, "old_x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_with_a_hashed_name_is_repaired_like_any_other() {
    // Goal: the service looks after the stream that a room has, not after the one that its id maps to. Method: natively, the
    // stream is stripped by a bare update, and deleted; publishing, history and a subscription go on.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "a_b").await;
    let room = create_room(&client, "a-b").await;
    publish(&client, "a-b", "1").await.unwrap();
    let name = room.stream.strip_prefix("UNIBUS_").unwrap();
    let jetstream = lobby.nats.jetstream().await;
    jetstream.update_stream(bare_stream(name)).await.unwrap();
    eventually(Duration::from_secs(5), async || {
        let config = lobby.nats.stream(name).await.cached_info().config.clone();
        config.allow_direct.then_some(()).ok_or_else(|| String::from("the stream is not repaired"))
    })
    .await;
    jetstream.delete_stream(&room.stream).await.unwrap();
    eventually(Duration::from_secs(5), async || {
        publish(&client, "a-b", "2").await.map_err(|status| status.to_string())
    })
    .await;
    assert_eq!(payloads(&history(&client, "a-b", 0).await.messages), ["2"]);
    assert_eq!(history(&client, "a_b", 0).await.messages, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_differ_in_case_are_different_rooms() {
    // Goal: no collision is seen where there is none. Method: two ids that differ in case only, a message in each.
    let (_lobby, client) = Lobby::without_room().await;
    for id in ["Lobby", "lobby"] {
        create_room(&client, id).await;
        publish(&client, id, id).await.unwrap();
    }
    for id in ["Lobby", "lobby"] {
        assert_eq!(payloads(&history(&client, id, 0).await.messages), [id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_names_work_from_end_to_end() {
    // Goal: the bounds on names fit within those of NATS. Method: ids of 128 characters, also of several bytes each, with
    // subscribers of 126: publish, subscribe, resume, history.
    let (_lobby, client) = Lobby::without_room().await;
    for letter in ["x", "\u{17c}", "\u{1f980}"] {
        let id = letter.repeat(128);
        let subscriber = letter.repeat(126);
        create_room(&client, &id).await;
        publish(&client, &id, "one").await.unwrap();
        let first = Frames::durable(&client, &id, &subscriber).await.messages(1).await;
        assert_eq!(payloads(&first), ["one"]);
        assert_eq!(payloads(&history(&client, &id, 0).await.messages), ["one"]);
        let request = DeleteRoomRequest { room_id: id };
        client.clone().delete_room(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_belongs_to_one_room() {
    // Goal: two rooms never get each other's messages. Method: second rooms, persisted and ephemeral, on the subject of a
    // persisted and of an ephemeral one; each is refused and leaves nothing behind.
    let (_lobby, mut client) = Lobby::without_room().await;
    let stored = with_subject(persisted("stored"), "chat.stored");
    client.create_room(stored).await.unwrap();
    let live = with_subject(ephemeral("live"), "chat.live");
    client.create_room(live).await.unwrap();

    for subject in ["chat.stored", "chat.live"] {
        for request in [persisted("second"), ephemeral("second")] {
            let refused = client.create_room(with_subject(request, subject)).await;
            assert_status(refused, Code::AlreadyExists, "SUBJECT_TAKEN");
        }
    }
    // Not an overlap: deeper, shorter, or of another case.
    for (id, subject) in [("deep", "chat.live.a"), ("short", "chat"), ("case", "chat.Live")] {
        let request = with_subject(persisted(id), subject);
        client.create_room(request).await.unwrap();
    }
    create_room(&client, "second").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_subject_of_another_room_cannot_be_claimed() {
    // Goal: nobody places a room on the subject that another id has by default, whether that room exists or not.
    // Method: a custom subject below the service's own prefix.
    let (_lobby, mut client) = Lobby::open().await;
    for subject in ["unibus.room.lobby", "unibus.room.later"] {
        for request in [persisted("spy"), ephemeral("spy")] {
            let refused = client.create_room(with_subject(request, subject)).await;
            let refused = assert_status(refused, Code::InvalidArgument, "INVALID_FIELD");
            assert!(names_field(&refused, "subject"), "{refused:?}");
        }
    }
    create_room(&client, "later").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subject_that_a_native_stream_captures_is_taken() {
    // Goal: an overlap with a stream that no room owns is refused too. Method: a native stream with a wildcard; a room
    // below it; afterwards no room is left, and the id is free.
    let (lobby, mut client) = Lobby::without_room().await;
    let orders =
        stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..stream::Config::default() };
    lobby.nats.jetstream().await.create_stream(orders).await.unwrap();

    let request = with_subject(persisted("orders"), "orders.new");
    let refused = client.create_room(request).await;
    assert_status(refused, Code::AlreadyExists, "SUBJECT_TAKEN");
    let request = GetRoomRequest { room_id: "orders".into() };
    let missing = client.get_room(request).await;
    assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");
    create_room(&client, "orders").await;
}
