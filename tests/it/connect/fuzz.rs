//! Nonsense in JSON and in envelopes is answered with a documented error, and harms nobody.

use std::time::Duration;

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{
    Lobby, Random,
    connect::{Connect, Failure, base64, envelope, path},
    create_ephemeral, history, note, publish,
};

/// Calls with each kind of nonsense.
const CALLS: usize = 400;
/// How long an answer may be awaited; a subscription that is open says nothing more for longer.
const ANSWER_WAIT: Duration = Duration::from_millis(100);
const METHODS: [&str; 10] = [
    "CreateRoom",
    "GetRoom",
    "UpdateRoom",
    "Publish",
    "PublishBatch",
    "History",
    "Subscribe",
    "AddMember",
    "SeekSubscriber",
    "ListRooms",
];
/// What errors of malformed requests say.
const CODES: [&str; 6] =
    ["invalid_argument", "not_found", "failed_precondition", "out_of_range", "already_exists", "resource_exhausted"];

/// Values of every kind, with the names of the contract among the names.
fn any_json() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "roomId",
        "room_id",
        "payload",
        "messages",
        "headers",
        "limit",
        "role",
        "room",
        "labels",
        "updateMask",
        "subscriber",
        "start",
        "position",
        "all",
        "ttl",
        "retention",
        "maxAge",
        "memberId",
        "pageSize",
        "timeRange",
        "x",
        "persist",
        "beforeSequence",
        "afterCursor",
        "since",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!("lobby")),
        Just(json!("18446744073709551615")),
        Just(json!("1.5s")),
        Just(json!("2026-01-01T00:00:00Z")),
        Just(json!("ROLE_OWNER")),
    ];
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((names.clone(), inner), 0..8).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

/// A text that is nearly the JSON of this value.
fn mangled(random: &mut Random, value: &Value) -> Vec<u8> {
    let mut text = value.to_string().into_bytes();
    match random.count(0..4) {
        0 => {}
        1 => text.truncate(random.count(0..text.len() + 1)),
        2 => {
            let place = random.count(0..text.len());
            text[place] = b"{}[]\",:\\\x00\xff"[random.count(0..10)];
        }
        _ => text.extend(value.to_string().bytes()),
    }
    text
}

fn check(status: u16, error: &Value) {
    let failure = Failure::read(status, error);
    assert!(CODES.contains(&&*failure.code), "{failure:?}");
    assert_ne!(failure.reason, "INTERNAL", "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_in_json_is_answered_with_a_documented_error() {
    // Goal: no text breaks anything. Method: hundreds of values of every kind, whole and mangled, to unary calls and streams,
    // with right and wrong envelopes; each answer is a message or an error of the list; a room beside has what it had.
    let (lobby, client) = Lobby::open().await;
    create_ephemeral(&client, "beside").await;
    publish(&client, "lobby", "before").await.unwrap();
    let http = Connect::to(lobby.unibus.address());
    let mut random = Random::seeded();
    let seed: Vec<u8> = (0..4).flat_map(|_| random.within(0..u64::MAX).to_be_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..CALLS {
        let value = any_json().new_tree(&mut runner).unwrap().current();
        let text = mangled(&mut random, &value);
        let method = METHODS[random.count(0..METHODS.len())];
        if method == "Subscribe" {
            let body = match random.count(0..3) {
                0 => envelope(0, &text),
                1 => envelope(*random.choice(&[1, 2, 3, 128, 255]), &text),
                _ => text.clone(),
            };
            let request = http.post(method, "application/connect+json", body).send();
            let mut response = request.await.unwrap();
            assert_eq!(response.status(), 200);
            let mut read = Vec::new();
            while let Ok(Ok(Some(chunk))) = timeout(ANSWER_WAIT, response.chunk()).await {
                read.extend_from_slice(&chunk);
            }
            assert_eq!(read.first().map(|flags| flags & !2), Some(0), "{text:?}");
            continue;
        }
        let response = http.post(method, "application/json", text).send().await.unwrap();
        let status = response.status().as_u16();
        let json: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        if status == 200 {
            answered += 1;
        } else {
            check(status, &json);
            refused += 1;
        }
    }
    note(format_args!("{answered} answered, {refused} refused"));
    assert!(refused > CALLS / 10);
    let query: String = (0..200).map(|_| char::from(b"%&=+abcdefmessage0123 "[random.count(0..22)])).collect();
    for number in 0..CALLS / 4 {
        let query = &query[number % 150..];
        let query = query.replace(' ', "&message=%7B%7D&encoding=json&");
        let response =
            http.request(reqwest::Method::GET, &format!("{}?{query}", path("ListRooms"))).send().await.unwrap();
        assert!([200, 400, 415, 501].contains(&response.status().as_u16()), "{query}: {}", response.status());
    }
    http.call("Publish", &json!({ "roomId": "lobby", "payload": base64("after") })).await.unwrap();
    let page = history(&client, "lobby", 1000).await;
    assert_eq!(page.messages.last().unwrap().payload, "after");
}
