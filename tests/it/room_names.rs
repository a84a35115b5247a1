//! What a room may be called, and that no two rooms share a name or a subject in NATS.

use async_nats::jetstream::stream;
use tonic::Code;
use unibus::v1::{CreateRoomRequest, DeleteRoomRequest, GetRoomRequest};

use crate::support::{
    Frames, Nats, Unibus, assert_status, create_ephemeral, create_room, ephemeral, history, names_field, payloads,
    persisted, publish,
};

fn with_subject(request: CreateRoomRequest, subject: &str) -> CreateRoomRequest {
    CreateRoomRequest { subject: subject.into(), ..request }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_map_to_the_same_name_never_share_a_room() {
    // Goal: the mapping's collisions are refused, not shared. Method: ids that map to the same name as an existing room,
    // persisted and ephemeral; once the first is deleted, another may have the name.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    create_room(&client, "a-b").await;
    publish(&client, "a-b", "secret").await.unwrap();

    for id in ["a_b", "a.b", "a/b", "a\u{fc}b"] {
        for request in [persisted(id), ephemeral(id)] {
            let refused = client.create_room(request).await;
            assert_status(refused, Code::AlreadyExists, "ROOM_NAME_TAKEN");
        }
        // A subject of its own does not help: the stream would be the same.
        let refused = client.create_room(with_subject(persisted(id), "own")).await;
        assert_status(refused, Code::AlreadyExists, "ROOM_NAME_TAKEN");
        let request = GetRoomRequest { room_id: id.into() };
        let missing = client.get_room(request).await;
        assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");
    }

    let request = DeleteRoomRequest { room_id: "a-b".into() };
    client.delete_room(request).await.unwrap();
    create_room(&client, "a_b").await;
    assert_eq!(history(&client, "a_b", 0).await.messages, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_room_keeps_its_name_to_itself_too() {
    // Goal: rooms without a stream take part in the name check. Method: an ephemeral room, then ids that map to its name.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    create_ephemeral(&client, "x.y").await;
    for request in [persisted("x_y"), ephemeral("x-y")] {
        let refused = client.create_room(request).await;
        assert_status(refused, Code::AlreadyExists, "ROOM_NAME_TAKEN");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_differ_in_case_are_different_rooms() {
    // Goal: no collision is seen where there is none. Method: two ids that differ in case only, a message in each.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
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
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
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
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
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
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    create_room(&client, "lobby").await;
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
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;
    let orders =
        stream::Config { name: "ORDERS".into(), subjects: vec!["orders.>".into()], ..stream::Config::default() };
    nats.jetstream().await.create_stream(orders).await.unwrap();

    let request = with_subject(persisted("orders"), "orders.new");
    let refused = client.create_room(request).await;
    assert_status(refused, Code::AlreadyExists, "SUBJECT_TAKEN");
    let request = GetRoomRequest { room_id: "orders".into() };
    let missing = client.get_room(request).await;
    assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");
    create_room(&client, "orders").await;
}
