//! Messages that are compressed with gzip, in requests and in answers.

use std::{io::Write, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures_util::future::join_all;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use reqwest::{Method, Response, header::HeaderMap};
use serde_json::{Value, json};
use tokio::time::timeout;
use unibus::v1::{GetRoomRequest, GetRoomResponse, PublishStreamRequest};

use super::both_ways::BothWays;
use crate::{
    abuse::bodies::guarded,
    support::{
        Issuer, Lobby, Nats,
        connect::{Connect, Failure, JsonStream, answer, base64, envelope, path, sent, taken},
        create_room,
        flood::{Innocent, assert_bounded},
        publish,
    },
};

const MEBIBYTE: usize = 1024 * 1024;
const MALFORMED: (u16, &str, &str) = (400, "invalid_argument", "REQUEST_MALFORMED");
const UNSUPPORTED: (&str, &str) = ("unimplemented", "NOT_SUPPORTED");

fn gzip(message: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(message.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn inflated(compressed: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(compressed), &mut message).unwrap();
    message
}

/// A body without a length.
fn chunked(bytes: &[u8]) -> reqwest::Body {
    let pieces: Vec<_> = bytes.chunks(7).map(Bytes::copy_from_slice).map(Frame::data).collect();
    let pieces = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>));
    reqwest::Body::wrap(StreamBody::new(pieces))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

/// The messages of a whole answer of a stream, inflated, with their flags.
async fn messages(response: Response) -> Vec<(u8, Vec<u8>)> {
    let mut received = BytesMut::from(&*response.bytes().await.unwrap());
    let mut messages = Vec::new();
    while let Some((flags, message)) = taken(&mut received) {
        messages.push((flags, if flags & 1 == 0 { message.to_vec() } else { inflated(&message) }));
    }
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_request_is_a_request() {
    // Goal: gzip is taken wherever a request is. Method: calls in JSON and in protobuf, with and without a length, by GET, of a
    // stream with compressed, plain and empty messages, and over gRPC-Web; each is answered as if it were plain.
    let (lobby, client) = Lobby::open().await;
    publish(&client, "lobby", "x").await.unwrap();
    let http = Connect::to(lobby.unibus.address());
    let room = gzip(json!({ "roomId": "lobby" }).to_string());
    let encoded = gzip(GetRoomRequest { room_id: "lobby".into() }.encode_to_vec());
    for body in [reqwest::Body::from(room.clone()), chunked(&room)] {
        let request = http.post("GetRoom", "application/json", body).header("content-encoding", "gzip");
        assert_eq!(answer(sent(request).await).await.unwrap()["room"]["roomId"], "lobby");
    }
    for body in [reqwest::Body::from(encoded.clone()), chunked(&encoded)] {
        let request = http.post("GetRoom", "application/proto", body).header("content-encoding", "gzip");
        let found = GetRoomResponse::decode(sent(request).await.bytes().await.unwrap()).unwrap();
        assert_eq!(found.room.unwrap().room_id, "lobby");
    }
    let query = format!("encoding=json&base64=1&compression=gzip&message={}", URL_SAFE_NO_PAD.encode(&room));
    let found = answer(sent(http.request(Method::GET, &format!("{}?{query}", path("GetRoom")))).await).await.unwrap();
    assert_eq!(found["room"]["roomId"], "lobby");

    let subscribe = json!({ "roomId": "lobby", "untilCaughtUp": true }).to_string();
    for body in [envelope(1, &gzip(&subscribe)), envelope(0, subscribe.as_bytes())] {
        let request = http.post("Subscribe", "application/connect+json", body);
        let mut stream = JsonStream::read(sent(request.header("connect-content-encoding", "gzip")).await);
        assert_eq!(stream.frame("message").await["payload"], base64("x"));
    }
    // a message without fields is empty, and may be marked all the same
    let request = http.post("ListRooms", "application/proto", "").header("content-encoding", "gzip");
    assert_eq!(sent(request).await.status(), 200);

    let grpc_web = http.post("GetRoom", "application/grpc-web+proto", envelope(1, &encoded));
    let answered = sent(grpc_web.header("grpc-encoding", "gzip")).await.bytes().await.unwrap();
    let (_, message) = taken(&mut BytesMut::from(&*answered)).unwrap();
    assert_eq!(GetRoomResponse::decode(message).unwrap().room.unwrap().room_id, "lobby");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_compressed_messages_publishes_in_order() {
    // Goal: compression is by message. Method: messages on one stream, compressed and plain in turn, in JSON and in protobuf; each
    // is stored, and answered in order.
    let (lobby, _client) = Lobby::open().await;
    for kind in ["json", "proto"] {
        let kind = format!("application/connect+{kind}");
        let gzipped = [("connect-content-encoding", "gzip")];
        let mut stream = BothWays::open_with(lobby.unibus.address(), "PublishStream", &kind, &gzipped).await;
        for id in 1..=20_u64 {
            let json =
                json!({ "correlationId": id.to_string(), "publish": { "roomId": "lobby", "payload": base64("x") } });
            let publish = unibus::v1::PublishRequest {
                room_id: "lobby".into(),
                payload: "x".into(),
                ..unibus::v1::PublishRequest::default()
            };
            let proto = PublishStreamRequest { correlation_id: id, publish: Some(publish), ..Default::default() };
            let message = if kind.ends_with("json") { json.to_string().into_bytes() } else { proto.encode_to_vec() };
            let message = if id % 2 == 0 { envelope(1, &gzip(message)) } else { envelope(0, &message) };
            stream.send_bytes(message).await;
        }
        for id in 1..=20_u64 {
            let answered = stream.next_bytes().await;
            let found = if kind.ends_with("json") {
                let json: Value = serde_json::from_slice(&answered).unwrap();
                json["correlationId"].as_str().unwrap().parse().unwrap()
            } else {
                unibus::v1::PublishStreamResponse::decode(answered).unwrap().correlation_id
            };
            assert_eq!(found, id, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_compressed_where_it_pays() {
    // Goal: who takes gzip gets it, if it saves anything. Method: a large and a small answer, one that does not become smaller,
    // and an error, for clients that take gzip and clients that do not; a stream with a large and a small message, and one
    // beyond the bound, in JSON and in protobuf.
    let (lobby, client) = Lobby::open().await;
    publish(&client, "lobby", vec![b'a'; 20_000]).await.unwrap();
    let http = Connect::to(lobby.unibus.address());
    let page = json!({ "roomId": "lobby" }).to_string();
    let asked = async |method: &str, kind: &str, accepts: &str, body: Vec<u8>| {
        sent(http.post(method, kind, body).header("accept-encoding", accepts)).await
    };
    for (accepts, is_compressed) in [("gzip", true), ("br, gzip;q=0.5", true), ("gzip;q=0", false), ("identity", false)]
    {
        let answered = asked("History", "application/json", accepts, page.clone().into()).await;
        assert_eq!(text(answered.headers(), "content-encoding"), is_compressed.then_some("gzip"), "{accepts}");
        let body = answered.bytes().await.unwrap();
        assert_eq!(body.len() < 1000, is_compressed, "{accepts}");
        let body = if is_compressed { inflated(&body) } else { body.to_vec() };
        let found: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(found["messages"][0]["payload"], base64(vec![b'a'; 20_000]));
    }
    for (method, body) in [("GetRoom", page.clone()), ("GetRoom", json!({ "roomId": "nowhere" }).to_string())] {
        let plain = asked(method, "application/json", "gzip", body.into()).await;
        assert_eq!(text(plain.headers(), "content-encoding"), None);
    }
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(20_000).collect();
    publish(&client, "lobby", noise.clone()).await.unwrap();
    create_room(&client, "noise").await;
    publish(&client, "noise", noise).await.unwrap();
    let newest = unibus::v1::HistoryRequest { room_id: "noise".into(), ..Default::default() };
    let plain = asked("History", "application/proto", "gzip", newest.encode_to_vec()).await;
    assert_eq!(text(plain.headers(), "content-encoding"), None);

    publish(&client, "lobby", "small").await.unwrap();
    publish(&client, "lobby", vec![b'b'; 100_000]).await.unwrap();
    let json = json!({ "roomId": "lobby", "untilCaughtUp": true }).to_string().into_bytes();
    let proto = unibus::v1::SubscribeRequest { room_id: "lobby".into(), until_caught_up: true, ..Default::default() };
    for (codec, body) in [("json", json), ("proto", proto.encode_to_vec())] {
        let request = http.post("Subscribe", &format!("application/connect+{codec}"), envelope(0, &body));
        let answered = sent(request.header("connect-accept-encoding", "gzip")).await;
        assert_eq!(text(answered.headers(), "connect-content-encoding"), Some("gzip"));
        let messages = messages(answered).await;
        let flags: Vec<_> = messages.iter().map(|(flags, _)| *flags).collect();
        // base64 of noise becomes smaller, noise does not
        let of_noise = u8::from(codec == "json");
        assert_eq!(flags, [0, 1, of_noise, 0, 0, 0, 2], "{codec}");
        assert!(messages[1].1.len() > 20_000 && messages[4].1.len() > 100_000, "{codec}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_compressions_are_refused_and_the_known_one_is_named() {
    // Goal: a client finds out what it may use. Method: other compressions in each protocol, with an answer that lists gzip; flags
    // of compression without a header that names one.
    let (lobby, _client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    for other in ["br", "zstd", "GZIP", "gzip, gzip"] {
        let refused = sent(http.post("GetRoom", "application/json", "{}").header("content-encoding", other)).await;
        assert_eq!(text(refused.headers(), "accept-encoding"), Some("gzip,identity"), "{other}");
        let failure = answer(refused).await.unwrap_err();
        assert_eq!((failure.status, &*failure.code, &*failure.reason), (501, UNSUPPORTED.0, UNSUPPORTED.1), "{other}");
        let request = http.post("Subscribe", "application/connect+json", envelope(0, b"{}"));
        let refused = sent(request.header("connect-content-encoding", other)).await;
        assert_eq!(text(refused.headers(), "connect-accept-encoding"), Some("gzip,identity"), "{other}");
        assert_eq!(JsonStream::read(refused).failure().await.brief(), (200, UNSUPPORTED.0, UNSUPPORTED.1), "{other}");
        let request = http.post("GetRoom", "application/grpc-web+proto", envelope(0, b""));
        let refused = sent(request.header("grpc-encoding", other)).await;
        assert_eq!(text(refused.headers(), "grpc-status"), Some("12"), "{other}");
        assert_eq!(text(refused.headers(), "grpc-accept-encoding"), Some("gzip,identity"), "{other}");
        assert!(refused.headers().contains_key("grpc-status-details-bin"));
    }
    let compressed = envelope(1, &gzip(json!({ "roomId": "lobby" }).to_string()));
    let mut stream = JsonStream::read(sent(http.post("Subscribe", "application/connect+json", compressed)).await);
    assert_eq!(stream.failure().await.reason, "REQUEST_MALFORMED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_inflates_beyond_its_bounds_is_refused() {
    // Goal: compression is no way around a bound. Method: bombs of 60 MiB that say so, that say less and that say nothing true,
    // and damaged bytes, to calls with small and large messages and on streams; thirty that inflate to nearly what may be, from
    // one caller, at the same time; the process stays small, and another caller's publishes go on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let http = Connect::to(service.address()).with_token(&issuer.token("greedy"));
    let bomb = gzip(vec![b' '; 60 * MEBIBYTE]);
    let lying = |bytes: u32| [&bomb[..bomb.len() - 4], &bytes.to_le_bytes()].concat();
    let too_large = (400, "invalid_argument", "PAYLOAD_TOO_LARGE");
    for (method, body, expected) in [
        ("GetRoom", bomb.clone(), (429, "resource_exhausted", "LIMIT_REACHED")),
        ("Publish", bomb.clone(), too_large),
        ("PublishBatch", bomb.clone(), too_large),
        ("GetRoom", lying(1000), MALFORMED),
        ("Publish", lying(2_000_000), MALFORMED),
        ("Publish", gzip(vec![b' '; 100_000])[..60].to_vec(), MALFORMED),
        ("Publish", lying(0), MALFORMED),
        ("Publish", b"no gzip".to_vec(), MALFORMED),
        ("GetRoom", gzip("no JSON"), MALFORMED),
        ("Publish", gzip("[".repeat(1_000_000)), MALFORMED),
    ] {
        let request = http.post(method, "application/json", body.clone()).header("content-encoding", "gzip");
        assert_eq!(answer(sent(request).await).await.unwrap_err().brief(), expected, "{method} {}", body.len());
        let kind = if method == "Publish" { "PublishStream" } else { "Subscribe" };
        if kind == "Subscribe" && method == "GetRoom" {
            let request = http.post(kind, "application/connect+json", envelope(1, &body));
            let mut stream = JsonStream::read(sent(request.header("connect-content-encoding", "gzip")).await);
            assert_eq!(stream.failure().await.reason, expected.2);
        }
    }
    let large = gzip(vec![0; 8 * MEBIBYTE]);
    let calls = (0..30).map(|_| async {
        let request = http.post("PublishBatch", "application/proto", large.clone()).header("content-encoding", "gzip");
        // one after the other, which takes a busy machine a while
        let answered = timeout(Duration::from_secs(120), request.send()).await.expect("an answer in time");
        answer(answered.unwrap()).await.unwrap_err()
    });
    let (failures, ()) =
        tokio::join!(join_all(calls), assert_bounded(&service, before, Duration::from_secs(5), 100 * MEBIBYTE as u64));
    let others: Vec<_> = failures.iter().map(Failure::brief).filter(|failure| *failure != MALFORMED).collect();
    assert!(others.is_empty(), "{others:?}");
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_compressed_publishes_at_once_are_all_stored() {
    // Goal: the bounds refuse nobody honest. Method: 60 large publishes at the same time, compressed, of payloads that
    // become much smaller and of ones that do not.
    let (lobby, _client) = Lobby::open().await;
    let http = Connect::to(lobby.unibus.address());
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(900_000).collect();
    let bodies = [vec![7; 900_000], noise]
        .map(|payload| gzip(json!({ "roomId": "lobby", "payload": base64(payload) }).to_string()));
    let calls = (0..60).map(|number| {
        let request = http.post("Publish", "application/json", bodies[number % 2].clone());
        async { answer(sent(request.header("content-encoding", "gzip")).await).await }
    });
    let stored = join_all(calls).await;
    let failed: Vec<_> = stored.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
