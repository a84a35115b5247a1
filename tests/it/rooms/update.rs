//! Changing a room: what can change changes at once and everywhere, the rest is refused by name.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use tonic::{Code, Status};
use unibus::v1::{CreateRoomRequest, GetRoomRequest, Retention, Room, RoomState, UpdateRoomRequest};

use crate::support::{
    Client, Cluster, Lobby, Nats, NatsOptions, Unibus, assert_field, assert_status, create_ephemeral, create_room,
    eventually, fields, persisted, publish, publish_n,
};

const KNOWN_WITHIN: Duration = Duration::from_secs(5);

async fn update(client: &Client, room: Room, paths: &[&str]) -> Result<Room, Status> {
    let paths = paths.iter().map(ToString::to_string).collect();
    let request = UpdateRoomRequest { room: Some(room), update_mask: Some(prost_types::FieldMask { paths }) };
    let response = client.clone().update_room(request).await?.into_inner();
    Ok(response.room.expect("a room"))
}

async fn get(client: &Client, room_id: &str) -> Room {
    let request = GetRoomRequest { room_id: room_id.into() };
    client.clone().get_room(request).await.unwrap().into_inner().room.expect("a room")
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn lobby_room() -> Room {
    Room { room_id: "lobby".into(), ..Room::default() }
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mask_says_what_is_taken_over() {
    // Goal: nothing changes but what is named, and what is named and unset goes back to its default. Method: one change
    // after another, each compared with the whole room; without a mask, with `*`, and with one for each field.
    let (_lobby, client) = Lobby::without_room().await;
    let mut room = create_room(&client, "lobby").await;
    let full =
        Retention { max_age: Some(seconds(3600)), max_bytes: 1_000_000, max_messages: 100, max_message_bytes: 1000 };

    let asked = Room { labels: labels(&[("a", "1")]), retention: Some(full), ..lobby_room() };
    room.labels.clone_from(&asked.labels);
    assert_eq!(update(&client, asked.clone(), &["labels"]).await.unwrap(), room);
    room.retention = Some(Retention { max_messages: 100, ..Retention::default() });
    assert_eq!(update(&client, asked.clone(), &["retention.max_messages"]).await.unwrap(), room);
    room.retention = Some(full);
    let given = ["retention.max_age", "retention.max_bytes", "retention.max_message_bytes"];
    assert_eq!(update(&client, asked.clone(), &given).await.unwrap(), room);
    room.retention = Some(Retention { max_bytes: 0, ..full });
    assert_eq!(update(&client, lobby_room(), &["retention.max_bytes"]).await.unwrap(), room);
    // without a mask: what is set; nothing can be unset
    let asked = Room { retention: Some(Retention { max_bytes: 7_000, ..Retention::default() }), ..lobby_room() };
    room.retention = Some(Retention { max_bytes: 7_000, ..full });
    assert_eq!(update(&client, asked, &[]).await.unwrap(), room);
    assert_eq!(update(&client, lobby_room(), &[]).await.unwrap(), room);
    // the whole room as it was read, changed
    room.labels = labels(&[("b", "2"), ("c", "3")]);
    assert_eq!(update(&client, room.clone(), &[]).await.unwrap(), room);
    room.labels.clear();
    room.retention = Some(Retention { max_messages: 5, ..Retention::default() });
    assert_eq!(update(&client, room.clone(), &["*"]).await.unwrap(), room);
    room.retention = Some(Retention::default());
    assert_eq!(update(&client, lobby_room(), &["retention", "retention.max_age"]).await.unwrap(), room);
    assert_eq!(get(&client, "lobby").await, room);

    // the room is now another one than the one that was created
    update(&client, Room { labels: labels(&[("a", "1")]), ..lobby_room() }, &["labels"]).await.unwrap();
    assert_status(client.clone().create_room(persisted("lobby")).await, Code::AlreadyExists, "ROOM_EXISTS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_change_is_refused_by_name() {
    // Goal: nobody believes to have changed what is fixed. Method: every path that is none or is fixed, alone and all at
    // once with wrong values; fixed fields without a mask; each leaves the room as it was.
    let (_lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    let fixed = ["room_id", "persist", "subject", "allow_message_ttl", "created_at", "creator", "state"];
    let unknown =
        ["state.messages", "labels.a", "retention.max_ages", "retention.", "colour", "", "Labels", "room.labels"];
    for path in fixed.into_iter().chain(unknown) {
        assert_field(update(&client, lobby_room(), &[path]).await, &format!("update_mask[{path}]"), path);
    }
    let wrong = Room {
        labels: labels(&[("", "x")]),
        retention: Some(Retention {
            max_age: Some(seconds(-1)),
            max_bytes: -1,
            max_messages: -1,
            max_message_bytes: -1,
        }),
        replicas: 2,
        ..lobby_room()
    };
    let paths = ["labels", "retention", "replicas", "persist", "colour"];
    let refused = assert_status(update(&client, wrong.clone(), &paths).await, Code::InvalidArgument, "INVALID_FIELD");
    let expected = [
        "update_mask[persist]",
        "update_mask[colour]",
        "room.retention.max_age",
        "room.labels",
        "room.retention.max_bytes",
        "room.retention.max_messages",
        "room.retention.max_message_bytes",
        "room.replicas",
    ];
    assert_eq!(fields(&refused), expected);
    // what the mask does not name is not looked at
    assert_eq!(update(&client, Room { labels: HashMap::new(), ..wrong }, &["labels"]).await.unwrap(), room);
    assert_field(
        update(&client, Room { room_id: "a b".into(), ..lobby_room() }, &[]).await,
        "room.room_id",
        "a room id",
    );
    assert_field(update(&client, Room::default(), &[]).await, "room.room_id", "no room");
    let many = vec!["colour"; 1000];
    assert_field(update(&client, lobby_room(), &many).await, "update_mask", "a thousand paths");
    let long = "x".repeat(60_000);
    assert_field(update(&client, lobby_room(), &[&long]).await, "update_mask", "a long path");
    let other = Room { subject: "else".into(), allow_message_ttl: true, ..lobby_room() };
    for paths in [&[][..], &["*"]] {
        let refused =
            assert_status(update(&client, other.clone(), paths).await, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(fields(&refused), ["room.subject", "room.allow_message_ttl"]);
    }
    let nowhere = Room { room_id: "nowhere".into(), ..Room::default() };
    assert_status(update(&client, nowhere.clone(), &["labels"]).await, Code::NotFound, "ROOM_NOT_FOUND");
    assert_field(update(&client, nowhere, &["colour"]).await, "update_mask", "in a room that is not there");
    assert_eq!(get(&client, "lobby").await, room);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ephemeral_room_can_change_its_labels_and_nothing_else() {
    // Goal: labels are every room's, the rest is the log's. Method: both, on servers with and without JetStream.
    for nats in [Nats::start().await, NatsOptions::new().without_jetstream().start().await] {
        let unibus = Unibus::start(&nats).await;
        let client = unibus.client().await;
        let mut room = create_ephemeral(&client, "lobby").await;
        room.labels = labels(&[("a", "1")]);
        let asked = Room { labels: room.labels.clone(), ..lobby_room() };
        assert_eq!(update(&client, asked, &["labels"]).await.unwrap(), room);
        assert_eq!(get(&client, "lobby").await, room);
        let asked = Room {
            persist: true,
            replicas: 1,
            retention: Some(Retention { max_messages: 1, ..Retention::default() }),
            ..lobby_room()
        };
        let refused = assert_status(update(&client, asked, &[]).await, Code::InvalidArgument, "INVALID_FIELD");
        assert_eq!(fields(&refused), ["room.persist", "room.retention", "room.replicas"]);
        assert_eq!(get(&client, "lobby").await, room);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tighter_bounds_apply_at_once() {
    // Goal: when the answer is there, the bounds are in force. Method: bound the messages of a room that has more, and see
    // the state in the answer; bound the size of a message, and publish a larger one through both instances; bound the age.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 10).await;
    let asked = Room { retention: Some(Retention { max_messages: 3, ..Retention::default() }), ..lobby_room() };
    let room = update(&client, asked, &["retention"]).await.unwrap();
    let state = room.state.unwrap();
    assert_eq!((state.first_sequence, state.last_sequence, state.messages), (8, 10, 3));

    let asked = Room { retention: Some(Retention { max_message_bytes: 4, ..Retention::default() }), ..lobby_room() };
    update(&client, asked, &["retention.max_message_bytes"]).await.unwrap();
    assert_status(publish(&client, "lobby", "12345").await, Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
    publish(&client, "lobby", "1234").await.unwrap();
    eventually(KNOWN_WITHIN, async || match publish(&other, "lobby", "12345").await {
        Ok(_) => Err(String::from("the other instance takes it")),
        Err(status) => {
            assert_status::<()>(Err(status), Code::InvalidArgument, "PAYLOAD_TOO_LARGE");
            Ok(())
        }
    })
    .await;

    let age = Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 });
    let asked = Room { retention: Some(Retention { max_age: age, ..Retention::default() }), ..lobby_room() };
    update(&other, asked, &["retention.max_age"]).await.unwrap();
    eventually(KNOWN_WITHIN, async || {
        let messages = get(&client, "lobby").await.state.unwrap().messages;
        (messages == 0).then_some(()).ok_or_else(|| format!("{messages} messages"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_made_at_once_on_two_instances_are_all_there() {
    // Goal: no change undoes another, and the log follows. Method: four fields, each changed by a call of its own, all at
    // once, through two instances; many rounds; the room and its stream have all of them.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let clients = [first.client().await, second.client().await];
    create_room(&clients[0], "lobby").await;
    for round in 1..=10 {
        let number: i32 = round * 1000;
        let asked = Room {
            labels: labels(&[("round", &round.to_string())]),
            retention: Some(Retention {
                max_age: Some(seconds(number.into())),
                max_bytes: (number * 100).into(),
                max_messages: number.into(),
                max_message_bytes: number,
            }),
            ..lobby_room()
        };
        let paths = ["labels", "retention.max_age", "retention.max_bytes", "retention.max_messages"];
        let calls = paths.iter().zip(clients.iter().cycle());
        join_all(calls.map(async |(path, client)| update(client, asked.clone(), &[*path]).await.unwrap())).await;
        for client in &clients {
            eventually(KNOWN_WITHIN, async || {
                let room = get(client, "lobby").await;
                let retention = room.retention.unwrap();
                let seen = (room.labels.clone(), retention.max_age, retention.max_bytes, retention.max_messages);
                let wanted = asked.retention.unwrap();
                let wanted = (asked.labels.clone(), wanted.max_age, wanted.max_bytes, wanted.max_messages);
                (seen == wanted).then_some(()).ok_or_else(|| format!("{seen:?}"))
            })
            .await;
        }
        eventually(KNOWN_WITHIN, async || {
            let config = nats.stream("lobby").await.cached_info().config.clone();
            let seen = (config.max_age.as_secs(), config.max_bytes, config.max_messages);
            let wanted = (number.unsigned_abs().into(), i64::from(number * 100), i64::from(number));
            (seen == wanted).then_some(()).ok_or_else(|| format!("{seen:?}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nats_refuses_is_not_registered() {
    // Goal: the registry never says what is not so. Method: replicas that a single server cannot keep, more bytes than it
    // may store, together with labels; neither is there afterwards, in the room or in its stream.
    let (lobby, client) = Lobby::without_room().await;
    let retention = Some(Retention { max_bytes: 1000, ..Retention::default() });
    client.clone().create_room(CreateRoomRequest { retention, ..persisted("lobby") }).await.unwrap();
    let room = get(&client, "lobby").await;
    let asked = Room { replicas: 3, labels: labels(&[("a", "1")]), ..lobby_room() };
    assert_status(update(&client, asked, &[]).await, Code::FailedPrecondition, "REPLICAS_UNAVAILABLE");
    let retention = Some(Retention { max_bytes: i64::MAX / 2, ..Retention::default() });
    let asked = Room { retention, labels: labels(&[("a", "1")]), ..lobby_room() };
    assert_status(update(&client, asked, &[]).await, Code::ResourceExhausted, "STORAGE_FULL");
    assert_eq!(get(&client, "lobby").await, room);
    let config = lobby.nats.stream("lobby").await.cached_info().config.clone();
    assert_eq!((config.num_replicas, config.max_bytes), (1, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_can_be_added_and_taken_away() {
    // Goal: a room moves between one copy and three with its messages. Method: three servers; one copy, three, then more
    // than there are servers, which is refused, and one again.
    let cluster = Cluster::start().await;
    let urls = cluster.urls();
    let unibus = Unibus::configured(|config| config.nats.url = Some(urls)).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 5).await;
    let asked = |replicas| Room { replicas, ..lobby_room() };
    assert_eq!(update(&client, asked(3), &[]).await.unwrap().replicas, 3);
    cluster.catches_up("UNIBUS_lobby").await;
    assert_status(update(&client, asked(5), &[]).await, Code::FailedPrecondition, "REPLICAS_UNAVAILABLE");
    let room = get(&client, "lobby").await;
    assert_eq!((room.replicas, room.state.map(|state: RoomState| state.messages)), (3, Some(5)));
    assert_eq!(update(&client, asked(0), &["replicas"]).await.unwrap().replicas, 1);
    eventually(Duration::from_secs(30), async || {
        let published = publish(&client, "lobby", "6").await;
        published.map(drop).map_err(|status| status.to_string())
    })
    .await;
}
