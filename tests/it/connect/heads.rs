//! What the head of a request says: GET, deadlines, versions, compressions, and what no method takes.

use std::time::Duration;

use base64::{
    Engine,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;
use unibus::v1::{GetRoomRequest, GetRoomResponse};

use crate::support::{
    Lobby, Nats, Unibus,
    connect::{Connect, JsonStream, answer, envelope, path, sent},
    create_room,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_without_side_effects_can_be_made_with_get() {
    // Goal: reading is a GET. Method: the reading calls with their message in the query, as text and as base64, in JSON and in
    // protobuf; a call that changes something, and a stream, take no GET; faults of the query are named.
    let (lobby, _client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    let get =
        async |method: &str, query: &str| sent(http.request(Method::GET, &format!("{}?{query}", path(method)))).await;
    let text = "%7B%22roomId%22%3A+%22lobby%22%7D";
    let encoded = URL_SAFE_NO_PAD.encode(r#"{"roomId":"lobby"}"#);
    for query in [
        format!("connect=v1&encoding=json&message={text}"),
        format!("encoding=json&message={text}&connect=v1&compression=identity&other=1"),
        format!("connect=v1&encoding=json&base64=1&message={encoded}"),
        format!("encoding=json&base64=1&message={}", URL_SAFE.encode(r#"{"roomId":"lobby" }"#)),
    ] {
        let room = answer(get("GetRoom", &query).await).await.unwrap();
        assert_eq!(room["room"]["roomId"], "lobby", "{query}");
    }
    for (method, message) in
        [("ListRooms", "%7B%7D"), ("History", text), ("ListMembers", text), ("ListSubscribers", text)]
    {
        answer(get(method, &format!("encoding=json&message={message}")).await).await.unwrap();
    }
    let proto = URL_SAFE_NO_PAD.encode(GetRoomRequest { room_id: "lobby".into() }.encode_to_vec());
    let room = get("GetRoom", &format!("connect=v1&encoding=proto&base64=1&message={proto}")).await;
    assert_eq!(room.headers()["content-type"], "application/proto");
    let room = GetRoomResponse::decode(room.bytes().await.unwrap()).unwrap();
    assert_eq!(room.room.unwrap().room_id, "lobby");
    let malformed = (400, "invalid_argument", "REQUEST_MALFORMED");
    for (query, expected) in [
        ("encoding=json".to_owned(), malformed),
        ("encoding=json&message=".to_owned(), malformed),
        ("encoding=json&message=%7B".to_owned(), malformed),
        ("encoding=json&base64=1&message=!".to_owned(), malformed),
        (format!("connect=v2&encoding=json&message={text}"), malformed),
        (format!("encoding=json&compression=br&message={text}"), (501, "unimplemented", "NOT_SUPPORTED")),
        ("encoding=json&message=%7B%22roomId%22%3A%22nowhere%22%7D".to_owned(), (404, "not_found", "ROOM_NOT_FOUND")),
    ] {
        let failure = answer(get("GetRoom", &query).await).await.unwrap_err();
        assert_eq!(failure.brief(), expected, "{query}");
    }
    for (method, query, status, allow) in [
        ("Publish", "encoding=json&message=%7B%7D", 405, Some("POST")),
        ("Subscribe", "encoding=json&message=%7B%7D", 405, Some("POST")),
        ("Nothing", "encoding=json&message=%7B%7D", 405, Some("POST")),
        ("GetRoom", "encoding=text&message=a", 415, None),
        ("GetRoom", "", 415, None),
    ] {
        let refused = get(method, query).await;
        assert_eq!(refused.status(), status, "{method} {query}");
        assert_eq!(refused.headers().get("allow").map(|allow| allow.to_str().unwrap()), allow, "{method} {query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_method_takes_is_refused_with_what_it_takes() {
    // Goal: a client finds out at once what is wrong. Method: the wrong content type for the kind of the method, other methods
    // of HTTP, both streams over HTTP/1.1, an unknown method.
    let (lobby, _client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    for (method, kind) in [
        ("GetRoom", "application/connect+json"),
        ("GetRoom", "application/xml"),
        ("GetRoom", "application/json; charset=latin1"),
        ("Subscribe", "application/json"),
        ("Subscribe", "application/proto"),
    ] {
        let refused = sent(http.post(method, kind, "{}")).await;
        assert_eq!(refused.status(), 415, "{method} {kind}");
        assert!(refused.headers()["accept-post"].to_str().unwrap().contains("application/connect+json"));
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD] {
        let request = http.request(method.clone(), &path("GetRoom")).header("content-type", "application/json");
        let refused = sent(request).await;
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["allow"]),
            (405, &"GET, POST".parse().unwrap()),
            "{method}"
        );
    }
    for method in ["Consume", "PublishStream"] {
        let refused = sent(http.post(method, "application/connect+json", envelope(0, b"{}"))).await;
        assert_eq!(refused.status(), 505, "{method}");
    }
    let failure = http.call("Nothing", &json!({})).await.unwrap_err();
    assert_eq!(failure.brief(), (404, "unimplemented", "NOT_SUPPORTED"));
    let mut stream = JsonStream::read(sent(http.post("Nothing", "application/connect+json", envelope(0, b"{}"))).await);
    assert_eq!(stream.failure().await.brief(), (200, "unimplemented", "NOT_SUPPORTED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_and_compressions_that_are_not_spoken_are_errors() {
    // Goal: nothing is guessed. Method: other versions and compressions, in both forms; what is spoken, also written out.
    let (lobby, _client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    let room = json!({ "roomId": "lobby" }).to_string();
    let unary = async |name: &str, value: &str| {
        answer(sent(http.post("GetRoom", "application/json", room.clone()).header(name, value)).await).await
    };
    unary("connect-protocol-version", "1").await.unwrap();
    unary("content-encoding", "identity").await.unwrap();
    unary("accept-encoding", "gzip, br").await.unwrap();
    // fields of gRPC mean nothing here
    unary("grpc-timeout", "0n").await.unwrap();
    unary("grpc-encoding", "br").await.unwrap();
    let failure = unary("connect-protocol-version", "2").await.unwrap_err();
    assert_eq!(failure.brief(), (400, "invalid_argument", "REQUEST_MALFORMED"));
    let failure = unary("content-encoding", "br").await.unwrap_err();
    assert_eq!(failure.brief(), (501, "unimplemented", "NOT_SUPPORTED"));
    let body = envelope(0, room.as_bytes());
    let request = http.post("Subscribe", "application/connect+json", body);
    let mut stream = JsonStream::read(sent(request.header("connect-content-encoding", "br")).await);
    assert_eq!(stream.failure().await.brief(), (200, "unimplemented", "NOT_SUPPORTED"));
    // many fields are dropped, those of the protocol are not
    let mut request = http.post("GetRoom", "application/json", room.clone()).header("content-encoding", "br");
    for number in 0..40 {
        request = request.header(format!("x-{number}"), "1");
    }
    let failure = answer(sent(request).await).await.unwrap_err();
    assert_eq!(failure.brief(), (501, "unimplemented", "NOT_SUPPORTED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_of_the_client_is_kept() {
    // Goal: `connect-timeout-ms` is the deadline of the call. Method: NATS stands still; a call with a deadline is answered after
    // that, and not much later; a deadline that is none is refused.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    create_room(&unibus.client().await, "lobby").await;
    let http = Connect::to(unibus.address());
    let call = async |limit: &str| {
        let request = http.post("GetRoom", "application/json", json!({ "roomId": "lobby" }).to_string());
        answer(sent(request.header("connect-timeout-ms", limit)).await).await
    };
    assert_eq!(call("5000").await.unwrap()["room"]["roomId"], Value::from("lobby"));
    for limit in ["", "x", "-1", "1.5", "12345678901"] {
        let failure = call(limit).await.unwrap_err();
        assert_eq!(failure.brief(), (400, "invalid_argument", "REQUEST_MALFORMED"), "{limit:?}");
    }
    nats.freeze().await;
    let begun = Instant::now();
    let failure = call("300").await.unwrap_err();
    assert_eq!(failure.brief(), (504, "deadline_exceeded", "TIMEOUT"));
    assert_eq!(failure.detail("google.rpc.RetryInfo")["retryDelay"], "0.500s");
    let took = begun.elapsed();
    assert!((Duration::from_millis(290)..Duration::from_millis(1300)).contains(&took), "{took:?}");
    nats.thaw();
}
