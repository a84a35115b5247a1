//! What a caller got wrong is told by field, and nothing comes of it.

use std::collections::HashMap;

use tonic::{Code, Status};
use unibus::v1::{
    AcknowledgeRequest, CreateRoomRequest, HistoryRequest, PublishRequest, RemoveMemberRequest, Retention, Role,
    SubscribeRequest, TimeRange, history_request::Anchor,
};

use crate::support::{
    Client, Lobby, assert_field, assert_status, calls::calls, create_room, ephemeral, fields, membership::add,
    names_field, persisted,
};

fn duration(seconds: i64, nanos: i32) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos }
}

/// Ids that are no room's, whatever the call.
fn bad_names(chars_max: usize) -> Vec<String> {
    let mut names: Vec<String> = [
        " ",
        "a b",
        " a",
        "a ",
        "a\tb",
        "a\n",
        "\r",
        "a\0",
        "a\u{7f}",
        "a\u{85}",
        "a\u{a0}b",
        "a\u{2003}b",
        "\u{1b}[0m",
        // invisible, of the other text direction, private, unassigned, not normalised, a mark without its letter
        "a\u{200b}b",
        "a\u{feff}",
        "a\u{202e}b",
        "a\u{3164}",
        "a\u{fe0f}",
        "a\u{e000}",
        "a\u{378}",
        "e\u{301}",
        "\u{301}a",
        "\u{903}a",
    ]
    .map(String::from)
    .into();
    names.push("x".repeat(chars_max + 1));
    names.push("\u{17c}".repeat(chars_max + 1));
    names
}

async fn subscribe(client: &Client, request: SubscribeRequest) -> Result<(), Status> {
    let mut frames = client.clone().subscribe(request).await?.into_inner();
    frames.message().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_room_id_is_refused_by_every_call() {
    // Goal: no id with white space, control characters or too many characters gets anywhere. Method: each of them, and the
    // empty one where it means nothing, in every call.
    let (_lobby, client) = Lobby::without_room().await;

    for call in calls().iter().filter(|call| !call.room_field.is_empty()) {
        let empty = (!call.makes_room()).then(String::new);
        for id in bad_names(128).into_iter().chain(empty) {
            let refused = call.make(&client, &id, "ann").await;
            assert_field(refused, call.room_field, &format!("{} {id}", call.rpc));
        }
    }
    for room_id in bad_names(128).into_iter().chain([String::new()]) {
        let request = SubscribeRequest { room_id: room_id.clone(), ..SubscribeRequest::default() };
        assert_field(subscribe(&client, request).await, "room_id", &room_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_subject_is_refused() {
    // Goal: a room never captures more than one plain subject, nor one that NATS or the service uses. Method: wildcards,
    // white space, reserved prefixes, empty tokens, other alphabets, too many characters, in both kinds of room.
    let (_lobby, mut client) = Lobby::without_room().await;
    let long = "x".repeat(201);
    let subjects = [
        ">",
        "*",
        "a.*",
        "a.>",
        "*.a",
        "a*",
        "a b",
        "a\tb",
        "a\n",
        " a",
        "a..b",
        ".a",
        "a.",
        ".",
        "$JS.x",
        "$JS.API.INFO",
        "$KV.x",
        "$SYS.x",
        "$x",
        "_INBOX.x",
        "_INBOX",
        "_R_.x",
        "unibus.x",
        "unibus.room.x",
        "a,b",
        "a/b",
        "\u{fc}.x",
        "a\0",
        &long,
    ];
    for subject in subjects {
        for request in [persisted("room"), ephemeral("room")] {
            let request = CreateRoomRequest { subject: subject.into(), ..request };
            assert_field(client.create_room(request).await, "subject", subject);
        }
    }
    let request = CreateRoomRequest { subject: "x".repeat(200), ..persisted("room") };
    client.create_room(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_subscriber_is_refused() {
    // Goal: durable names are bounded like room ids. Method: bad names in Subscribe and Acknowledge; the empty one, which
    // means "no durable" in Subscribe, in Acknowledge.
    let (_lobby, mut client) = Lobby::open().await;
    for subscriber in bad_names(126) {
        let request =
            SubscribeRequest { room_id: "lobby".into(), subscriber: subscriber.clone(), ..SubscribeRequest::default() };
        assert_field(subscribe(&client, request).await, "subscriber", &subscriber);
    }
    for subscriber in bad_names(126).into_iter().chain([String::new()]) {
        let request = AcknowledgeRequest {
            room_id: "lobby".into(),
            subscriber: subscriber.clone(),
            sequence: 1,
            generation: None,
        };
        assert_field(client.acknowledge(request).await, "subscriber", &subscriber);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_member_is_refused() {
    // Goal: nobody is made a member under a name that looks like another one's. Method: bad names in AddMember and RemoveMember.
    let (_lobby, mut client) = Lobby::open().await;
    for member_id in bad_names(126).into_iter().chain([String::new()]) {
        let added = add(&client, "lobby", &member_id, Role::Reader).await;
        assert_field(added, "member_id", &member_id);
        let request = RemoveMemberRequest { room_id: "lobby".into(), member_id: member_id.clone() };
        assert_field(client.remove_member(request).await, "member_id", &member_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_replicas_and_retention_are_refused() {
    // Goal: bounds that NATS cannot keep, or that mean nothing, are refused before it sees them. Method: one wrong number
    // at a time; in an ephemeral room any of them.
    let (_lobby, mut client) = Lobby::without_room().await;

    for replicas in [2, 4, 6, 7, u32::MAX] {
        let request = CreateRoomRequest { replicas, ..persisted("room") };
        assert_field(client.create_room(request).await, "replicas", &replicas.to_string());
    }
    let none = Retention::default();
    let max_age = |age| Retention { max_age: Some(age), ..none };
    let cases = [
        ("retention.max_age", max_age(duration(-1, 0))),
        ("retention.max_age", max_age(duration(i64::MIN, 0))),
        ("retention.max_age", max_age(duration(0, i32::MIN))),
        ("retention.max_age", max_age(duration(0, -1))),
        ("retention.max_age", max_age(duration(0, 1))),
        ("retention.max_age", max_age(duration(0, 99_999_999))),
        ("retention.max_age", max_age(duration(i64::MAX, 0))),
        ("retention.max_bytes", Retention { max_bytes: -1, ..none }),
        ("retention.max_messages", Retention { max_messages: -1, ..none }),
        ("retention.max_message_bytes", Retention { max_message_bytes: -1, ..none }),
    ];
    for (field, retention) in cases {
        let request = CreateRoomRequest { retention: Some(retention), ..persisted("room") };
        let case = format!("{retention:?}");
        assert_field(client.create_room(request).await, field, &case);
    }

    let request = CreateRoomRequest { retention: Some(max_age(duration(60, 0))), ..ephemeral("room") };
    assert_field(client.create_room(request).await, "retention", "ephemeral");
    let request = CreateRoomRequest { replicas: 1, ..ephemeral("room") };
    assert_field(client.create_room(request).await, "replicas", "ephemeral");
    create_room(&client, "room").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_labels_are_refused() {
    // Goal: labels are bounded, and nobody mistakes one for another. Method: one label too many, a name that is empty or too
    // long, too many bytes in all, names with characters that nobody sees; then as much as is allowed.
    let (_lobby, mut client) = Lobby::without_room().await;
    let numbered = |count: usize| -> HashMap<String, String> {
        (0..count).map(|number| (format!("label{number:02}"), "x".repeat(100))).collect()
    };
    let one = |name: &str, value: &str| HashMap::from([(name.to_owned(), value.to_owned())]);
    let bad = [numbered(33), one("", "x"), one(&"x".repeat(65), "x"), one("big", &"x".repeat(4094))];
    let unseen = ["a\u{200b}", "a\u{202e}b", "a\u{a0}b", "a\n", "e\u{301}"].map(|name| one(name, "x"));
    for labels in bad.into_iter().chain(unseen) {
        let request = CreateRoomRequest { labels, ..persisted("room") };
        assert_field(client.create_room(request).await, "labels", "labels");
    }
    let good =
        [numbered(32), one(&"x".repeat(64), ""), one("two words", "e\u{301}\u{200b}"), one("big", &"x".repeat(4093))];
    for (number, labels) in good.into_iter().enumerate() {
        let request = CreateRoomRequest { labels: labels.clone(), ..persisted(&format!("room{number}")) };
        let room = client.create_room(request).await.unwrap();
        assert_eq!(room.into_inner().room.expect("a room").labels, labels);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_are_none_are_refused() {
    // Goal: what is no time, or no span of time, is the caller's error. Method: seconds and nanoseconds out of the
    // range from 1970 to 9999 at either end of a time range; a range that ends where it starts, or before.
    let (_lobby, mut client) = Lobby::open().await;
    for (seconds, nanos) in
        [(1, -1), (1, 1_000_000_000), (253_402_300_800, 0), (-1, 0), (-62_135_596_801, 0), (i64::MAX, 0), (i64::MIN, 0)]
    {
        let time = Some(prost_types::Timestamp { seconds, nanos });
        let start = TimeRange { start: time, end: None };
        let end = TimeRange { start: None, end: time };
        for (field, range) in [("time_range.start", start), ("time_range.end", end)] {
            let request = HistoryRequest { room_id: "lobby".into(), limit: 0, anchor: Some(Anchor::TimeRange(range)) };
            assert_field(client.history(request).await, field, &format!("{seconds} s {nanos} ns"));
        }
    }
    for (start, end) in [(5, 5), (5, 4)] {
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let range = TimeRange { start: time(start), end: time(end) };
        let request = HistoryRequest { room_id: "lobby".into(), limit: 0, anchor: Some(Anchor::TimeRange(range)) };
        assert_field(client.history(request).await, "time_range", "empty");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named_at_once() {
    // Goal: a caller fixes a request in one go. Method: requests with several wrong fields; each is named.
    let (_lobby, mut client) = Lobby::without_room().await;

    let request = CreateRoomRequest {
        subject: ">".into(),
        retention: Some(Retention {
            max_age: Some(duration(-1, 0)),
            max_bytes: -1,
            max_messages: -1,
            max_message_bytes: -1,
        }),
        replicas: 2,
        labels: HashMap::from([(String::new(), String::new())]),
        ..persisted("a b")
    };
    let refused = client.create_room(request).await;
    let refused = assert_status(refused, Code::InvalidArgument, "INVALID_FIELD");
    let expected = [
        "room_id",
        "subject",
        "retention.max_age",
        "retention.max_bytes",
        "retention.max_messages",
        "retention.max_message_bytes",
        "replicas",
        "labels",
    ];
    for field in expected {
        assert!(names_field(&refused, field), "{field}: {refused:?}");
    }

    let request = PublishRequest {
        room_id: "a b".into(),
        headers: HashMap::from([("Nats-Msg-Id".into(), "x".into()), ("fine".into(), "not\nfine".into())]),
        message_id: "a b".into(),
        ttl: Some(duration(0, 1)),
        ..PublishRequest::default()
    };
    let refused = client.publish(request).await;
    let refused = assert_status(refused, Code::InvalidArgument, "INVALID_FIELD");
    for field in ["room_id", "headers", "message_id", "ttl"] {
        assert!(names_field(&refused, field), "{field}: {refused:?}");
    }
    assert_eq!(fields(&refused).len(), 5, "{refused:?}");
}
