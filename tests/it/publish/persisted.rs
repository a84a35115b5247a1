//! Publishing to a persisted room: what is answered is what is stored.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use async_nats::HeaderMap;
use futures_util::StreamExt;
use tonic::Code;
use unibus::{
    NatsSync,
    v1::{DeleteRoomRequest, Durability, PublishRequest},
};

use crate::support::{
    Client, Frames, Lobby, Nats, NatsOptions, Unibus, assert_status, create_room, eventually, history, metadata,
    payloads, publish, publish_n, reason, sequences, settled,
};

/// A message with a message id.
fn identified(room_id: &str, message_id: &str, payload: &str) -> PublishRequest {
    PublishRequest {
        room_id: room_id.into(),
        payload: payload.to_owned().into(),
        message_id: message_id.into(),
        ..PublishRequest::default()
    }
}

/// A message that expects the room's last sequence to be this.
fn expecting(last_sequence: u64, payload: &str) -> PublishRequest {
    PublishRequest { expected_last_sequence: Some(last_sequence), ..identified("lobby", "", payload) }
}

/// Publishes until the outcome is known.
async fn publish_until_known(client: &Client, request: &PublishRequest) -> u64 {
    let answer = eventually(Duration::from_secs(30), async || match client.clone().publish(request.clone()).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) if reason(&status) == "OUTCOME_UNKNOWN" => Err(status.to_string()),
        Err(status) => panic!("{status:?}"),
    });
    answer.await.sequence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_count_from_one_without_a_hole() {
    // Goal: the answer says where the message is. Method: publish, compare answers and history.
    let (_lobby, client) = Lobby::open().await;
    let started = SystemTime::now();
    for expected in 1..=5 {
        let stored = publish(&client, "lobby", expected.to_string()).await.unwrap();
        assert_eq!(stored.sequence, expected);
        assert!(!stored.duplicate);
        let time: SystemTime = stored.published_at.expect("a time").try_into().unwrap();
        assert!(time >= started && time <= SystemTime::now());
    }
    let page = history(&client, "lobby", 0).await;
    assert_eq!(sequences(&page.messages), [1, 2, 3, 4, 5]);
    assert_eq!(payloads(&page.messages), ["1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_says_how_safe_the_message_is() {
    // Goal: durability is never claimed that is not known. Method: the embedded server, which syncs, and external ones,
    // of which nothing is known, or what the operator declares.
    let embedded = Unibus::embedded().await;
    let nats = Nats::start().await;
    let external = Unibus::start(&nats).await;
    let declared = async |sync| {
        let url = nats.url();
        Unibus::configured(|config| (config.nats.url, config.nats.sync) = (Some(url), sync)).await
    };
    let cases = [
        (embedded, Durability::Synced),
        (external, Durability::Unspecified),
        (declared(NatsSync::Always).await, Durability::Synced),
        (declared(NatsSync::Interval).await, Durability::Buffered),
    ];
    for (unibus, expected) in cases {
        let client = unibus.client().await;
        create_room(&client, "lobby").await;
        let stored = publish(&client, "lobby", "x").await.unwrap();
        assert_eq!(stored.durability(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_with_the_same_message_id_is_stored_once() {
    // Goal: retries are safe, also on another connection. Method: the same id twice with different payloads, another id, and
    // the same id in another room.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let (mut client, mut other) = (unibus.client().await, unibus.client().await);
    create_room(&client, "lobby").await;
    create_room(&client, "hall").await;

    let first = client.publish(identified("lobby", "id-1", "first")).await;
    let first = first.unwrap().into_inner();
    assert_eq!((first.sequence, first.duplicate), (1, false));
    let second = client.publish(identified("lobby", "id-2", "second")).await;
    assert_eq!(second.unwrap().into_inner().sequence, 2);
    for client in [&mut client, &mut other] {
        let again = client.publish(identified("lobby", "id-1", "again")).await;
        let again = again.unwrap().into_inner();
        assert_eq!((again.sequence, again.duplicate), (1, true));
    }
    let elsewhere = client.publish(identified("hall", "id-1", "elsewhere")).await;
    let elsewhere = elsewhere.unwrap().into_inner();
    assert_eq!((elsewhere.sequence, elsewhere.duplicate), (1, false));

    let page = history(&client, "lobby", 0).await.messages;
    assert_eq!(payloads(&page), ["first", "second"]);
    let ids: Vec<&str> = page.iter().map(|message| message.message_id.as_str()).collect();
    assert_eq!(ids, ["id-1", "id-2"]);
    assert!(page.iter().all(|message| message.headers.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expected_last_sequence_is_met_or_nothing_is_stored() {
    // Goal: compare and set on a room. Method: expectations that are met, from 0 on, and that are not, below and above; each
    // refusal gives the actual sequence.
    let (_lobby, mut client) = Lobby::open().await;

    let refused = client.publish(expecting(1, "too early")).await;
    let refused = assert_status(refused, Code::FailedPrecondition, "SEQUENCE_MISMATCH");
    assert_eq!(metadata(&refused, "last_sequence"), "0");
    for last in 0..3 {
        let stored = client.publish(expecting(last, "met")).await.unwrap();
        assert_eq!(stored.into_inner().sequence, last + 1);
    }
    for wrong in [0, 2, 4, u64::MAX] {
        let refused = client.publish(expecting(wrong, "not met")).await;
        let refused = assert_status(refused, Code::FailedPrecondition, "SEQUENCE_MISMATCH");
        assert_eq!(metadata(&refused, "last_sequence"), "3");
    }
    assert_eq!(payloads(&history(&client, "lobby", 0).await.messages), ["met"; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_whose_expectation_was_met_by_itself_is_a_duplicate() {
    // Goal: a retry after a lost answer is safe with an expectation too. Method: the same message id and expectation twice.
    let (_lobby, mut client) = Lobby::open().await;
    publish(&client, "lobby", "before").await.unwrap();
    let request = PublishRequest { message_id: "once".into(), ..expecting(1, "x") };
    for duplicate in [false, true] {
        let stored = client.publish(request.clone()).await.unwrap().into_inner();
        assert_eq!((stored.sequence, stored.duplicate), (2, duplicate));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_come_back_as_they_were() {
    // Goal: headers are the publisher's business. Method: names that differ in case only, every allowed character, values in
    // other alphabets, empty and long ones, read by history, by subscription and natively.
    let (lobby, mut client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    let native = lobby.nats.client().await;
    let mut native_reader = native.subscribe(room.subject).await.unwrap();
    settled(&native).await;
    let long = "x".repeat(20_000);
    let headers: HashMap<String, String> = [
        ("Content-Type", "application/octet-stream"),
        ("content-type", "another"),
        ("a-Z_0.9", "a: b, c; d=\"e\""),
        ("unicode", "za\u{17c}\u{f3}\u{142}\u{107} \u{1f980}"),
        ("empty", ""),
        ("inner", "a  b\tc"),
        ("colon", ":"),
        ("Natsy", "not reserved"),
        ("long", &long),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();

    let request = PublishRequest { headers: headers.clone(), ..identified("lobby", "id-1", "x") };
    client.publish(request).await.unwrap();

    let page = history(&client, "lobby", 0).await.messages;
    let read = Frames::transient(&client, "lobby").await.messages(1).await;
    for message in [&page[0], &read[0]] {
        assert_eq!(message.headers, headers);
        assert_eq!(message.message_id, "id-1");
    }
    let seen = tokio::time::timeout(Duration::from_secs(10), native_reader.next()).await;
    let seen = seen.expect("in time").expect("a message").headers.expect("headers");
    for (name, value) in &headers {
        let seen = seen.get(name.as_str()).map(async_nats::HeaderValue::as_str);
        assert_eq!(seen, Some(value.as_str()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_native_publishers_are_given_without_those_of_nats() {
    // Goal: readers see what a native peer set, and nothing that NATS or the service uses for itself, nor a sender that it
    // made up. Method: a native message with a repeated header and with such names.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    let mut headers = HeaderMap::new();
    headers.append("kind", "a");
    headers.append("kind", "b");
    headers.insert("Nats-Sequence", "99");
    headers.insert("Nats-Time-Stamp", "2001-01-01T00:00:00Z");
    headers.insert("Nats-Subject", "elsewhere");
    headers.insert("Unibus-Sender", "mallory");
    let jetstream = lobby.nats.jetstream().await;
    let ack = jetstream.publish_with_headers(room.subject, headers, "x".into()).await;
    ack.unwrap().await.unwrap();
    publish(&client, "lobby", "y").await.unwrap();

    let page = history(&client, "lobby", 0).await.messages;
    let read = Frames::transient(&client, "lobby").await.messages(2).await;
    for messages in [page, read] {
        assert_eq!(sequences(&messages), [1, 2]);
        let native = &messages[0];
        assert_eq!(native.headers, HashMap::from([("kind".into(), "a, b".into())]));
        assert_eq!(native.sender, "");
        let age = messages[1].published_at.unwrap().seconds - native.published_at.unwrap().seconds;
        assert!(age < 60, "the stored time is the server's");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_acknowledgement_is_not_believed() {
    // Goal: an answer to the publisher comes from the room's stream only. Method: a native responder on the room's subject
    // answers every publish at once, before a synced write can: with another stream's acknowledgement, and with rubbish.
    // Every answer that is given must be true; what is unknown must become known by retrying.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    let room = create_room(&client, "lobby").await;
    let native = nats.client().await;
    let mut requests = native.subscribe(room.subject).await.unwrap();
    settled(&native).await;
    let forger = tokio::spawn(async move {
        let forged = [r#"{"stream":"EVIL","seq":999}"#, "{}", "rubbish", ""];
        let mut forged = forged.iter().cycle();
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                let forged = forged.next().expect("an endless cycle");
                native.publish(reply, (*forged).into()).await.unwrap();
                native.flush().await.unwrap();
            }
        }
    });

    for number in 1..=50 {
        let payload = number.to_string();
        let request = identified("lobby", &format!("id-{number}"), &payload);
        assert_eq!(publish_until_known(&client, &request).await, number);
    }
    for number in 51..=70 {
        match publish(&client, "lobby", number.to_string()).await {
            Ok(stored) => {
                let newest = history(&client, "lobby", 1).await.messages;
                assert_eq!(stored.sequence, newest[0].sequence);
                assert_eq!(payloads(&newest), [number.to_string()]);
            }
            Err(status) => {
                assert_status::<()>(Err(status), Code::DeadlineExceeded, "OUTCOME_UNKNOWN");
            }
        }
    }
    forger.abort();
    let page = history(&client, "lobby", 50).await;
    assert!(page.last_sequence >= 70, "every message was stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_room_takes_nothing() {
    // Goal: nothing is stored nowhere. Method: publish until a moment before the deletion, then once more, on the same and on
    // another instance; and natively, where nobody captures any more.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let second = Unibus::start(&nats).await;
    let (mut client, other) = (unibus.client().await, second.client().await);
    create_room(&client, "lobby").await;
    eventually(Duration::from_secs(1), async || {
        let stored = publish(&other, "lobby", "x").await;
        stored.map_err(|status| status.to_string())
    })
    .await;
    publish_n(&client, "lobby", 3).await;

    let request = DeleteRoomRequest { room_id: "lobby".into() };
    client.delete_room(request).await.unwrap();

    let refused = publish(&client, "lobby", "late").await;
    assert_status(refused, Code::NotFound, "ROOM_NOT_FOUND");
    eventually(Duration::from_secs(1), async || match publish(&other, "lobby", "late").await {
        Ok(_) => panic!("stored in a deleted room"),
        Err(status) if reason(&status) == "ROOM_NOT_FOUND" => Ok(()),
        Err(status) => Err(status.to_string()),
    })
    .await;
    let stream = nats.jetstream().await.get_stream("UNIBUS_lobby").await;
    assert!(stream.is_err(), "the stream was brought back");
}
