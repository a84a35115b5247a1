//! What the log tells of a call; `canaries` has what it never tells.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tonic::{Code, Request, metadata::MetadataMap};
use unibus::v1::{GetRoomRequest, ListRoomsRequest};

use crate::support::{Frames, Nats, Process, assert_field, create_room, eventually, publish, subscription};

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
    // before the service has seen the loss, a publish may be sent, and its outcome is unknown
    let ready = format!("http://{}/readyz", process.admin_address());
    eventually(SOON, async || match reqwest::get(&ready).await.map(|response| response.status()) {
        Ok(StatusCode::SERVICE_UNAVAILABLE) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
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
