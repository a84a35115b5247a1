//! What the log tells of a call, and what it never tells.

use std::{collections::HashMap, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use reqwest::StatusCode;
use serde_json::Value;
use tonic::{Code, Request, metadata::MetadataMap};
use unibus::v1::{GetRoomRequest, ListRoomsRequest, PublishRequest};

use crate::support::{
    Client, Frames, Nats, Process, assert_field, create_ephemeral, create_room, eventually, explicit, history, publish,
    subscription,
};

/// The request id, in requests, answers and log lines.
const REQUEST_ID: &str = "x-request-id";
/// How long a line may take to be written.
const SOON: Duration = Duration::from_secs(10);
/// What shows each call.
const CALLS: &str = "unibus=debug,tower_http=debug";

/// A request with this id.
fn with_id<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(REQUEST_ID, id.parse().unwrap());
    request
}

/// The request id of an answer.
fn id_in(metadata: &MetadataMap) -> String {
    let id = metadata.get(REQUEST_ID).expect("a request id");
    id.to_str().unwrap().to_owned()
}

/// The log lines so far; panics at one that is not a JSON object.
fn lines(process: &Process) -> Vec<serde_json::Map<String, Value>> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    process.stdout().iter().map(parse).collect()
}

/// Waits for a log line of the call with this id.
async fn is_logged(process: &Process, id: &str) {
    eventually(SOON, async || {
        let found = lines(process).iter().any(|line| line.get("span").is_some_and(|span| span["request_id"] == id));
        found.then_some(()).ok_or_else(|| format!("{id} is not in {:?}", process.stdout()))
    })
    .await;
}

fn room(room_id: &str) -> GetRoomRequest {
    GetRoomRequest { room_id: room_id.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_grpc_call_has_a_request_id_in_its_answer_and_in_the_log() {
    // Goal: a caller and an operator can speak of the same call. Method: calls that succeed, fail, stream, and do not exist,
    // with an id given and without.
    let nats = Nats::start().await;
    let process = Process::start_with(&nats, &[], Some(CALLS)).await;
    let mut client = process.client().await;
    create_room(&client, "lobby").await;
    let mut ids = Vec::new();

    let listed = client.list_rooms(with_id("given-1", ListRoomsRequest::default())).await.unwrap();
    assert_eq!(id_in(listed.metadata()), "given-1");
    let failed = client.get_room(with_id("given-2", room("nowhere"))).await.unwrap_err();
    assert_eq!(id_in(failed.metadata()), "given-2");
    let opened = client.subscribe(with_id("given-3", subscription("lobby", ""))).await.unwrap();
    assert_eq!(id_in(opened.metadata()), "given-3");
    ids.extend(["given-1", "given-2", "given-3"].map(String::from));

    ids.push(id_in(client.list_rooms(ListRoomsRequest::default()).await.unwrap().metadata()));
    ids.push(id_in(client.get_room(room("nowhere")).await.unwrap_err().metadata()));
    ids.push(id_in(client.get_room(room("")).await.unwrap_err().metadata()));
    ids.push(id_in(client.subscribe(subscription("lobby", "")).await.unwrap().metadata()));
    for id in &ids {
        assert!(!id.is_empty());
        is_logged(&process, id).await;
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 7, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_http_call_has_a_request_id_in_its_answer_and_in_the_log() {
    // Goal: the same for the JSON endpoint. Method: a page, an unknown room, an unknown path; an id given and not given.
    let nats = Nats::start().await;
    let process = Process::start_with(&nats, &[], Some(CALLS)).await;
    create_room(&process.client().await, "lobby").await;
    let http = reqwest::Client::new();
    let cases = [
        ("/rooms/lobby/history", StatusCode::OK),
        ("/rooms/nowhere/history", StatusCode::NOT_FOUND),
        ("/elsewhere", StatusCode::NOT_FOUND),
    ];
    for (number, (path, status)) in cases.into_iter().enumerate() {
        let given = format!("given-{number}");
        for id in [Some(&given), None] {
            let mut call = http.get(format!("http://{}{path}", process.address()));
            if let Some(id) = id {
                call = call.header(REQUEST_ID, id);
            }
            let response = call.send().await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            let answered = response.headers().get(REQUEST_ID).expect("a request id").to_str().unwrap();
            assert!(!answered.is_empty());
            assert!(id.is_none_or(|id| id == answered), "{answered}");
            is_logged(&process, answered).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_log_line_is_one_json_object() {
    // Goal: a log collector never meets half a line. Method: the start, calls that fail, names with line breaks and quotes, NATS
    // gone and back, the stop; each line is parsed, and has a time, a level and a target. Then a start that fails.
    let mut nats = Nats::start().await;
    let mut process = Process::start_with(&nats, &["--drain-timeout=1s"], Some("debug")).await;
    let client = process.client().await;
    create_room(&client, "lobby").await;
    let named = client.clone().get_room(room("line\nbreak \"quoted\" {}")).await;
    assert_field(named, "room_id", "a line break");
    let _frames = Frames::durable(&client, "lobby", "ann").await;
    let path = format!("http://{}/rooms/a%0Ab%22/history", process.address());
    assert!(reqwest::get(path).await.unwrap().status().is_client_error());
    nats.kill9();
    assert_eq!(publish(&client, "lobby", "x").await.unwrap_err().code(), Code::Unavailable);
    nats.restart().await;
    eventually(SOON, async || publish(&client, "lobby", "x").await.map_err(|status| status.to_string())).await;
    process.terminate();
    process.wait(SOON).await;
    let failed = format!("--nats-url={}", nats.url());
    let mut failed = Process::spawn(&[&failed, "--nats-nkey-file=/nowhere/no\nseed"]);
    assert_eq!(failed.wait(SOON).await.code(), Some(1));
    for process in [&process, &failed] {
        let lines = lines(process);
        assert!(!lines.is_empty());
        for line in lines {
            assert!(["timestamp", "level", "target"].iter().all(|key| line.contains_key(*key)), "{line:?}");
        }
    }
}

/// All ways in which these bytes may stand in a text: as they are, in base64 at each of its three places, in hexadecimal,
/// and as a list of numbers.
fn writings(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let mut writings = vec![secret.to_owned()];
    for before in 0..3 {
        let shifted = [&[0; 2][..before], bytes].concat();
        // the characters at the ends depend on what stands beside
        let whole = shifted.len() / 3 * 3;
        for encoded in [STANDARD_NO_PAD.encode(&shifted[..whole]), URL_SAFE_NO_PAD.encode(&shifted[..whole])] {
            writings.push(encoded[4..].to_owned());
        }
    }
    let hexadecimal = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    writings.push(hexadecimal.to_uppercase());
    writings.push(hexadecimal);
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    writings.push(numbers.join(", "));
    writings.push(numbers.join(","));
    writings
}

/// Publishes the canaries in every way, and reads them in every way.
async fn carries(client: &Client, process: &Process, payload: &str, value: &str) {
    for room_id in ["lobby", "live"] {
        let request = PublishRequest {
            room_id: room_id.into(),
            payload: payload.to_owned().into(),
            headers: HashMap::from([(String::from("x-canary"), value.to_owned())]),
            ..PublishRequest::default()
        };
        let mut frames = Frames::transient(client, room_id).await;
        frames.until_caught_up().await;
        client.clone().publish(request.clone()).await.unwrap();
        let received = frames.messages(1).await.remove(0);
        assert_eq!(received.payload, payload);
        assert_eq!(received.headers["x-canary"], value);
        let refused = PublishRequest { expected_last_sequence: Some(77), ..request.clone() };
        assert!(client.clone().publish(refused).await.is_err());
        let refused = PublishRequest { headers: HashMap::from([("a b".into(), value.to_owned())]), ..request };
        assert!(client.clone().publish(refused).await.is_err());
    }
    assert_eq!(history(client, "lobby", 1).await.messages[0].payload, payload);
    let mut frames = Frames::open(client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.messages(1).await[0].payload, payload);
    let page = reqwest::get(format!("http://{}/rooms/lobby/history", process.address())).await.unwrap();
    assert!(page.text().await.unwrap().contains(&STANDARD_NO_PAD.encode(payload)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_and_header_values_never_reach_the_log() {
    // Goal: the log can be given away. Method: at the most talkative level, send a payload and a header value that occur nowhere
    // else through every call, also ones that are refused or meet a dead NATS server; look for them in every line, also
    // encoded.
    const PAYLOAD: &str = "canary-payload-Zq7vXw2LtB9sKd4R";
    const VALUE: &str = "canary-header-Hn5mPy8GcJ3fVe6T";
    let mut nats = Nats::start().await;
    let mut process = Process::start_with(&nats, &["--drain-timeout=1s"], Some("trace")).await;
    let client = process.client().await;
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;
    carries(&client, &process, PAYLOAD, VALUE).await;
    nats.kill9();
    assert!(publish(&client, "lobby", PAYLOAD).await.is_err());
    nats.restart().await;
    eventually(SOON, async || publish(&client, "lobby", PAYLOAD).await.map_err(|status| status.to_string())).await;
    process.terminate();
    process.wait(SOON).await;

    let log = process.stdout();
    assert!(log.iter().any(|line| line.contains("TRACE")), "the log is not at trace level");
    let writings: Vec<String> = [PAYLOAD, VALUE].into_iter().flat_map(writings).collect();
    let leaks = |line: &&String| writings.iter().any(|writing| line.contains(writing));
    let leaks: Vec<&String> = log.iter().filter(leaks).collect();
    assert!(leaks.is_empty(), "{} lines, such as {}", leaks.len(), leaks[0]);
}
