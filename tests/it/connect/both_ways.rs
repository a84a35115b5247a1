//! Streams in both directions over HTTP/2: publishing and consuming in JSON.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use crate::support::{
    Lobby,
    connect::{Failure, base64, envelope, path, taken},
    create_room, publish,
};

/// A call of which both sides are streams.
pub(super) struct BothWays {
    requests: mpsc::Sender<Bytes>,
    response: Response<Incoming>,
    received: BytesMut,
}

impl BothWays {
    async fn open(address: SocketAddr, method: &str) -> Self {
        Self::open_with(address, method, "application/connect+json", &[]).await
    }

    /// With this content type and these header fields.
    pub(super) async fn open_with(
        address: SocketAddr,
        method: &str,
        kind: &str,
        fields: &[(&'static str, &str)],
    ) -> Self {
        let (requests, taken) = mpsc::channel(64);
        let body = ReceiverStream::new(taken).map(|bytes| Ok::<_, std::convert::Infallible>(Frame::data(bytes)));
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let request = Request::post(format!("http://{address}{}", path(method))).header("content-type", kind);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(StreamBody::new(body)).expect("a request");
        let response =
            timeout(Duration::from_secs(10), client.request(request)).await.expect("in time").expect("a head");
        assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_2));
        Self { requests, response, received: BytesMut::new() }
    }

    async fn send(&self, message: &Value) {
        self.send_bytes(envelope(0, message.to_string().as_bytes())).await;
    }

    pub(super) async fn send_bytes(&self, bytes: Vec<u8>) {
        self.requests.send(bytes.into()).await.expect("the call is open");
    }

    /// The next message, which is in JSON; at the end its error.
    async fn next(&mut self) -> Result<Value, Option<Failure>> {
        let (flags, message) = self.next_with_flags().await;
        let json: Value = serde_json::from_slice(&message).expect("JSON");
        if flags == 0 { Ok(json) } else { Err(json.get("error").map(|error| Failure::read(200, error))) }
    }

    /// The next message as it is; there is one.
    pub(super) async fn next_bytes(&mut self) -> Bytes {
        let (flags, message) = self.next_with_flags().await;
        assert_eq!(flags, 0, "{message:?}");
        message
    }

    async fn next_with_flags(&mut self) -> (u8, Bytes) {
        let next = async {
            loop {
                if let Some(taken) = taken(&mut self.received) {
                    return taken;
                }
                let frame = self.response.body_mut().frame().await.expect("a message").expect("a frame");
                self.received.extend_from_slice(&frame.into_data().expect("no trailers"));
            }
        };
        timeout(Duration::from_secs(10), next).await.expect("a message in time")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_stream_publishes_and_each_message_is_answered() {
    // Goal: JSON publishes at the rate of a stream. Method: messages on one stream, one of them to a room that does not exist,
    // one too large and one that is no message; each gets its answer in order, the last ends the call.
    let (lobby, _client) = Lobby::open().await;
    let mut stream = BothWays::open(lobby.unibus.address(), "PublishStream").await;
    let publish = |id: u64, room: &str, payload: String| json!({ "correlationId": id.to_string(), "publish": { "roomId": room, "payload": payload } });
    for id in 1..=20 {
        stream.send(&publish(id, "lobby", base64(id.to_string()))).await;
    }
    stream.send(&publish(21, "nowhere", String::new())).await;
    stream.send(&publish(22, "lobby", base64(vec![0; 3 * 1024 * 1024]))).await;
    for id in 1..=20_u64 {
        let answer = stream.next().await.unwrap();
        assert_eq!(
            (&answer["correlationId"], &answer["result"]["sequence"]),
            (&json!(id.to_string()), &json!(id.to_string()))
        );
    }
    let failed = stream.next().await.unwrap();
    assert_eq!((&failed["correlationId"], &failed["error"]["code"]), (&json!("21"), &json!(5)));
    assert_eq!(failed["error"]["details"][0]["reason"], "ROOM_NOT_FOUND");
    let large = stream.next().await.unwrap();
    assert_eq!((&large["correlationId"], &large["error"]["code"]), (&json!("22"), &json!(3)));
    assert_eq!(large["error"]["details"][0]["reason"], "PAYLOAD_TOO_LARGE");
    stream.send_bytes(envelope(0, b"[]")).await;
    let failure = stream.next().await.unwrap_err().expect("an error");
    assert_eq!(failure.brief(), (200, "invalid_argument", "REQUEST_MALFORMED"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_json_stream_consumes_many_rooms() {
    // Goal: one connection follows many rooms. Method: two rooms are opened on one stream, messages of both come, one is
    // acknowledged, one room is closed; then the client ends its side and the call ends.
    let (lobby, client) = Lobby::open().await;
    create_room(&client, "hall").await;
    let mut stream = BothWays::open(lobby.unibus.address(), "Consume").await;
    for room in ["lobby", "hall"] {
        let subscribe = json!({ "roomId": room, "subscriber": "laptop" });
        stream.send(&json!({ "open": { "subscribe": subscribe } })).await;
        publish(&client, room, room).await.unwrap();
    }
    let mut messages = Vec::new();
    while messages.len() < 2 {
        let frame = stream.next().await.unwrap();
        if frame.get("message").is_some() {
            messages.push((frame["roomId"].clone(), frame["message"]["payload"].clone()));
        }
    }
    messages.sort_by_key(|(room, _)| room.to_string());
    assert_eq!(messages, [(json!("hall"), json!(base64("hall"))), (json!("lobby"), json!(base64("lobby")))]);
    stream.send(&json!({ "ack": { "roomId": "lobby", "sequence": "1" } })).await;
    stream.send(&json!({ "close": { "roomId": "hall" } })).await;
    let (mut is_acked, mut is_closed) = (false, false);
    while !(is_acked && is_closed) {
        let frame = stream.next().await.unwrap();
        is_acked |= frame["acked"]["position"] == "1";
        is_closed |= frame.get("closed").is_some() && frame["roomId"] == "hall";
    }
}
