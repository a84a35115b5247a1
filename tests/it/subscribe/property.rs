//! Whatever is published comes back, byte for byte, by every way of reading.

use std::{collections::HashMap, future::Future};

use base64::{Engine, prelude::BASE64_STANDARD};
use proptest::{
    collection::{hash_map, vec},
    prelude::{Strategy, any},
    prop_assert_eq, prop_oneof,
    test_runner::{Config, TestCaseError, TestRunner},
};
use unibus::v1::{Message, PublishRequest};

use crate::support::{Client, Frames, Nats, Unibus, create_room, history};

/// Cases of a test: each is a room with a few messages.
const CASES: u32 = 48;

/// Payload and headers of a message.
type Content = (Vec<u8>, HashMap<String, String>);

/// Any header value that is allowed: no line breaks, no NUL, no white space at either end.
fn header_value() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..30).prop_map(|chars| {
        let value: String = chars.into_iter().filter(|char| !"\r\n\0".contains(*char)).collect();
        value.trim().to_owned()
    })
}

/// Any header name that is allowed.
fn header_name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.-]{1,40}".prop_filter("reserved", |name: &String| {
        let name = name.to_ascii_lowercase();
        !name.starts_with("nats-") && !name.starts_with("unibus-")
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..300),
        // What looks like the end of a NATS or HTTP message.
        1 => proptest::sample::select(vec![b"\r\n".to_vec(), b"MSG a 1 1\r\n".to_vec(), b"\0".to_vec()]),
        1 => vec(any::<u8>(), 60_000..70_000),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    (payload(), hash_map(header_name(), header_value(), 0..5))
}

/// Runs an asynchronous check for every case that the strategy gives.
fn check<S, F, Fut>(strategy: &S, check: F)
where
    S: Strategy,
    F: Fn(S::Value) -> Fut,
    Fut: Future<Output = Result<(), TestCaseError>>,
{
    let config = Config { cases: CASES, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let result = TestRunner::new(config).run(strategy, |value| runtime.block_on(check(value)));
        result.unwrap_or_else(|failure| panic!("{failure}"));
    });
}

/// Publishes these contents into a new room and gives back its id.
async fn published(client: &Client, contents: &[Content]) -> Result<String, TestCaseError> {
    let room_id = create_room(client, "").await.room_id;
    for (payload, headers) in contents {
        let request = PublishRequest {
            room_id: room_id.clone(),
            payload: payload.clone().into(),
            headers: headers.clone(),
            ..PublishRequest::default()
        };
        let published = client.clone().publish(request).await;
        published.map_err(|status| TestCaseError::fail(status.to_string()))?;
    }
    Ok(room_id)
}

/// What was read, as it should have been published.
fn contents(messages: Vec<Message>) -> Vec<Content> {
    let content = |message: Message| (message.payload.to_vec(), message.headers);
    messages.into_iter().map(content).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_message_comes_back_by_subscription_and_by_history() {
    // Goal: the service changes nothing. Method: arbitrary payloads and headers; published, then read both ways.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = &unibus.client().await;
    check(&vec(content(), 1..6), async |expected| {
        let room_id = published(client, &expected).await?;
        let read = Frames::transient(client, &room_id).await.until_caught_up().await;
        prop_assert_eq!(&contents(read), &expected);
        let page = history(client, &room_id, 0).await.messages;
        prop_assert_eq!(&contents(page), &expected);
        Ok(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_message_comes_back_to_a_live_subscriber() {
    // Goal: the live path changes nothing either. Method: the same with the subscription opened first, so that every message
    // comes after `caught_up`.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = &unibus.client().await;
    let room_id = &create_room(client, "").await.room_id;
    let mut frames = Frames::transient(client, room_id).await;
    assert_eq!(frames.until_caught_up().await, []);
    let frames = &tokio::sync::Mutex::new(frames);
    check(&content(), async |(payload, headers)| {
        let request = PublishRequest {
            room_id: room_id.clone(),
            payload: payload.clone().into(),
            headers: headers.clone(),
            ..PublishRequest::default()
        };
        let published = client.clone().publish(request).await;
        published.map_err(|status| TestCaseError::fail(status.to_string()))?;
        let read = frames.lock().await.messages(1).await;
        prop_assert_eq!(contents(read), [(payload, headers)]);
        Ok(())
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_payload_comes_back_by_http() {
    // Goal: the browser's base64 is exact. Method: arbitrary payloads, decoded from the JSON body.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = &unibus.client().await;
    let address = unibus.address();
    check(&vec(payload(), 1..6), async |expected| {
        let contents: Vec<Content> = expected.iter().map(|payload| (payload.clone(), HashMap::new())).collect();
        let room_id = published(client, &contents).await?;
        let url = format!("http://{address}/rooms/{room_id}/history");
        let body = reqwest::get(url).await.unwrap().text().await.unwrap();
        let body: HashMap<String, Vec<String>> = serde_json::from_str(&body).unwrap();
        let decode = |message: &String| BASE64_STANDARD.decode(message).unwrap();
        let read: Vec<Vec<u8>> = body["messages"].iter().map(decode).collect();
        prop_assert_eq!(&read, &expected);
        Ok(())
    });
}
