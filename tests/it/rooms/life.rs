//! The life of a room: created, described, listed, deleted.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, future::join_all};
use tonic::Code;
use unibus::v1::{CreateRoomRequest, DeleteRoomRequest, GetRoomRequest, Retention, Room};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, assert_status, calls::calls, create_room, ephemeral, eventually, history,
    list_rooms, note, payloads, persisted, publish, publish_n, sequences, subscription,
};

async fn get_room(client: &Client, room_id: &str) -> Result<Room, tonic::Status> {
    let request = GetRoomRequest { room_id: room_id.into() };
    let response = client.clone().get_room(request).await?;
    Ok(response.into_inner().room.expect("a room"))
}

async fn delete_room(client: &Client, room_id: &str) -> Result<(), tonic::Status> {
    let request = DeleteRoomRequest { room_id: room_id.into() };
    client.clone().delete_room(request).await.map(|_| ())
}

/// A request with every field set.
fn everything(room_id: &str) -> CreateRoomRequest {
    CreateRoomRequest {
        subject: "chat.lobby".into(),
        retention: Some(Retention {
            max_age: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
            max_bytes: 10_000_000,
            max_messages: 1000,
            max_message_bytes: 5000,
        }),
        replicas: 1,
        labels: HashMap::from([("team".into(), "red".into()), ("empty".into(), String::new())]),
        ..persisted(room_id)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_described_as_it_was_created() {
    // Goal: nothing that a creator sets is lost. Method: create with every field, read it back, look at the state.
    let (_lobby, mut client) = Lobby::without_room().await;
    let request = everything("lobby");

    let created = client.create_room(request.clone()).await.unwrap();
    let created = created.into_inner().room.expect("a room");
    publish_n(&client, "lobby", 3).await;
    let got = get_room(&client, "lobby").await.unwrap();

    for room in [&created, &got] {
        assert_eq!(room.room_id, "lobby");
        assert!(room.persist);
        assert_eq!(room.subject, request.subject);
        assert_eq!(room.retention, request.retention);
        assert_eq!(room.replicas, 1);
        assert!(!room.allow_message_ttl);
        assert_eq!(room.labels, request.labels);
        assert_eq!(room.creator, "");
    }
    assert!(created.created_at.is_some());
    assert_eq!(created.created_at, got.created_at);
    let state = created.state.expect("a state");
    assert_eq!((state.first_sequence, state.last_sequence), (1, 0));
    assert_eq!((state.messages, state.bytes), (0, 0));
    let state = got.state.expect("a state");
    assert_eq!((state.first_sequence, state.last_sequence), (1, 3));
    assert_eq!(state.messages, 3);
    assert!(state.bytes > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_has_the_documented_defaults() {
    // Goal: what is not set gets its default. Method: create with the id alone, persisted and ephemeral.
    let (_lobby, mut client) = Lobby::without_room().await;

    let room = create_room(&client, "a-b.c").await;
    assert_eq!(room.subject, "unibus.room.a_b_c");
    assert_eq!(room.replicas, 1);
    assert_eq!(room.retention.unwrap_or_default(), Retention::default());

    let room = client.create_room(ephemeral("live")).await.unwrap();
    let room = room.into_inner().room.expect("a room");
    assert!(!room.persist);
    assert_eq!(room.subject, "unibus.room.live");
    assert_eq!(room.replicas, 0);
    assert_eq!(room.retention, None);
    assert_eq!(room.state, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_without_an_id_gets_one_of_its_own() {
    // Goal: a generated id is unique and usable. Method: two rooms without an id, a message in each.
    let (_lobby, client) = Lobby::without_room().await;

    let first = create_room(&client, "").await.room_id;
    let second = create_room(&client, "").await.room_id;
    assert_ne!(first, second);
    for id in [first, second] {
        publish(&client, &id, id.clone()).await.unwrap();
        assert_eq!(payloads(&history(&client, &id, 0).await.messages), [id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creating_a_room_again_changes_nothing() {
    // Goal: creation is idempotent. Method: create, publish, create the same again; same room, the message still there.
    let (_lobby, mut client) = Lobby::without_room().await;

    let first = client.create_room(everything("lobby")).await.unwrap();
    let first = first.into_inner().room.expect("a room");
    publish(&client, "lobby", "kept").await.unwrap();
    let again = client.create_room(everything("lobby")).await.unwrap();
    let again = again.into_inner().room.expect("a room");

    assert_eq!(again.created_at, first.created_at);
    assert_eq!(again.state.expect("a state").messages, 1);
    assert_eq!(payloads(&history(&client, "lobby", 0).await.messages), ["kept"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_different_room_under_a_taken_id_is_refused() {
    // Goal: an id means one room. Method: repeat the creation with one field changed at a time; each is refused, and
    // the room stays as it was.
    let (_lobby, mut client) = Lobby::without_room().await;
    let request = everything("lobby");
    client.create_room(request.clone()).await.unwrap();

    let changed = [
        CreateRoomRequest { retention: None, ..request.clone() },
        CreateRoomRequest { subject: "chat.other".into(), ..request.clone() },
        CreateRoomRequest { allow_message_ttl: true, ..request.clone() },
        CreateRoomRequest { labels: HashMap::new(), ..request.clone() },
        CreateRoomRequest { subject: "chat.lobby".into(), ..ephemeral("lobby") },
    ];
    for different in changed {
        let refused = client.create_room(different).await;
        assert_status(refused, Code::AlreadyExists, "ROOM_EXISTS");
    }
    let room = get_room(&client, "lobby").await.unwrap();
    assert!(room.persist);
    assert_eq!(room.retention, request.retention);
    assert_eq!(room.labels, request.labels);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_room_takes_its_stream_and_durables_along() {
    // Goal: nothing of a room is left behind. Method: a room with a message and a durable; delete it; look for its stream
    // natively, and for the room by every call.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    Frames::durable(&client, "lobby", "ann").await.messages(3).await;
    let durables = lobby.nats.stream("lobby").await.consumer_names();
    let durables: Vec<String> = durables.map(Result::unwrap).collect().await;
    assert!(durables.contains(&String::from("lobby_ann")), "{durables:?}");

    delete_room(&client, "lobby").await.unwrap();

    let jetstream = lobby.nats.jetstream().await;
    assert!(jetstream.get_stream("UNIBUS_lobby").await.is_err());
    assert_eq!(list_rooms(&client, 0, "").await.unwrap().rooms, []);
    no_room_answers_to(&client, "lobby").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_room_is_not_found_by_any_call() {
    // Goal: one code and reason for a room that is not there. Method: every call, with an id that nobody created.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    no_room_answers_to(&unibus.client().await, "nowhere").await;
}

async fn no_room_answers_to(client: &Client, room_id: &str) {
    for call in calls().iter().filter(|call| !call.room_field.is_empty() && !call.makes_room()) {
        let refused = call.make(client, room_id, "ann").await;
        note(format_args!("{}", call.rpc));
        assert_status(refused, Code::NotFound, "ROOM_NOT_FOUND");
    }
    let subscribed = Frames::open(client, subscription(room_id, "")).await;
    assert_status(subscribed.map(drop), Code::NotFound, "ROOM_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_created_again_after_deletion_starts_anew() {
    // Goal: nothing of a former life shows. Method: fill a room, read it with a durable, delete and re-create it; the new
    // one counts from 1, and the durable of the same name gets everything.
    let (_lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    Frames::durable(&client, "lobby", "ann").await.messages(5).await;
    delete_room(&client, "lobby").await.unwrap();

    let room = create_room(&client, "lobby").await;
    assert_eq!(room.state.expect("a state").last_sequence, 0);
    let stored = publish(&client, "lobby", "anew").await.unwrap();
    assert_eq!(stored.sequence, 1);
    let messages = Frames::durable(&client, "lobby", "ann").await.until_caught_up().await;
    assert_eq!(sequences(&messages), [1]);
    assert_eq!(payloads(&messages), ["anew"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_the_server_cannot_keep_are_refused() {
    // Goal: a room is never less safe than was asked. Method: 3 replicas on a single server; no room is left behind, and
    // the id is free for one that fits.
    let (_lobby, mut client) = Lobby::without_room().await;

    let request = CreateRoomRequest { replicas: 3, ..persisted("safe") };
    let refused = client.create_room(request).await;
    assert_status(refused, Code::FailedPrecondition, "REPLICAS_UNAVAILABLE");
    let missing = get_room(&client, "safe").await;
    assert_status(missing, Code::NotFound, "ROOM_NOT_FOUND");
    assert_eq!(create_room(&client, "safe").await.replicas, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_rooms_at_once_are_all_there() {
    // Goal: creation is safe under concurrency. Method: 100 rooms created together, a message published into each, then
    // every room listed once with its own message.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = &unibus.client().await;
    let names: Vec<String> = (0..100).map(|number| format!("room{number:03}")).collect();

    join_all(names.iter().map(async |name| {
        create_room(client, name).await;
        let stored = publish(client, name, name.clone()).await.unwrap();
        assert_eq!(stored.sequence, 1);
    }))
    .await;

    let listed = list_rooms(client, 1000, "").await.unwrap();
    let listed: Vec<String> = listed.rooms.into_iter().map(|room| room.room_id).collect();
    assert_eq!(listed, names);
    join_all(names.iter().map(async |name| {
        let page = history(client, name, 0).await;
        assert_eq!(payloads(&page.messages), [name.as_str()]);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_without_room_for_more_streams_says_so() {
    // Goal: a limit of NATS is told from an error. Method: an account that takes few streams; create rooms until one is
    // refused; deleting one makes place again.
    let limits =
        "accounts { A: { jetstream { max_streams: 7 }, users: [{ user: a, password: a }] } }\nno_auth_user: a\n";
    let nats = crate::support::NatsOptions::new().extra(limits).start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await;

    let mut created = Vec::new();
    let refused = loop {
        let id = format!("room{}", created.len());
        match client.create_room(persisted(&id)).await {
            Ok(_) => created.push(id),
            Err(status) => break status,
        }
        assert!(created.len() < 6, "no limit");
    };
    assert_status::<()>(Err(refused), Code::ResourceExhausted, "LIMIT_REACHED");
    delete_room(&client, created.last().expect("one room fits")).await.unwrap();
    eventually(Duration::from_secs(5), async || {
        let created = client.clone().create_room(persisted("more")).await;
        created.map_err(|status| status.to_string())
    })
    .await;
}
