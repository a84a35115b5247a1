//! What JSON costs beside gRPC: the same calls to the same service in the Connect protocol, over HTTP/1.1.
//!
//! A call at a time: Publish of a 256 B payload, with the whole answer read. A stream: catch-up over a stored log of 256 B
//! messages. The generated client decodes every message; the JSON client finds every message by its prefix, and decodes
//! none. So the stream compares the service and the network, not the clients.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Buf, BytesMut};
use serde_json::json;
use unibus::v1::{SubscribeRequest, subscribe_response::Frame};

use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    measure::{Scale, Side, Turn, in_turns, one_at_a_time},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Unit},
};

const ROOM: &str = "json";
/// Bytes of the prefix of a message of a stream.
const PREFIX_BYTES: usize = 5;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Interval).await?;
    let channel = client::channel(stand.service.url()).await?;
    let mut outcome = Outcome::default();
    for room in ["one", ROOM] {
        client::create_room(&channel, room).await?;
    }
    calls(&stand, &scale, &mut outcome).await?;
    stream(&stand, &scale, &mut outcome).await?;
    Ok(outcome)
}

/// The URL of a method.
fn url(stand: &Stand, method: &str) -> String {
    format!("{}/unibus.v1.RoomService/{method}", stand.service.url())
}

async fn calls(stand: &Stand, scale: &Scale, outcome: &mut Outcome) -> Result<()> {
    let turn = scale.turn / 2;
    let payload = client::payload(PAYLOAD_BYTES);
    let (http, url) = (reqwest::Client::new(), url(stand, "Publish"));
    let body = json!({ "roomId": "one", "payload": BASE64_STANDARD.encode(&payload) }).to_string();
    let in_json = move || {
        let (http, url, body) = (http.clone(), url.clone(), body.clone());
        one_at_a_time(turn, move || {
            let request = http.post(&url).header("content-type", "application/json").body(body.clone());
            async move {
                let answer = request.send().await?;
                ensure!(answer.status().is_success(), "{}", answer.status());
                answer.bytes().await?;
                Ok(())
            }
        })
    };
    let (message, service) =
        (client::message("one", &payload), Client::new(client::channel(stand.service.url()).await?));
    let over_grpc = move || {
        let (message, service) = (message.clone(), service.clone());
        one_at_a_time(turn, move || {
            let (mut service, message) = (service.clone(), message.clone());
            async move { client::publish(&mut service, message).await }
        })
    };
    let sides = [Side::new("JSON", &stand.ours(), in_json), Side::new("gRPC", &stand.ours(), over_grpc)];
    let [in_json, over_grpc] = in_turns(scale, sides).await?;
    let claim = "Publish in JSON, one call at a time, p50";
    outcome.spent(claim, &[&in_json, &over_grpc]);
    outcome.lines.push(Line::new(claim, Unit::Seconds, in_json.figure("p50")?, ("gRPC", over_grpc.figure("p50")?)));
    Ok(())
}

async fn stream(stand: &Stand, scale: &Scale, outcome: &mut Outcome) -> Result<()> {
    let messages = scale.pick(100_000, 5000);
    let context = native::connect(&stand.nats).await?;
    native::fill(&context, &client::subject(ROOM), &client::payload(PAYLOAD_BYTES), messages).await?;
    let (http, url) = (reqwest::Client::new(), url(stand, "Subscribe"));
    let in_json = move || subscribe_in_json(http.clone(), url.clone(), messages);
    let service = Client::new(client::channel(stand.service.url()).await?);
    let over_grpc = move || subscribe(service.clone(), messages);
    let sides = [Side::new("JSON", &stand.ours(), in_json), Side::new("gRPC", &stand.ours(), over_grpc)];
    let [in_json, over_grpc] = in_turns(scale, sides).await?;
    let claim = format!("catch-up over {messages} messages in JSON");
    outcome.spent(&claim, &[&in_json, &over_grpc]);
    outcome.lines.push(Line::new(claim, Unit::PerSecond, in_json.figure("rate")?, ("gRPC", over_grpc.figure("rate")?)));
    Ok(())
}

async fn subscribe_in_json(http: reqwest::Client, url: String, messages: u64) -> Result<Turn> {
    let started = Instant::now();
    let request = json!({ "roomId": ROOM, "untilCaughtUp": true }).to_string();
    let length = u32::try_from(request.len())?.to_be_bytes();
    let body = [&[0], &length[..], request.as_bytes()].concat();
    let mut answer = http.post(url).header("content-type", "application/connect+json").body(body).send().await?;
    let (mut received, mut count) = (BytesMut::new(), 0);
    while let Some(chunk) = answer.chunk().await? {
        received.extend_from_slice(&chunk);
        while let Some([_, length @ ..]) = received.first_chunk::<PREFIX_BYTES>() {
            let end = PREFIX_BYTES + usize::try_from(u32::from_be_bytes(*length))?;
            if received.len() < end {
                break;
            }
            let message = received.get(PREFIX_BYTES..end).context("a whole message")?;
            count += u64::from(message.starts_with(b"{\"message\""));
            received.advance(end);
        }
    }
    ensure!(count == messages, "{count} messages instead of {messages}");
    Ok(Turn::rate(messages, started.elapsed()))
}

async fn subscribe(mut client: Client, messages: u64) -> Result<Turn> {
    let started = Instant::now();
    let request = SubscribeRequest { room_id: ROOM.to_owned(), until_caught_up: true, ..SubscribeRequest::default() };
    let mut frames = client.subscribe(request).await?.into_inner();
    let mut count = 0;
    while let Some(frame) = frames.message().await? {
        count += u64::from(matches!(frame.frame, Some(Frame::Message(_))));
    }
    ensure!(count == messages, "{count} messages instead of {messages}");
    Ok(Turn::rate(messages, started.elapsed()))
}
