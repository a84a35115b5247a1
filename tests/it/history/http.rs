//! `GET /rooms/{id}/history`: the contract of the browser client.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use serde_json::Value;

use crate::support::{Lobby, Nats, Unibus, create_ephemeral, create_room, publish, publish_n};

/// Status and body of a request for a path.
async fn get(unibus: &Unibus, path: &str) -> (StatusCode, String) {
    let response = reqwest::get(format!("http://{}{path}", unibus.address())).await;
    let response = response.expect("an answer");
    let status = response.status();
    (status, response.text().await.expect("a body"))
}

/// The number of messages in an answer, which must be one.
async fn count(unibus: &Unibus, path: &str) -> usize {
    let (status, body) = get(unibus, path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    body["messages"].as_array().expect("an array").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_is_exactly_what_the_browser_client_reads() {
    // Goal: key, order and encoding are a stable contract. Method: payloads whose base64 tells the standard alphabet and its
    // padding from others; the body compared as text.
    let (lobby, client) = Lobby::open().await;
    for payload in [&[0xfb, 0xff, 0xfe][..], &[0xff], b"", b"hello", &[0xfb, 0xff]] {
        publish(&client, "lobby", payload.to_vec()).await.unwrap();
    }

    let url = format!("http://{}/rooms/lobby/history", lobby.unibus.address());
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
    let body = response.text().await.unwrap();
    assert_eq!(body, r#"{"messages":["+//+","/w==","","aGVsbG8=","+/8="]}"#);
    let (_, body) = get(&lobby.unibus, "/rooms/lobby/history?limit=2").await;
    assert_eq!(body, r#"{"messages":["aGVsbG8=","+/8="]}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_without_messages_gives_an_empty_list() {
    // Goal: emptiness is no error. Method: an empty persisted room and an ephemeral one with a message sent.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "live").await;
    publish(&client, "live", "x").await.unwrap();
    for path in ["/rooms/lobby/history", "/rooms/live/history?limit=5"] {
        let answer = get(&lobby.unibus, path).await;
        assert_eq!(answer, (StatusCode::OK, String::from(r#"{"messages":[]}"#)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_clamped_and_never_refused() {
    // Goal: as on the former bus, whatever stands behind `limit` gives a page. Method: 1,100 messages; no limit, numbers on
    // both sides of the bounds and of 64 bits, and what is no number.
    let (lobby, client) = Lobby::without_room().await;
    let room = create_room(&client, "lobby").await;
    lobby.nats.publish_n(&room.subject, 1100).await;

    let cases = [
        ("", 200),
        ("?", 200),
        ("?limit=", 200),
        ("?limit=abc", 200),
        ("?limit=1.5", 200),
        ("?limit=0", 200),
        ("?limit=-1", 200),
        ("?limit=-99999999999999999999", 200),
        ("?limit=%20", 200),
        ("?other=5", 200),
        ("?limit=1", 1),
        ("?limit=1&other=5", 1),
        ("?limit=250", 250),
        ("?limit=1000", 1000),
        ("?limit=1001", 1000),
        ("?limit=9223372036854775807", 1000),
        ("?limit=9223372036854775808", 1000),
        ("?limit=99999999999999999999", 1000),
    ];
    for (query, expected) in cases {
        let path = format!("/rooms/lobby/history{query}");
        assert_eq!(count(&lobby.unibus, &path).await, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_room_is_not_found() {
    // Goal: what is not there is 404, also an id that could not be a room's, and a path beside. Method: each of them.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    create_room(&unibus.client().await, "lobby").await;
    for path in ["/rooms/nowhere/history", "/rooms/lobby", "/rooms", "/rooms/lobby/other", "/"] {
        assert_eq!(get(&unibus, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/rooms/a%20b/history", "/rooms/%00/history", "/rooms/%FF/history"] {
        let (status, _) = get(&unibus, path).await;
        assert!(status.is_client_error(), "{path}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_room_id_can_be_written_in_a_path() {
    // Goal: ids are percent-encoded once and decoded once. Method: rooms whose ids hold what paths are made of, each with a
    // message of its own.
    let (lobby, client) = Lobby::without_room().await;
    let ids = ["a/b", "100%25", "caf\u{e9}-\u{1f980}x", "q?limit=1", "h#h", "a..b", "p+l+u+s", "a&b=c;d,"];
    for id in ids {
        create_room(&client, id).await;
        publish_n(&client, id, 2).await;
        let encoded = utf8_percent_encode(id, NON_ALPHANUMERIC);
        let path = format!("/rooms/{encoded}/history");
        // "1" and "2".
        let expected = r#"{"messages":["MQ==","Mg=="]}"#;
        let answer = get(&lobby.unibus, &path).await;
        assert_eq!(answer, (StatusCode::OK, expected.to_owned()), "{id}");
    }
}
