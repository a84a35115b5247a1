//! What the service needs to be allowed on a NATS server, and that it needs all of it.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_nats::{ConnectOptions, jetstream::stream};
use futures_util::StreamExt;
use tonic::Code;
use unibus::{
    Config,
    v1::{
        CreateRoomRequest, DeleteMessageRequest, DeleteRoomRequest, DeleteSubscriberRequest, ListSubscribersRequest,
        PublishRequest, PurgeRoomRequest, SeekSubscriberRequest, Start, start::At,
    },
};

use crate::support::{
    Client, Frames, Nats, NatsOptions, Unibus, acknowledge, assert_status, create_room, ephemeral, eventually,
    explicit, history, list_rooms, metadata, payloads, persisted, publish, publish_n, sequences,
};

/// The permissions of the documentation.
const PERMISSIONS: &str = include_str!("../../../deploy/nats/permissions.conf");

/// How long anything may take.
const SOON: Duration = Duration::from_secs(10);
/// Rooms whose registrations together exceed what NATS sends before it asks for a flow control reply.
const ROOMS: usize = 600;

/// A server with a user `unibus` that has the documented permissions, and logs every command; the test's own clients may
/// do anything.
async fn restricted() -> Nats {
    let extra = format!(
        "trace: true\nauthorization {{\n  users: [\n    {{ user: unibus, password: secret\n{PERMISSIONS}\n    }}\n    \
         {{ user: admin, password: secret }}\n  ]\n}}\n"
    );
    let login = ConnectOptions::with_user_and_password("admin".into(), "secret".into());
    NatsOptions::new().extra(&extra).login(login).start().await
}

async fn instance(nats: &Nats) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config: &mut Config| {
        config.nats.url = Some(url);
        config.nats.user = Some("unibus".into());
        config.nats.password = Some("secret".into());
    })
    .await
}

/// A persisted room with the subject of the native bus.
fn native_room(room_id: &str) -> CreateRoomRequest {
    CreateRoomRequest { subject: format!("room.{room_id}"), ..persisted(room_id) }
}

/// Publishing, reading and acknowledging, with one instance and with two.
async fn uses_a_room(first: &Client, second: &Client) {
    create_room(first, "lobby").await;
    publish_n(first, "lobby", 5).await;
    assert_eq!(payloads(&history(first, "lobby", 3).await.messages), ["3", "4", "5"]);
    let mut old = Frames::open(first, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(sequences(&old.until_caught_up().await), [1, 2, 3, 4, 5]);
    assert_eq!(acknowledge(first, "lobby", "ann", 2).await.unwrap(), 2);
    // the other instance does not own the subscriber: it asks the one that does
    eventually(SOON, async || {
        acknowledge(second, "lobby", "ann", 3).await.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;
    let mut new = Frames::open(second, explicit("lobby", "ann")).await.unwrap();
    let ended = assert_status(Err::<(), _>(old.end(SOON).await), Code::Aborted, "TAKEN_OVER");
    assert_eq!(metadata(&ended, "position"), "5");
    assert_eq!(new.opened().position, 3);
    assert_eq!(sequences(&new.until_caught_up().await), [4, 5]);
    publish(first, "lobby", "6").await.unwrap();
    assert_eq!(sequences(&new.messages(1).await), [6]);
}

/// A retry of a conditional publish, which looks at what is stored.
async fn publishes_conditionally(client: &Client) {
    let request = PublishRequest {
        room_id: "hall".into(),
        message_id: "id".into(),
        expected_last_sequence: Some(0),
        payload: "x".into(),
        ..PublishRequest::default()
    };
    for duplicate in [false, true] {
        let stored = client.clone().publish(request.clone()).await.unwrap().into_inner();
        assert_eq!((stored.sequence, stored.duplicate), (1, duplicate));
    }
}

/// Live messages of an ephemeral room, by the service and by a native peer.
async fn uses_an_ephemeral_room(nats: &Nats, client: &Client, room_id: &str, subject: &str) {
    let room = CreateRoomRequest { subject: subject.into(), ..ephemeral(room_id) };
    client.clone().create_room(room).await.unwrap();
    let mut frames = Frames::transient(client, room_id).await;
    frames.until_caught_up().await;
    publish(client, room_id, "1").await.unwrap();
    assert_eq!(payloads(&frames.messages(1).await), ["1"]);
    let native = nats.client().await;
    native.publish(subject.to_owned(), "2".into()).await.unwrap();
    native.flush().await.unwrap();
    assert_eq!(payloads(&frames.messages(1).await), ["2"]);
}

/// A native program strips the stream's settings, and then deletes it.
async fn heals_a_room(nats: &Nats, client: &Client) {
    let jetstream = nats.jetstream().await;
    let bare = stream::Config { name: "UNIBUS_hall".into(), subjects: vec!["room.hall".into()], ..Default::default() };
    jetstream.update_stream(bare).await.unwrap();
    eventually(SOON, async || {
        let found = jetstream.get_stream("UNIBUS_hall").await.map_err(|error| error.to_string())?;
        found.cached_info().config.allow_direct.then_some(()).ok_or_else(|| "not repaired".to_owned())
    })
    .await;
    jetstream.delete_stream("UNIBUS_hall").await.unwrap();
    assert_eq!(publish(client, "hall", "again").await.unwrap().sequence, 1);
}

/// What there is to do with a subscriber beside subscribing.
async fn manages_subscribers(client: &Client) {
    let room_id = String::from("lobby");
    let request = ListSubscribersRequest { room_id: room_id.clone(), ..ListSubscribersRequest::default() };
    let listed = client.clone().list_subscribers(request).await.unwrap().into_inner();
    assert_eq!(listed.subscribers.len(), 1);
    let position = Some(Start { at: Some(At::Last(1)) });
    let request = SeekSubscriberRequest { room_id: room_id.clone(), subscriber: "ann".into(), position };
    client.clone().seek_subscriber(request).await.unwrap();
    let request = DeleteSubscriberRequest { room_id, subscriber: "ann".into() };
    client.clone().delete_subscriber(request).await.unwrap();
}

/// One message by itself, and then all.
async fn removes_messages(client: &Client) {
    client.clone().delete_message(DeleteMessageRequest { room_id: "lobby".into(), sequence: 3 }).await.unwrap();
    client.clone().purge_room(PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: None }).await.unwrap();
}

/// So many rooms that an instance is told of them under flow control.
async fn fills_the_registry(client: &Client) {
    let labels = HashMap::from([(String::from("note"), "x".repeat(4000))]);
    let creations = (0..ROOMS).map(|number| {
        let request = CreateRoomRequest { labels: labels.clone(), ..ephemeral(&format!("many-{number}")) };
        async move { client.clone().create_room(request).await.map(drop) }
    });
    let created = futures_util::stream::iter(creations).buffer_unordered(16);
    created.for_each(async |created| created.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_permissions_are_enough_and_none_is_idle() {
    // Goal: the list in the documentation is exactly what is needed. Method: two instances whose user has these permissions
    // and no others do all that they can; NATS refuses them nothing, and each permission matches something that they did.
    let nats = restricted().await;
    let (first, second) = (instance(&nats).await, instance(&nats).await);
    let (mut one, two) = (first.client().await, second.client().await);
    uses_a_room(&one, &two).await;
    one.create_room(native_room("hall")).await.unwrap();
    publishes_conditionally(&one).await;
    uses_an_ephemeral_room(&nats, &one, "live", "unibus.room.live").await;
    uses_an_ephemeral_room(&nats, &one, "stage", "room.stage").await;
    heals_a_room(&nats, &one).await;
    fills_the_registry(&one).await;
    manages_subscribers(&one).await;
    removes_messages(&one).await;
    let third = instance(&nats).await;
    let known = list_rooms(&third.client().await, 1000, "").await.unwrap().rooms;
    assert_eq!(known.len(), ROOMS + 4);
    for room_id in ["lobby", "hall", "live", "stage"] {
        one.delete_room(DeleteRoomRequest { room_id: room_id.into() }).await.unwrap();
    }
    for unibus in [first, second, third] {
        unibus.shutdown().await.unwrap();
    }

    let log = nats.log();
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("Violation")).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let (published, subscribed) = used(&log);
    for (section, used) in [("publish", published), ("subscribe", subscribed)] {
        let allowed = allowed(section);
        assert!(!allowed.is_empty(), "{section}");
        let is_idle = |pattern: &&str| !used.iter().any(|subject| matches(pattern, subject));
        let idle: Vec<&str> = allowed.into_iter().filter(is_idle).collect();
        assert!(idle.is_empty(), "{section} {idle:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_permitted_is_refused_by_nats() {
    // Goal: the permissions that the other test counts on are in force. Method: the restricted user on a subject that is not
    // in the list.
    let nats = restricted().await;
    let client = ConnectOptions::with_user_and_password("unibus".into(), "secret".into()).connect(nats.url()).await;
    let client = client.unwrap();
    client.publish("elsewhere", "x".into()).await.unwrap();
    client.flush().await.unwrap();
    eventually(SOON, async || {
        nats.log().contains("Publish Violation").then_some(()).ok_or_else(|| "no violation".to_owned())
    })
    .await;
}

/// The subjects that the service published and subscribed to, out of the server's log of commands.
fn used(log: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut published, mut subscribed) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines().filter(|line| line.contains(":unibus\"")) {
        let Some((_, command)) = line.split_once("<<- [") else { continue };
        let mut words = command.split([' ', ']']);
        let (Some(name), Some(subject)) = (words.next(), words.next()) else { continue };
        match name {
            "PUB" | "HPUB" => published.insert(subject),
            "SUB" => subscribed.insert(subject),
            _ => continue,
        };
    }
    (published, subscribed)
}

/// The subjects in a section of the permissions.
fn allowed(section: &str) -> Vec<&'static str> {
    let (_, rest) = PERMISSIONS.split_once(&format!("{section} {{")).expect("the section");
    let (list, _) = rest.split_once(']').expect("a list");
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether the subject is one of the pattern's; a wildcard in the subject is a token like any other.
fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for expected in pattern.split('.') {
        match (expected, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (expected, Some(token)) if expected == token => {}
            (_, _) => return false,
        }
    }
    tokens.next().is_none()
}
