//! The restore drill: what a backup of the streams brings back, on NATS servers that have never seen the rooms.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, client::RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use prost_types::FieldMask;
use serde_json::{Value, json};
use tonic::Code;
use unibus::{
    AuthMode,
    v1::{
        CreateRoomRequest, DeleteMessageRequest, Gap, GapReason, HistoryResponse, ListSubscribersRequest, Member,
        Message, PublishRequest, PurgeRoomRequest, Role, Room, Subscriber, UpdateRoomRequest, history_request::Anchor,
    },
};

use crate::support::{
    Client, Cluster, Frames, Issuer, Nats, Unibus, acknowledge, assert_status, ephemeral, eventually, everything,
    explicit, history, list_rooms,
    membership::{add, add_from, member_page, remove},
    page, persisted, publish, sequences,
};

/// How long a step of a restore may take: generous, for machines that are busy with other tests.
const SOON: Duration = Duration::from_secs(30);
/// Streams that belong to the service.
const OURS: [&str; 2] = ["KV_unibus_", "UNIBUS_"];
/// The header with which NATS ends a snapshot that failed.
const STATUS: &str = "Status";

/// A snapshot of one stream with its consumers, as `nats stream backup` makes it.
struct Backup {
    stream: String,
    config: Value,
    state: Value,
    chunks: Vec<Bytes>,
}

/// Sends a request to the API of JetStream, and gives its answer.
async fn api(nats: &async_nats::Client, subject: &str, request: &Value) -> Value {
    let answer = nats.request(subject.to_owned(), request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(answer.get("error"), None, "{subject}");
    answer
}

/// The streams of the service, the registry first.
async fn streams(nats: &async_nats::Client) -> Vec<String> {
    let names = api(nats, "$JS.API.STREAM.NAMES", &json!({})).await;
    let names = names["streams"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    let mut names: Vec<_> = names.filter(|name| OURS.iter().any(|prefix| name.starts_with(prefix))).collect();
    names.sort();
    names
}

async fn back_up(nats: &async_nats::Client, stream: String) -> Backup {
    let inbox = nats.new_inbox();
    let mut sent = nats.subscribe(inbox.clone()).await.unwrap();
    let request = json!({ "deliver_subject": inbox, "no_consumers": false, "chunk_size": 64 * 1024 });
    let answer = api(nats, &format!("$JS.API.STREAM.SNAPSHOT.{stream}"), &request).await;
    let mut chunks = Vec::new();
    loop {
        let chunk = tokio::time::timeout(SOON, sent.next()).await.expect("a chunk in time").unwrap();
        if chunk.payload.is_empty() {
            let failed = chunk.headers.as_ref().and_then(|headers: &HeaderMap| headers.get(STATUS));
            assert!(chunk.status.is_none_or(|status| status.as_u16() == 204), "{:?} {failed:?}", chunk.status);
            break;
        }
        if let Some(reply) = chunk.reply {
            nats.publish(reply, Bytes::new()).await.unwrap();
        }
        chunks.push(chunk.payload);
    }
    Backup { stream, config: answer["config"].clone(), state: answer["state"].clone(), chunks }
}

async fn back_up_all(nats: &async_nats::Client) -> Vec<Backup> {
    let mut backups = Vec::new();
    for stream in streams(nats).await {
        backups.push(back_up(nats, stream).await);
    }
    backups
}

/// The answer of the server that restores. Its subscription may not be known yet at the server of this connection.
async fn answered(nats: &async_nats::Client, subject: &str, chunk: &Bytes) -> async_nats::Message {
    let end = Instant::now() + SOON;
    loop {
        match nats.request(subject.to_owned(), chunk.clone()).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer.unwrap(),
        }
    }
}

/// Restores a stream; `replicas` replaces the number of its copies.
async fn restore(nats: &async_nats::Client, backup: &Backup, replicas: Option<u8>) {
    let mut config = backup.config.clone();
    if let Some(replicas) = replicas {
        config["num_replicas"] = replicas.into();
    }
    let request = json!({ "config": config, "state": backup.state });
    let answer = api(nats, &format!("$JS.API.STREAM.RESTORE.{}", backup.stream), &request).await;
    let subject = answer["deliver_subject"].as_str().unwrap().to_owned();
    for chunk in &backup.chunks {
        let answer = answered(nats, &subject, chunk).await;
        assert!(answer.payload.is_empty(), "{:?}", answer.payload);
    }
    let request = async_nats::Request::new().payload(Bytes::new()).timeout(Some(SOON));
    let done = nats.send_request(subject, request).await.unwrap();
    let done: Value = serde_json::from_slice(&done.payload).unwrap();
    assert_eq!(done.get("error"), None, "{}", backup.stream);
    assert_eq!(done["state"]["messages"], backup.state["messages"], "{}", backup.stream);
}

/// Everything that a backup must bring back, as callers see it. Cursors are compared by using one.
#[derive(Debug, PartialEq)]
struct Seen {
    rooms: Vec<Room>,
    members: Vec<Member>,
    subscribers: Vec<Subscriber>,
    messages: Vec<Message>,
    /// What the reader with `visible_from` sees.
    visible: Vec<u64>,
}

impl Seen {
    async fn by(issuer: &Issuer, unibus: &Unibus) -> Self {
        let (alice, carol) = (issuer.client(unibus, "alice").await, issuer.client(unibus, "carol").await);
        let request = ListSubscribersRequest { room_id: "lobby".into(), ..ListSubscribersRequest::default() };
        let mut subscribers = alice.clone().list_subscribers(request).await.unwrap().into_inner().subscribers;
        for subscriber in &mut subscribers {
            // an instance of its own knows
            subscriber.last_active_at = None;
            subscriber.open = false;
        }
        let mut messages = everything(&alice, "lobby").await;
        for message in &mut messages {
            message.cursor.clear();
        }
        Self {
            rooms: list_rooms(&alice, 0, "").await.unwrap().rooms,
            members: member_page(&alice, "lobby", 0, "").await.unwrap().members,
            subscribers,
            messages,
            visible: sequences(&history(&carol, "lobby", 0).await.messages),
        }
    }
}

/// An instance that knows callers by the tokens of this issuer.
async fn instance(issuer: &Issuer, urls: String, replicas: u8) -> Unibus {
    Unibus::configured(|config| {
        config.nats.url = Some(urls);
        config.registry_replicas = replicas;
        config.auth.mode = AuthMode::Enforce;
        config.auth.keys = vec![issuer.public_key()];
    })
    .await
}

/// Publishes as the caller of the client, with a message id and a header.
async fn publish_as(client: &Client, number: usize) -> unibus::v1::PublishResponse {
    let request = PublishRequest {
        room_id: "lobby".into(),
        payload: number.to_string().into(),
        headers: [("number".to_owned(), number.to_string())].into(),
        message_id: format!("id-{number}"),
        ..PublishRequest::default()
    };
    client.clone().publish(request).await.unwrap().into_inner()
}

/// Fills the rooms: 20 messages of two senders, two of them removed and one deleted, members of every role, one that was
/// removed and one that may not see the beginning, a subscriber at position 9, rooms whose names in NATS collide.
async fn fill(issuer: &Issuer, unibus: &Unibus) {
    let alice = issuer.client(unibus, "alice").await;
    for room_id in ["a-b", "a_b"] {
        let request = CreateRoomRequest { labels: [("of".into(), room_id.into())].into(), ..persisted(room_id) };
        alice.clone().create_room(request).await.unwrap();
        publish(&alice, room_id, room_id).await.unwrap();
    }
    alice.clone().create_room(persisted("lobby")).await.unwrap();
    alice.clone().create_room(ephemeral("live")).await.unwrap();
    for (member, role) in [("bob", Role::Writer), ("dave", Role::Reader)] {
        add(&alice, "lobby", member, role).await.unwrap();
    }
    remove(&alice, "lobby", "dave").await.unwrap();
    let bob = issuer.client(unibus, "bob").await;
    for number in 1..=20 {
        publish_as(if number % 2 == 0 { &alice } else { &bob }, number).await;
    }
    add_from(&alice, "lobby", "carol", Role::Reader, 11).await.unwrap();
    let request = PurgeRoomRequest { room_id: "lobby".into(), up_to_sequence: Some(2) };
    alice.clone().purge_room(request).await.unwrap();
    let request = DeleteMessageRequest { room_id: "lobby".into(), sequence: 12 };
    alice.clone().delete_message(request).await.unwrap();
    let mut frames = Frames::open(&bob, explicit("lobby", "bob/phone")).await.unwrap();
    frames.messages(5).await;
    assert_eq!(acknowledge(&bob, "lobby", "bob/phone", 9).await.unwrap(), 9);
}

/// Asserts what a restored installation must do beyond showing the same.
async fn goes_on(issuer: &Issuer, unibus: &Unibus) {
    let (alice, bob) = (issuer.client(unibus, "alice").await, issuer.client(unibus, "bob").await);
    // who was removed stays out, who is a reader stays a reader
    let dave = issuer.client(unibus, "dave").await;
    assert_status(page(&dave, "lobby", 0, None).await, Code::PermissionDenied, "PERMISSION_DENIED");
    let carol = issuer.client(unibus, "carol").await;
    assert_status(publish(&carol, "lobby", "x").await, Code::PermissionDenied, "PERMISSION_DENIED");
    // the position holds, and what was removed is told as it was
    let mut frames = Frames::open(&bob, explicit("lobby", "bob/phone")).await.unwrap();
    assert_eq!(frames.opened().position, 9);
    assert!(frames.opened().resumed);
    let messages = frames.until_caught_up().await;
    assert_eq!(sequences(&messages), Vec::from_iter((10..=20).filter(|sequence| *sequence != 12)));
    let deleted = Gap { from_sequence: 12, to_sequence: 12, reason: GapReason::Deleted.into(), dropped: 0 };
    assert_eq!(frames.gaps, [deleted]);
    // publishing goes on
    let new = publish_as(&bob, 21).await;
    assert_eq!((new.sequence, new.duplicate), (21, false));
    let delivered = frames.messages(1).await;
    assert_eq!((delivered[0].sequence, &*delivered[0].sender), (21, "bob"));
    // each of the colliding names is still its room's
    for room_id in ["a-b", "a_b"] {
        assert_eq!(everything(&alice, room_id).await[0].payload, room_id);
        let request = CreateRoomRequest { labels: [("of".into(), room_id.into())].into(), ..persisted(room_id) };
        alice.clone().create_room(request).await.unwrap();
    }
}

/// Fills the rooms in front of this server and backs them up; gives the backup, what callers saw, and the cursor of the
/// message with the sequence 15.
async fn filled(issuer: &Issuer, nats: Nats) -> (Vec<Backup>, Seen, String) {
    let unibus = instance(issuer, nats.url(), 1).await;
    fill(issuer, &unibus).await;
    let seen = Seen::by(issuer, &unibus).await;
    assert_eq!(seen.visible, [11, 13, 14, 15, 16, 17, 18, 19, 20]);
    let alice = issuer.client(&unibus, "alice").await;
    let newest = history(&alice, "lobby", 0).await.messages;
    let cursor = newest.into_iter().find(|message| message.sequence == 15).unwrap().cursor;
    let backups = back_up_all(&nats.client().await).await;
    unibus.shutdown().await.unwrap();
    drop(nats);
    (backups, seen, cursor)
}

/// A page of the room, as soon as the cluster gives one.
async fn read(client: &Client, anchor: Option<Anchor>) -> HistoryResponse {
    eventually(SOON, async || page(client, "lobby", 0, anchor.clone()).await.map_err(|status| status.to_string())).await
}

/// Asserts that callers of this instance see what they saw, and that their cursors and everything else works.
async fn assert_restored(issuer: &Issuer, unibus: &Unibus, before: &Seen, cursor: String) {
    assert_eq!(&Seen::by(issuer, unibus).await, before);
    let alice = issuer.client(unibus, "alice").await;
    let newer = page(&alice, "lobby", 0, Anchor::AfterCursor(cursor)).await.unwrap();
    assert_eq!(sequences(&newer.messages), [16, 17, 18, 19, 20]);
    goes_on(issuer, unibus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_brings_back_rooms_members_positions_and_cursors() {
    // Goal: an operator can rely on a backup of the streams. Method: fill rooms, take a snapshot of each stream while the
    // service runs, restore the snapshots on an empty server, start another instance there. Rooms, members, messages with
    // their senders, positions and cursors are those of before, although NATS dates the restored streams anew; access, gaps
    // and publishing work.
    let issuer = Issuer::new();
    let (backups, before, cursor) = filled(&issuer, Nats::start().await).await;
    let fresh = Nats::start().await;
    let client = fresh.client().await;
    for backup in &backups {
        restore(&client, backup, None).await;
    }
    let unibus = instance(&issuer, fresh.url(), 1).await;
    assert_restored(&issuer, &unibus, &before, cursor).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_one_server_comes_back_in_a_cluster() {
    // Goal: an operator can move from one server to a cluster. Method: as above, with three copies of the registry. Everything is
    // as before, what is hidden from a member included. Then the room gets three copies too, and the server that leads it
    // is killed: the cursor works, and what is hidden stays hidden.
    let issuer = Issuer::new();
    let (backups, before, cursor) = filled(&issuer, Nats::start().await).await;
    let mut cluster = Cluster::start().await;
    let client = cluster.nodes[0].client().await;
    for backup in &backups {
        restore(&client, backup, backup.stream.starts_with("KV_").then_some(3)).await;
    }
    let unibus = instance(&issuer, cluster.urls(), 3).await;
    assert_restored(&issuer, &unibus, &before, cursor.clone()).await;

    let alice = issuer.client(&unibus, "alice").await;
    for room_id in ["lobby", "a-b", "a_b"] {
        let room = Room { room_id: room_id.into(), replicas: 3, ..Room::default() };
        let update_mask = Some(FieldMask { paths: vec!["replicas".into()] });
        let request = UpdateRoomRequest { room: Some(room), update_mask };
        alice.clone().update_room(request).await.unwrap();
    }
    cluster.catches_up("UNIBUS_lobby").await;
    let carol = issuer.client(&unibus, "carol").await;
    let leader = cluster.leader("UNIBUS_lobby").await;
    cluster.nodes[leader].kill9();
    let newer = read(&alice, Some(Anchor::AfterCursor(cursor))).await;
    assert_eq!(sequences(&newer.messages), [16, 17, 18, 19, 20, 21]);
    let visible = read(&carol, None).await;
    assert_eq!(sequences(&visible.messages), [11, 13, 14, 15, 16, 17, 18, 19, 20, 21]);
}
