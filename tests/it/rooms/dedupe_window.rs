//! How long a room remembers message ids: chosen, changed, repaired, adopted, and always as it is reported.

use std::time::Duration;

use async_nats::jetstream::stream;
use tonic::{Code, Status};
use unibus::v1::{CreateRoomRequest, GetRoomRequest, Retention, Room, UpdateRoomRequest};

use crate::support::{
    Client, Lobby, Nats, NatsOptions, Unibus, assert_status, bare_stream, create_ephemeral, create_room, eventually,
    fields, list_rooms, persisted, publish, publishing::named,
};

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

fn seconds(seconds: u64) -> prost_types::Duration {
    Duration::from_secs(seconds).try_into().unwrap()
}

fn retention(max_age: Option<u64>) -> Retention {
    Retention { max_age: max_age.map(seconds), ..Retention::default() }
}

/// Asks for a room with this window, whose messages have this lifetime.
fn asking(room_id: &str, window: Option<u64>, max_age: Option<u64>) -> CreateRoomRequest {
    CreateRoomRequest { dedupe_window: window.map(seconds), retention: Some(retention(max_age)), ..persisted(room_id) }
}

async fn create(client: &Client, request: CreateRoomRequest) -> Result<Room, Status> {
    Ok(client.clone().create_room(request).await?.into_inner().room.expect("a room"))
}

async fn update(client: &Client, room: Room, paths: &[&str]) -> Result<Room, Status> {
    let paths = paths.iter().map(ToString::to_string).collect();
    let request = UpdateRoomRequest { room: Some(room), update_mask: Some(prost_types::FieldMask { paths }) };
    Ok(client.clone().update_room(request).await?.into_inner().room.expect("a room"))
}

fn lobby(window: Option<u64>, max_age: Option<u64>) -> Room {
    let (dedupe_window, retention) = (window.map(seconds), Some(retention(max_age)));
    Room { room_id: "lobby".into(), dedupe_window, retention, ..Room::default() }
}

/// The window of the room's stream.
async fn of_stream(nats: &Nats, mapped_id: &str) -> Duration {
    nats.stream(mapped_id).await.cached_info().config.duplicate_window
}

/// Asserts that `GetRoom`, `ListRooms` and the stream have this window.
async fn assert_window(nats: &Nats, client: &Client, room_id: &str, window: u64) {
    let request = GetRoomRequest { room_id: room_id.into() };
    let room = client.clone().get_room(request).await.unwrap().into_inner().room.expect("a room");
    assert_eq!(room.dedupe_window, Some(seconds(window)), "{room_id}");
    let listed = list_rooms(client, 0, "").await.unwrap().rooms;
    let listed = listed.iter().find(|room| room.room_id == room_id).expect("the room");
    assert_eq!(listed.dedupe_window, Some(seconds(window)), "{room_id}");
    assert_eq!(of_stream(nats, room_id).await, Duration::from_secs(window), "{room_id}");
}

fn assert_wrong<T: std::fmt::Debug>(outcome: Result<T, Status>, field: &str) {
    assert_eq!(fields(&assert_status(outcome, Code::InvalidArgument, "INVALID_FIELD")), [field]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_has_the_window_that_it_was_created_with() {
    // Goal: what is reported is what NATS does, and no window breaks a promise. Method: each kind of choice, with and without
    // a lifetime of messages; the same request again is the same room, another choice is another room; every wrong one is
    // refused by name.
    let (lobby, client) = Lobby::without_room().await;
    let nats = &lobby.nats;
    let cases = [
        (None, None, 2 * MINUTE),
        (Some(2 * MINUTE), None, 2 * MINUTE),
        (Some(2 * MINUTE + 1), None, 2 * MINUTE + 1),
        (Some(24 * HOUR), None, 24 * HOUR),
        (Some(HOUR), Some(HOUR), HOUR),
        (None, Some(HOUR), 2 * MINUTE),
        (None, Some(MINUTE), MINUTE),
        // a client may give what a room with the default reports
        (Some(MINUTE), Some(MINUTE), MINUTE),
    ];
    for (number, (window, max_age, expected)) in cases.into_iter().enumerate() {
        let room_id = format!("room-{number}");
        let request = asking(&room_id, window, max_age);
        let created = create(&client, request.clone()).await.unwrap();
        assert_eq!(created.dedupe_window, Some(seconds(expected)), "{room_id}");
        let again = create(&client, request.clone()).await.unwrap();
        assert_eq!(again.dedupe_window, created.dedupe_window);
        let mapped_id = room_id.replace('-', "_");
        assert_eq!(of_stream(nats, &mapped_id).await, Duration::from_secs(expected));
        let other = CreateRoomRequest { dedupe_window: Some(seconds(23 * HOUR)), retention: None, ..request };
        assert_status(create(&client, other).await, Code::AlreadyExists, "ROOM_EXISTS");
    }
    // the default and its length are one choice
    create(&client, asking("room-0", Some(2 * MINUTE), None)).await.unwrap();
    for (window, max_age) in [
        (Some(0), None),
        (Some(MINUTE), None),
        (Some(2 * MINUTE - 1), None),
        (Some(24 * HOUR + 1), None),
        (Some(HOUR), Some(HOUR - 1)),
        (Some(2 * MINUTE), Some(MINUTE)),
    ] {
        assert_wrong(create(&client, asking("wrong", window, max_age)).await, "dedupe_window");
    }
    let ephemeral = CreateRoomRequest { persist: false, retention: None, ..asking("live", Some(HOUR), None) };
    assert_wrong(create(&client, ephemeral).await, "dedupe_window");
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let negative = CreateRoomRequest { dedupe_window: negative, ..persisted("wrong") };
    assert_wrong(create(&client, negative).await, "dedupe_window");
    assert_eq!(create_ephemeral(&client, "live").await.dedupe_window, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_changes_alone_and_within_the_lifetime_of_messages() {
    // Goal: an owner changes the window of a room with messages, and no other setting makes it wrong. Method: one change after
    // the other, seen through two instances and in NATS: longer, back to the default, with and without a mask; a lifetime that
    // is shorter than a chosen window is refused by name, and one that is shorter than the default shortens it.
    let nats = Nats::start().await;
    let (first, second) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let (client, other) = (first.client().await, second.client().await);
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "stored").await.unwrap();
    let steps: [(Room, &[&str], u64); 9] = [
        (lobby(Some(HOUR), None), &["dedupe_window"], HOUR),
        // another mask leaves it
        (lobby(Some(2 * HOUR), None), &["labels"], HOUR),
        (lobby(None, Some(HOUR)), &["retention.max_age"], HOUR),
        (lobby(None, Some(HOUR)), &["dedupe_window"], 2 * MINUTE),
        (lobby(None, Some(MINUTE)), &["retention"], MINUTE),
        // without a mask, the reported window is no change
        (lobby(Some(MINUTE), Some(2 * HOUR)), &[], 2 * MINUTE),
        (lobby(Some(2 * MINUTE), Some(90)), &[], 90),
        (lobby(Some(3 * HOUR), None), &["*"], 3 * HOUR),
        (lobby(None, None), &["*"], 2 * MINUTE),
    ];
    for (number, (room, paths, expected)) in steps.into_iter().enumerate() {
        let updated = update(&client, room, paths).await.unwrap_or_else(|status| panic!("{number}: {status}"));
        assert_eq!(updated.dedupe_window, Some(seconds(expected)), "{number}");
        assert_window(&nats, &client, "lobby", expected).await;
        eventually(Duration::from_secs(5), async || {
            let listed = list_rooms(&other, 0, "").await.unwrap().rooms;
            (listed[0].dedupe_window == Some(seconds(expected))).then_some(()).ok_or(format!("{listed:?}"))
        })
        .await;
        assert_window(&nats, &other, "lobby", expected).await;
    }

    update(&client, lobby(Some(HOUR), None), &["dedupe_window"]).await.unwrap();
    for (room, paths, field) in [
        (lobby(None, Some(HOUR - 1)), &["retention.max_age"][..], "room.retention.max_age"),
        (lobby(Some(HOUR), Some(HOUR - 1)), &[], "room.retention.max_age"),
        (lobby(Some(HOUR + 1), Some(HOUR)), &["*"], "room.dedupe_window"),
        (lobby(Some(MINUTE), None), &["dedupe_window"], "room.dedupe_window"),
        (lobby(Some(25 * HOUR), None), &["dedupe_window"], "room.dedupe_window"),
    ] {
        assert_wrong(update(&client, room, paths).await, field);
    }
    // both together
    update(&client, lobby(Some(30 * MINUTE), Some(30 * MINUTE)), &["dedupe_window", "retention"]).await.unwrap();
    assert_window(&nats, &client, "lobby", 30 * MINUTE).await;

    create_ephemeral(&client, "live").await;
    let live = Room { room_id: "live".into(), ..lobby(Some(HOUR), None) };
    assert_wrong(update(&client, live, &["dedupe_window"]).await, "room.dedupe_window");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_native_set_up_of_the_stream_does_not_change_the_window() {
    // Goal: a native client that sets up the stream without the window takes nothing from the room. Method: a bare
    // create-or-update; the window comes back, and the ids from before are known.
    let (lobby, mut client) = Lobby::without_room().await;
    create(&client, asking("lobby", Some(HOUR), None)).await.unwrap();
    let first = client.publish(named("lobby", "first")).await.unwrap().into_inner();
    let jetstream = lobby.nats.jetstream().await;
    let stripped = jetstream.create_or_update_stream(bare_stream("lobby")).await.unwrap();
    assert_eq!(stripped.config.duplicate_window, Duration::from_secs(2 * MINUTE), "the test strips nothing");
    eventually(Duration::from_secs(10), async || {
        publish(&client, "lobby", "more").await.map_err(|status| status.to_string())?;
        let found = of_stream(&lobby.nats, "lobby").await;
        (found == Duration::from_secs(HOUR)).then_some(()).ok_or(format!("{found:?}"))
    })
    .await;
    let again = client.publish(named("lobby", "first")).await.unwrap().into_inner();
    assert_eq!((again.duplicate, again.sequence), (true, first.sequence));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_of_an_adopted_stream_stays_if_a_room_can_have_it() {
    // Goal: a room made of a stream keeps the promise that its publishers know. Method: streams with windows in and out of the
    // bounds; the room has the window of the stream, or its default; the creator's own choice counts more; the same request
    // again is the same room; a shorter lifetime shortens an adopted window.
    let (lobby, client) = Lobby::without_room().await;
    let nats = &lobby.nats;
    let jetstream = nats.jetstream().await;
    let cases = [
        (HOUR, None, None, HOUR),
        (24 * HOUR, None, None, 24 * HOUR),
        (25 * HOUR, None, None, 2 * MINUTE),
        (MINUTE, None, None, 2 * MINUTE),
        (HOUR, Some(3 * HOUR), None, 3 * HOUR),
        (2 * HOUR, None, Some(HOUR), 2 * MINUTE),
    ];
    for (number, (found, window, max_age, expected)) in cases.into_iter().enumerate() {
        let room_id = format!("adopted{number}");
        let config = stream::Config { duplicate_window: Duration::from_secs(found), ..bare_stream(&room_id) };
        jetstream.create_stream(config).await.unwrap();
        let request = asking(&room_id, window, max_age);
        let created = create(&client, request.clone()).await.unwrap();
        assert_eq!(created.dedupe_window, Some(seconds(expected)), "{number}");
        assert_window(nats, &client, &room_id, expected).await;
        let again = create(&client, request).await.unwrap();
        assert_eq!(again.dedupe_window, Some(seconds(expected)), "{number}");
    }
    // what the room reports can be asked for too
    create(&client, asking("adopted0", Some(HOUR), None)).await.unwrap();
    let shorter = Room { room_id: "adopted0".into(), ..self::lobby(None, Some(30 * MINUTE)) };
    let updated = update(&client, shorter, &["retention.max_age"]).await.unwrap();
    assert_eq!(updated.dedupe_window, Some(seconds(30 * MINUTE)));
    assert_window(nats, &client, "adopted0", 30 * MINUTE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_allows_less_is_named() {
    // Goal: a limit of the NATS server is no internal error. Method: a server with a limit of an hour; a longer window is
    // refused at the creation and by an update, and the room with the default works.
    let limited = NatsOptions::new().extra("jetstream { limits { duplicate_window: 1h } }");
    let nats = limited.start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    assert_wrong(create(&client, asking("lobby", Some(2 * HOUR), None)).await, "dedupe_window");
    create_room(&client, "lobby").await;
    assert_wrong(update(&client, lobby(Some(2 * HOUR), None), &["dedupe_window"]).await, "room.dedupe_window");
    update(&client, lobby(Some(HOUR), None), &["dedupe_window"]).await.unwrap();
    assert_window(&nats, &client, "lobby", HOUR).await;
}
