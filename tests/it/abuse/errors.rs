//! Careless clients hear what is wrong, in a form that they can read.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use prost::Message;
use reqwest::{Method, StatusCode, header::HeaderMap};
use tokio::time::{Duration, timeout};
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use unibus::v1::{PublishRequest, PublishStreamRequest, PublishStreamResponse, publish_stream_response::Outcome};

use super::fuzz::Raw;
use crate::support::{Nats, Random, Unibus, assert_status, calls::calls, create_room, fields, publish, reason};

const MEBIBYTE: usize = 1024 * 1024;
/// Bytes of the details of an error.
const DETAILS_BYTES_MAX: usize = 4096;

async fn channel(unibus: &Unibus) -> Channel {
    Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap().connect().await.unwrap()
}

/// Calls this path with these messages, as they are.
async fn raw(
    unibus: &Unibus,
    path: &str,
    requests: Vec<Vec<u8>>,
    headers: &[(&'static str, &str)],
) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel(unibus).await).max_decoding_message_size(usize::MAX);
    grpc.ready().await.unwrap();
    let mut request = Request::new(stream::iter(requests));
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let read = async {
        let mut answers = grpc.streaming(request, path.parse().unwrap(), Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    timeout(Duration::from_secs(1), read).await.unwrap_or(Ok(()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_library_itself_refuses_has_a_reason() {
    // Goal: there is no error without ErrorInfo. Method: unknown services and methods, requests that cannot be read, that are
    // missing, doubled, compressed, and too large, of several RPCs.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    create_room(&unibus.client().await, "lobby").await;
    let rpc = |name: &str| format!("/unibus.v1.RoomService/{name}");
    let large = vec![vec![0; 100_000]];
    let malformed = ("REQUEST_MALFORMED", Code::InvalidArgument);
    let unsupported = ("NOT_SUPPORTED", Code::Unimplemented);
    let deflate: &[(&str, &str)] = &[("grpc-encoding", "deflate")];
    for (path, requests, headers, (expected, code)) in [
        ("/no.such.Service/Call".to_owned(), vec![vec![]], &[][..], unsupported),
        (rpc("NoSuchMethod"), vec![vec![]], &[], unsupported),
        ("/grpc.health.v1.Health/Nothing".to_owned(), vec![vec![]], &[], unsupported),
        (rpc("GetRoom"), vec![vec![0xff; 9]], &[], malformed),
        (rpc("GetRoom"), vec![vec![10, 2, 0xff, 0xff]], &[], malformed),
        (rpc("GetRoom"), vec![], &[], unsupported),
        (rpc("GetRoom"), vec![vec![], vec![]], &[], unsupported),
        (rpc("Subscribe"), vec![], &[], unsupported),
        (rpc("Subscribe"), vec![vec![], vec![]], &[], unsupported),
        (rpc("PublishStream"), vec![vec![0xff; 9]], &[], malformed),
        (rpc("GetRoom"), vec![vec![]], deflate, unsupported),
        (rpc("PublishStream"), vec![vec![]], deflate, unsupported),
        (rpc("GetRoom"), large.clone(), &[], ("LIMIT_REACHED", Code::ResourceExhausted)),
        (rpc("Publish"), vec![vec![0; 5 * MEBIBYTE]], &[], ("PAYLOAD_TOO_LARGE", Code::InvalidArgument)),
        (rpc("PublishBatch"), vec![vec![0; 12 * MEBIBYTE]], &[], ("PAYLOAD_TOO_LARGE", Code::InvalidArgument)),
        ("/grpc.health.v1.Health/Check".to_owned(), large, &[], ("LIMIT_REACHED", Code::ResourceExhausted)),
    ] {
        let refused = raw(&unibus, &path, requests, headers).await;
        crate::support::note(format_args!("{path} {expected}"));
        assert_status(refused, code, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_bytes_to_any_call_are_answered_with_a_reason() {
    // Goal: whatever comes as the body of a request, the answer can be read. Method: random bytes as they are, without the form
    // of messages, to every RPC, health and reflection, over gRPC-Web, whose answers are whole; each error has ErrorInfo in
    // details of at most 4 KiB.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut random = Random::seeded();
    let http = reqwest::Client::new();
    for rpc in calls().iter().map(|call| call.rpc) {
        for _ in 0..40 {
            let length = random.count(0..40);
            let mut body: Vec<u8> = (0..length).map(|_| u8::try_from(random.within(0..256)).unwrap()).collect();
            if random.count(0..2) == 0 {
                let announced = u32::try_from(random.count(0..60)).unwrap().to_be_bytes();
                body = [&[0][..], &announced, &body].concat();
            }
            let request = http.post(format!("http://{}/unibus.v1.RoomService/{rpc}", unibus.address()));
            let request = request.header("content-type", "application/grpc-web+proto").body(body.clone());
            let Ok(answer) = timeout(Duration::from_millis(300), async {
                let answer = request.send().await.unwrap();
                let headers = answer.headers().clone();
                (headers, answer.bytes().await.unwrap())
            })
            .await
            else {
                continue;
            };
            let (status, details) = web_status(&answer.0, &answer.1);
            if status != "0" {
                let details = details.unwrap_or_else(|| panic!("{rpc} {body:?}: {status} without details"));
                assert!(details.len() < DETAILS_BYTES_MAX * 4 / 3, "{rpc} {body:?}");
            }
        }
    }
}

/// The status and the details of an answer of gRPC-Web.
fn web_status(headers: &HeaderMap, body: &Bytes) -> (String, Option<String>) {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    if let Some(status) = text("grpc-status") {
        return (status, text("grpc-status-details-bin"));
    }
    let body = String::from_utf8_lossy(body);
    let line = |name: &str| {
        let (_, rest) = body.split_once(&format!("{name}:"))?;
        rest.split_once("\r\n").map(|(value, _)| value.trim().to_owned())
    };
    (line("grpc-status").unwrap_or_else(|| "0".to_owned()), line("grpc-status-details-bin"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_a_stream_that_is_too_large_is_answered_in_its_place() {
    // Goal: one message that is too large costs itself alone. Method: a stream of small messages with large ones between them,
    // some just beyond what is read, some far beyond; each is answered in order under its correlation id, and the stream ends
    // with OK.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut client = unibus.client().await.max_encoding_message_size(usize::MAX);
    create_room(&client, "lobby").await;
    let sizes = [3, 2 * MEBIBYTE, 3, 6 * MEBIBYTE, 20 * MEBIBYTE, 3, MEBIBYTE, 3];
    let requests = sizes.into_iter().enumerate().map(|(number, size)| PublishStreamRequest {
        correlation_id: 100 + number as u64,
        publish: Some(PublishRequest {
            room_id: "lobby".into(),
            payload: vec![7; size].into(),
            ..PublishRequest::default()
        }),
        ..PublishStreamRequest::default()
    });
    let requests: Vec<_> = requests.collect();
    let answers = client.publish_stream(stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<PublishStreamResponse> = answers.map(|answer| answer.unwrap()).collect().await;
    assert_eq!(answers.len(), sizes.len());
    for (number, (answer, size)) in answers.into_iter().zip(sizes).enumerate() {
        assert_eq!(answer.correlation_id, 100 + number as u64);
        match answer.outcome.unwrap() {
            Outcome::Through(through) => panic!("nobody asked for {through:?}"),
            Outcome::Result(stored) => assert_eq!((size, stored.duplicate), (3, false)),
            Outcome::Error(error) => {
                let status =
                    Status::with_details(Code::from(error.code), error.message.clone(), error.encode_to_vec().into());
                assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "PAYLOAD_TOO_LARGE".to_owned()));
                assert!(size > 3, "{size}");
                assert!(fields(&status)[0].ends_with("payload"), "{status:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_other_protocols_hear_what_is_spoken() {
    // Goal: who speaks something else finds out at once. Method: content types that no protocol has, or that do not fit the
    // method or the version of HTTP, with POST and GET, are answered 415 with a line of text; a room id that is no text is
    // answered in JSON.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let url = format!("http://{}/unibus.v1.RoomService/GetRoom", unibus.address());
    let http = reqwest::Client::new();
    for kind in [
        "application/connect+json",
        "application/connect+proto",
        "application/connect+text",
        "application/x-protobuf",
        "application/jsonp",
        "text/plain",
        "application/grpc",
    ] {
        let answer = http.post(&url).header("content-type", kind).body("{}").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("gRPC") && text.lines().count() == 1, "{text:?}");
    }
    let get = http.get(format!("{url}?connect=v1&encoding=text&message=%7B%7D")).send().await.unwrap();
    assert_eq!(get.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let strange = http.get(format!("http://{}/rooms/%ff/history", unibus.address())).send().await.unwrap();
    assert_eq!(strange.status(), StatusCode::BAD_REQUEST);
    assert_eq!(strange.headers()["content-type"], "application/json");
    let body: serde_json::Value = serde_json::from_str(&strange.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["reason"], "INVALID_FIELD");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_says_in_its_body_what_is_wrong() {
    // Goal: no client is left with a bare number. Method: paths and methods that there are not, on both ports; each answer has
    // a body, 405 names the methods that the path takes, and what is JSON has a code and a reason.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let http = reqwest::Client::new();
    let (main, admin) = (unibus.address(), unibus.server().admin_addr());
    let (history, rpc) = ("/rooms/lobby/history", "/unibus.v1.RoomService/GetRoom");
    let (missing, not_allowed) = (StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED);
    let (get, web, reading) = (Some("GET,HEAD"), "application/grpc-web", Some("GET, POST"));
    for (address, method, path, kind, status, allow) in [
        (main, Method::GET, "/", "", missing, None),
        (main, Method::POST, "/rooms", "text/plain", missing, None),
        (main, Method::OPTIONS, "/rooms/lobby", "", missing, None),
        (main, Method::POST, history, "application/json", not_allowed, get),
        (main, Method::DELETE, history, "", not_allowed, get),
        (main, Method::OPTIONS, history, "", not_allowed, get),
        (main, Method::OPTIONS, rpc, "", not_allowed, reading),
        (main, Method::GET, rpc, web, not_allowed, reading),
        (main, Method::PUT, rpc, web, not_allowed, reading),
        (main, Method::PUT, rpc, "application/json", not_allowed, reading),
        (main, Method::PUT, "/unibus.v1.RoomService/Publish", web, not_allowed, Some("POST")),
        (main, Method::GET, "/no.Service/Call", web, not_allowed, Some("POST")),
        (admin, Method::GET, "/", "", missing, None),
        (admin, Method::POST, "/livez", "", not_allowed, get),
    ] {
        let case = format!("{method} {path} {kind}");
        let request = http.request(method, format!("http://{address}{path}")).header("content-type", kind);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{case}");
        assert_eq!(answer.headers().get("allow").map(|allow| allow.to_str().unwrap()), allow, "{case}");
        let is_json = answer.headers()["content-type"] == "application/json";
        assert_eq!(is_json, address == main && !path.contains('.'), "{case}");
        let text = answer.text().await.unwrap();
        assert!(!text.is_empty(), "{case}");
        if is_json {
            let body: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (&body["error"]["code"], &body["error"]["reason"]),
                (&"UNIMPLEMENTED".into(), &"NOT_SUPPORTED".into())
            );
        }
    }
    let grpc = raw(&unibus, history, vec![vec![0; 3]], &[]).await;
    assert_status(grpc, Code::Unimplemented, "NOT_SUPPORTED");
    let web = http.post(format!("http://{main}{history}")).header("content-type", "application/grpc-web+proto");
    let web = web.body("").send().await.unwrap();
    assert_eq!(web.headers()["grpc-status"], "12");
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_is_answered_only_if_it_is_harmless() {
    // Goal: nobody writes what it likes into answers and logs. Method: ids that are short and plain come back; ones that are
    // long, empty or of other characters are replaced.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let url = format!("http://{}/rooms/lobby/history", unibus.address());
    let answered = async |given: &str| {
        let request = reqwest::Client::new().get(&url).header("x-request-id", given);
        let answer = request.send().await.unwrap();
        answer.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    for fine in ["a", "0af7651916cd43dd8448eb211c80319c", "svc/1:2.3_4-5", &"x".repeat(128)] {
        assert_eq!(answered(fine).await, fine);
    }
    for bad in ["", "a b", "a\"b", "<script>", &"x".repeat(129), &"x".repeat(20_000)] {
        let id = answered(bad).await;
        assert!(id != bad && id.len() == 36, "{bad:.20}: {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_an_unknown_service_stays_open() {
    // Goal: health is what its protocol says. Method: a watch of a service that there is not says so and stays open, until the
    // instance stops; a check of it is NOT_FOUND.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut health = HealthClient::new(channel(&unibus).await);
    let unknown = HealthCheckRequest { service: "no.such.Service".into() };
    let mut watch = health.watch(unknown.clone()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    timeout(Duration::from_millis(500), watch.message()).await.expect_err("the watch stays open");
    assert_status(health.check(unknown).await, Code::NotFound, "SERVICE_UNKNOWN");
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "x").await.unwrap();
    unibus.shutdown().await.unwrap();
}
