//! Requests in JSON that are too large, too deep, too slow or never complete, and answers that nobody reads, cost a bounded
//! amount.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    abuse::bodies::guarded,
    support::{
        Issuer, Lobby, Nats,
        connect::{Connect, Failure, JsonStream, answer, base64, envelope, path, sent},
        create_room,
        flood::{Attacker, Innocent, STRANGER_BYTES, assert_bounded},
        http2::{DATA, END_HEADERS, HEADERS, frame, literal},
        publish,
    },
};

const MALFORMED: (u16, &str, &str) = (400, "invalid_argument", "REQUEST_MALFORMED");

/// The frames of a call in the Connect protocol without its body.
fn call(stream: u32, method: &str, kind: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let path = path(method);
    let own =
        [(":method", "POST"), (":scheme", "http"), (":path", &*path), (":authority", "a"), ("content-type", kind)];
    let block: Vec<u8> = own.iter().chain(headers).flat_map(|(name, value)| literal(name, value)).collect();
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// An HTTP/1.1 request, written by hand, and everything that comes back.
async fn raw(address: SocketAddr, method: &str, fields: &str, body: &[u8], within: Duration) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n\r\n", path(method));
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body).await.unwrap();
    let mut read = Vec::new();
    let _ = timeout(within, socket.read_to_end(&mut read)).await.expect("an end in time");
    String::from_utf8(read).expect("text")
}

/// The error in an HTTP/1.1 answer to a unary call.
fn failure(answer: &str) -> Failure {
    let status = answer.split(' ').nth(1).expect("a status").parse().expect("a number");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    Failure::read(status, &serde_json::from_str(body).expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_large_is_refused_before_it_is_received() {
    // Goal: the announced length decides. Method: bodies that announce more than may be and send nothing; bodies without a
    // length that become too large; prefixes that announce 4 GiB. Each is refused by its bound, at once.
    let (lobby, _client) = Lobby::open().await;
    let address = lobby.unibus.address();
    let json = "content-type: application/json";
    for (method, kind, length, expected) in [
        ("GetRoom", "json", "100000", (429, "resource_exhausted", "LIMIT_REACHED")),
        ("GetRoom", "proto", "70000", (429, "resource_exhausted", "LIMIT_REACHED")),
        ("Publish", "json", "4000000", (400, "invalid_argument", "PAYLOAD_TOO_LARGE")),
        ("Publish", "json", "18446744073709551615", (400, "invalid_argument", "PAYLOAD_TOO_LARGE")),
        ("PublishBatch", "json", "99999999999", (400, "invalid_argument", "PAYLOAD_TOO_LARGE")),
    ] {
        let fields = format!("content-type: application/{kind}\r\ncontent-length: {length}");
        let refused = raw(address, method, &fields, b"{", Duration::from_secs(10)).await;
        if length.len() < 20 {
            assert_eq!(failure(&refused).brief(), expected, "{method} {length}");
        }
    }
    let mut chunks = Vec::new();
    for _ in 0..20 {
        chunks.extend(format!("{:x}\r\n{}\r\n", 10_000, " ".repeat(10_000)).into_bytes());
    }
    let refused =
        raw(address, "GetRoom", &format!("{json}\r\ntransfer-encoding: chunked"), &chunks, Duration::from_secs(10))
            .await;
    assert_eq!(failure(&refused).brief(), (429, "resource_exhausted", "LIMIT_REACHED"));
    let http = Connect::to(address);
    for kind in ["json", "proto"] {
        let body = [&[0, 255, 255, 255, 255][..], b"{}"].concat();
        let request = http.post("Subscribe", &format!("application/connect+{kind}"), body);
        let response = sent(request).await;
        if kind == "json" {
            let failure = JsonStream::read(response).failure().await;
            assert_eq!(failure.brief(), (200, "resource_exhausted", "LIMIT_REACHED"));
        } else {
            assert!(response.text().await.unwrap().contains("LIMIT_REACHED"));
        }
    }
    // a body without a length that is not too large is a message
    let chunked = format!("{json}\r\ntransfer-encoding: chunked");
    let found = raw(
        address,
        "GetRoom",
        &chunked,
        b"5\r\n{\"roo\r\n10\r\nmId\": \"nowhere\"}\r\n0\r\n\r\n",
        Duration::from_secs(10),
    )
    .await;
    assert_eq!(failure(&found).brief(), (404, "not_found", "ROOM_NOT_FOUND"));
    let binary = b"9\r\n\x0a\x07nowhere\r\n0\r\n\r\n";
    let found = raw(
        address,
        "GetRoom",
        "content-type: application/proto\r\ntransfer-encoding: chunked",
        binary,
        Duration::from_secs(10),
    )
    .await;
    assert_eq!(failure(&found).brief(), (404, "not_found", "ROOM_NOT_FOUND"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_is_small_to_send_and_large_to_hold_is_refused_by_its_shape() {
    // Goal: a text is counted before it is parsed. Method: nesting, empty objects, empty lists and names by the hundred thousand,
    // known and unknown, in one message and on a stream; each is refused, the process stays small, and another caller's publishes
    // go on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let http = Connect::to(service.address()).with_token(&issuer.token("greedy"));
    let list = |entry: &str, bytes: usize| vec![entry; bytes / (entry.len() + 1)].join(",");
    for (method, body) in [
        ("Publish", "[".repeat(1_000_000)),
        ("Publish", format!("{{\"x\":{}", "{\"a\":".repeat(400_000))),
        ("Publish", format!("{{\"x\":[{}]}}", list("0", 1_500_000))),
        ("Publish", format!("{{\"headers\":{{{}}}}}", list("\"a\":\"\"", 1_500_000))),
        ("PublishBatch", format!("{{\"messages\":[{}]}}", list("{}", 9_000_000))),
        ("PublishBatch", format!("{{\"messages\":[{}]}}", list("{\"headers\":{\"a\":\"\"}}", 9_000_000))),
        ("CreateRoom", format!("{{\"labels\":{{{}}}", "\"\\u0061\":\"\",".repeat(5000))),
    ] {
        let begun = Instant::now();
        let failure = answer(sent(http.post(method, "application/json", body)).await).await.unwrap_err();
        assert_eq!(failure.brief(), MALFORMED, "{method}");
        crate::support::note(format_args!("{method}: {:?}", begun.elapsed()));
    }
    let nested = envelope(0, "[".repeat(60_000).as_bytes());
    let mut stream = JsonStream::read(sent(http.post("Subscribe", "application/connect+json", nested)).await);
    assert_eq!(stream.failure().await.brief(), (200, "invalid_argument", "REQUEST_MALFORMED"));
    assert_bounded(&service, before, Duration::from_millis(500), 64 * 1024 * 1024).await;
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_messages_and_wrong_flags_are_malformed() {
    // Goal: what ends early is never taken for a message. Method: streams that end within a prefix or a message, that have two
    // messages, flags, or none; each ends with its error. Too many or too few messages are unimplemented.
    let (lobby, _client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    let whole = envelope(0, br#"{"roomId":"lobby"}"#);
    for (case, body) in [
        ("a part of a prefix", whole[..3].to_vec()),
        ("a prefix alone", whole[..5].to_vec()),
        ("a part of a message", whole[..10].to_vec()),
        ("compressed", envelope(1, br#"{"roomId":"lobby"}"#)),
        ("an end", envelope(2, b"{}")),
        ("no JSON", envelope(0, b"\xff")),
        ("empty", envelope(0, b"")),
    ] {
        let mut stream = JsonStream::read(sent(http.post("Subscribe", "application/connect+json", body)).await);
        let failure = stream.failure().await;
        assert_eq!(failure.brief(), (200, "invalid_argument", "REQUEST_MALFORMED"), "{case}");
    }
    for (case, body) in [("nothing", vec![]), ("two messages", [whole.clone(), whole].concat())] {
        let mut stream = JsonStream::read(sent(http.post("Subscribe", "application/connect+json", body)).await);
        let failure = stream.failure().await;
        assert_eq!(failure.brief(), (200, "unimplemented", "NOT_SUPPORTED"), "{case}");
    }
    let empty = answer(sent(http.post("GetRoom", "application/json", "")).await).await.unwrap_err();
    assert_eq!(empty.brief(), MALFORMED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_does_not_come_ends_its_call_in_time() {
    // Goal: slow senders hold nothing for long. Method: unary and streaming calls whose bodies stop in the middle, with and
    // without a length; each is answered `TIMEOUT` after the time that a request has.
    let (lobby, _client) = Lobby::open().await;
    let address = lobby.unibus.address();
    let begun = Instant::now();
    let within = Duration::from_secs(25);
    let (known, unknown, stream) = tokio::join!(
        raw(address, "GetRoom", "content-type: application/json\r\ncontent-length: 50", b"{\"roomId\":", within),
        raw(
            address,
            "ListRooms",
            "content-type: application/proto\r\ntransfer-encoding: chunked",
            b"",
            Duration::from_secs(30)
        ),
        raw(address, "Subscribe", "content-type: application/connect+json\r\ncontent-length: 50", &[0, 0, 0], within),
    );
    assert_eq!(failure(&known).brief(), (504, "deadline_exceeded", "TIMEOUT"));
    assert_eq!(failure(&unknown).brief(), (504, "deadline_exceeded", "TIMEOUT"));
    assert!(stream.contains("\"reason\":\"TIMEOUT\""), "{stream}");
    assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_fills_memory_with_unfinished_json() {
    // Goal: JSON is charged like gRPC. Method: strangers with 400 unfinished calls; one caller with 120 unfinished publishes and
    // batches, nearly complete; the process stays small, and another caller's publishes go on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let token = format!("Bearer {}", issuer.token("greedy"));
    let length = |bytes: usize| bytes.to_string();
    for (method, kind, calls, announced, sent, is_known) in [
        ("Publish", "application/json", 400, 1_000_000, 1000, false),
        ("Subscribe", "application/connect+json", 400, 60_000, 1000, false),
        ("Publish", "application/json", 120, 1_300_000, 500_000, true),
        ("PublishBatch", "application/json", 120, 9_000_000, 500_000, true),
        ("PublishStream", "application/connect+json", 120, 1_300_000, 500_000, true),
    ] {
        let announced_text = length(announced);
        let mut headers = vec![];
        if is_known {
            headers.push(("authorization", &*token));
        }
        let is_unary = kind == "application/json";
        if is_unary {
            headers.push(("content-length", &*announced_text));
        }
        let mut bytes = Vec::new();
        for number in 0..calls {
            let stream = 2 * number + 1;
            bytes.extend(call(stream, method, kind, &headers));
            let prefix = if is_unary { Vec::new() } else { envelope(0, &vec![0; announced])[..5].to_vec() };
            let body = [prefix, br#"{"payload":""#.to_vec(), vec![b'A'; sent]].concat();
            for part in body.chunks(16 * 1024) {
                bytes.extend(frame(DATA, 0, stream, part));
            }
        }
        let attacker = Attacker::send(service.address(), bytes).await;
        let max = if is_known { 128 * 1024 * 1024 } else { STRANGER_BYTES };
        assert_bounded(&service, before, Duration::from_secs(2), max).await;
        drop(attacker);
    }
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_in_json_that_nobody_reads_cost_a_bounded_amount() {
    // Goal: a client that reads nothing holds a share of memory. Method: a room of large and one of many small messages; one caller asks for
    // 60 pages and 60 subscriptions in JSON on connections that read nothing; another
    // caller publishes.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &["--limit-read-bytes=0"]).await;
    for room in ["large", "small"] {
        create_room(&client, room).await;
    }
    for _ in 0..30 {
        publish(&client, "large", vec![7; 900 * 1024]).await.unwrap();
    }
    let http = Connect::to(service.address()).with_token(&issuer.token("ann"));
    for _ in 0..10 {
        let messages: Vec<Value> = vec![json!({ "payload": base64("x") }); 1000];
        http.call("PublishBatch", &json!({ "roomId": "small", "messages": messages })).await.unwrap();
    }
    // what the first pages need for ever is no growth
    http.call("History", &json!({ "roomId": "large", "limit": 1000 })).await.unwrap();
    let before = service.resident_bytes();
    let token = format!("Bearer {}", issuer.token("ann"));
    let headers = [("authorization", &*token)];
    let mut deaf = Vec::new();
    for (method, kind, room) in [
        ("History", "application/json", "large"),
        ("History", "application/json", "small"),
        ("Subscribe", "application/connect+json", "large"),
        ("Subscribe", "application/connect+json", "small"),
    ] {
        for _ in 0..6 {
            let mut bytes = Vec::new();
            for number in 0..10 {
                let message = json!({ "roomId": room, "limit": 1000 }).to_string();
                let body =
                    if kind == "application/json" { message.into_bytes() } else { envelope(0, message.as_bytes()) };
                bytes.extend(call(2 * number + 1, method, kind, &headers));
                bytes.extend(frame(DATA, 1, 2 * number + 1, &body));
            }
            deaf.push(Attacker::deaf(service.address(), bytes).await);
        }
    }
    assert_bounded(&service, before, Duration::from_secs(6), 256 * 1024 * 1024).await;
    publish(&client, "lobby", "beside").await.unwrap();
    assert_eq!(deaf.len(), 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_publish_is_refused_before_it_comes() {
    // Goal: who may not publish sends nothing large. Method: a caller that is not a member announces a large payload in JSON,
    // sends the room and waits; the refusal comes long before the time of a request is over. A room that does not exist likewise.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |_| {}).await;
    create_room(&issuer.client(&unibus, "ann").await, "lobby").await;
    let token = issuer.token("eve");
    let fields = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 1200000");
    for (room, expected) in
        [("lobby", (403, "permission_denied", "PERMISSION_DENIED")), ("nowhere", (404, "not_found", "ROOM_NOT_FOUND"))]
    {
        let beginning = format!("{{\"roomId\": \"{room}\", \"payload\": \"AAAA");
        let refused = raw(unibus.address(), "Publish", &fields, beginning.as_bytes(), Duration::from_secs(5)).await;
        assert_eq!(failure(&refused).brief(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_still_sending_reads_its_refusal() {
    // Goal: a browser that sends a large body sees why it was refused, and not a broken connection. Method: bodies of 8 MB that
    // are too large, of a caller without a token, over one HTTP/1.1 connection each; every answer is read.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let unibus = issuer.guard(&nats, |_| {}).await;
    let http = Connect::to(unibus.address());
    let body = " ".repeat(8_000_000);
    for _ in 0..5 {
        let failure = answer(sent(http.post("Publish", "application/json", body.clone())).await).await.unwrap_err();
        assert_eq!(failure.brief(), (401, "unauthenticated", "UNAUTHENTICATED"));
        let ann = http.with_token(&issuer.token("ann"));
        let failure = answer(sent(ann.post("GetRoom", "application/json", body.clone())).await).await.unwrap_err();
        assert_eq!(failure.brief(), (429, "resource_exhausted", "LIMIT_REACHED"));
    }
}
