//! Subscriptions in JSON: what a subscriber sees, how it resumes, and how a subscription ends.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::BytesMut;
use prost::Message;
use serde_json::{Value, json};
use tokio::time::Instant;
use unibus::v1::{Role, SubscribeRequest, SubscribeResponse, subscribe_response::Frame};

use crate::support::{
    Issuer, Lobby, Nats, Unibus,
    connect::{Connect, JsonStream, Next, base64, envelope, sent, taken},
    create_room, floor_reaches,
    membership::{add, remove},
    publish, publish_n,
};

/// A durable subscription with this way of acknowledging.
fn durable(ack_mode: &str) -> Value {
    json!({ "roomId": "lobby", "subscriber": "laptop", "ackMode": ack_mode })
}

/// The next message: its sequence and its payload.
async fn message(stream: &mut JsonStream) -> (String, String) {
    let message = stream.frame("message").await;
    let payload = STANDARD.decode(message["payload"].as_str().unwrap_or_default()).expect("base64");
    (message["sequence"].as_str().expect("a text").to_owned(), String::from_utf8(payload).expect("text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_subscription_resumes_after_its_last_acknowledgement() {
    // Goal: a program with nothing but HTTP/1.1 loses nothing. Method: five messages; a durable subscriber reads three,
    // acknowledges two and goes away without a word; it comes back and gets the third; live messages and heartbeats follow.
    let (lobby, client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    publish_n(&client, "lobby", 5).await;
    let mut first = http.stream("Subscribe", &durable("ACK_MODE_EXPLICIT")).await;
    assert!(first.headers().contains_key("x-request-id"));
    let opened = first.frame("opened").await;
    assert_eq!((&opened["lastSequence"], &opened["heartbeatInterval"]), (&json!("5"), &json!("1s")));
    for number in 1..=3 {
        assert_eq!(message(&mut first).await, (number.to_string(), number.to_string()));
    }
    let acknowledged = json!({ "roomId": "lobby", "subscriber": "laptop", "sequence": "2" });
    http.call("Acknowledge", &acknowledged).await.unwrap();
    drop(first);
    let mut again = http.stream("Subscribe", &durable("ACK_MODE_EXPLICIT")).await;
    assert_eq!(again.frame("opened").await["resumed"], true);
    for number in 3..=5 {
        assert_eq!(message(&mut again).await, (number.to_string(), number.to_string()));
    }
    assert_eq!(again.frame("caughtUp").await["position"], "5");
    publish(&client, "lobby", "live").await.unwrap();
    assert_eq!(message(&mut again).await, ("6".to_owned(), "live".to_owned()));
    again.frame("heartbeat").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_json_subscriber_has_taken_is_acknowledged() {
    // Goal: automatic acknowledgements follow the client, not the translation. Method: a subscriber with AUTO reads a thousand
    // messages, more than one chunk; its position becomes the last.
    let (lobby, client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    publish_n(&client, "lobby", 1000).await;
    let mut stream = http.stream("Subscribe", &durable("ACK_MODE_AUTO")).await;
    for number in 1..=1000 {
        assert_eq!(message(&mut stream).await.0, number.to_string());
    }
    assert_eq!(floor_reaches(&lobby.nats, "lobby", "laptop", 1000).await, 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_status() {
    // Goal: a client knows whether a stream is complete. Method: a subscription that ends when it has caught up, one of a room
    // that does not exist, one that the drain ends, one that a newer one takes over; the last message of each.
    let (lobby, client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    publish_n(&client, "lobby", 2).await;
    let until = json!({ "roomId": "lobby", "untilCaughtUp": true });
    let mut whole = http.stream("Subscribe", &until).await;
    whole.frame("caughtUp").await;
    assert!(matches!(whole.next().await, Next::End(None)));
    let mut missing = http.stream("Subscribe", &json!({ "roomId": "nowhere" })).await;
    assert_eq!(missing.failure().await.brief(), (200, "not_found", "ROOM_NOT_FOUND"));
    let mut older = http.stream("Subscribe", &durable("ACK_MODE_EXPLICIT")).await;
    older.frame("caughtUp").await;
    let mut newer = http.stream("Subscribe", &durable("ACK_MODE_EXPLICIT")).await;
    newer.frame("opened").await;
    let failure = older.failure().await;
    assert_eq!(failure.brief(), (200, "aborted", "TAKEN_OVER"));
    assert_eq!(failure.detail("google.rpc.ErrorInfo")["metadata"]["position"], "2");
    let Lobby { unibus, nats: _nats } = lobby;
    let (stopped, failure) = tokio::join!(unibus.shutdown(), newer.failure());
    stopped.unwrap();
    assert_eq!(failure.brief(), (200, "unavailable", "DRAINING"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_stream_is_that_of_protobuf() {
    // Goal: clients with generated messages follow a room. Method: `application/connect+proto`; the frames are those of the
    // contract, and the last message is JSON.
    let (lobby, client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    publish_n(&client, "lobby", 3).await;
    let request = SubscribeRequest { room_id: "lobby".into(), until_caught_up: true, ..Default::default() };
    let body = envelope(0, &request.encode_to_vec());
    let response = sent(http.post("Subscribe", "application/connect+proto", body)).await;
    assert_eq!(response.headers()["content-type"], "application/connect+proto");
    let mut received = BytesMut::from(&*response.bytes().await.unwrap());
    let mut payloads = Vec::new();
    let end = loop {
        match taken(&mut received).expect("a message") {
            (0, message) => {
                if let Some(Frame::Message(message)) = SubscribeResponse::decode(message).unwrap().frame {
                    payloads.push(message.payload);
                }
            }
            end => break end,
        }
    };
    assert_eq!(payloads, ["1", "2", "3"]);
    assert_eq!(end, (2, "{}".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_ends_a_json_subscription_within_a_second() {
    // Goal: access is lost when it is taken, whatever the protocol. Method: on each of two instances a member has a JSON
    // subscription; it is removed on the first; the time from the answer to the end of each stream is measured.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let first = issuer.guard(&nats, |_| {}).await;
    let second = issuer.guard(&nats, |_| {}).await;
    let ann = issuer.client(&first, "ann").await;
    create_room(&ann, "lobby").await;
    publish_n(&ann, "lobby", 2).await;
    add(&ann, "lobby", "bob", Role::Reader).await.unwrap();
    let open = async |unibus: &Unibus| {
        let http = Connect::to(unibus.address()).with_token(&issuer.token("bob"));
        crate::support::eventually(Duration::from_secs(2), async || {
            http.call("GetRoom", &json!({ "roomId": "lobby" }))
                .await
                .map(drop)
                .map_err(|failure| format!("{failure:?}"))
        })
        .await;
        let mut stream = http.stream("Subscribe", &json!({ "roomId": "lobby" })).await;
        stream.frame("caughtUp").await;
        stream
    };
    let (mut here, mut there) = (open(&first).await, open(&second).await);
    remove(&ann, "lobby", "bob").await.unwrap();
    let removed = Instant::now();
    for stream in [&mut here, &mut there] {
        let failure = stream.failure().await;
        assert_eq!(failure.brief(), (200, "permission_denied", "PERMISSION_DENIED"));
        assert_eq!(failure.detail("google.rpc.ErrorInfo")["metadata"]["position"], "2");
        assert!(removed.elapsed() < Duration::from_secs(1), "{:?}", removed.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_speaks_json_without_a_token() {
    // Goal: probes can be curl. Method: a check of health in JSON, of a service that asks for tokens.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |_| {}).await;
    let http = Connect::to(unibus.address());
    let check = http.request(reqwest::Method::POST, "/grpc.health.v1.Health/Check");
    let answer = sent(check.header("content-type", "application/json").body("{}")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), r#"{"status":"SERVING"}"#);
    assert_eq!(base64("a"), "YQ==");
}
