//! One stalled reader among 100 subscribers: whether it slows the others down.
//!
//! Ours: a room with 99 durable subscribers that read, and one that never reads after its subscription has opened. The
//! stalled one has its own connection with a window of 64 KiB. Baseline: a room of the same service with only the 99.
//! The load is the closed loop of `fan_out.rs` over the 99. The warm-up sends far more than the window of the stalled
//! subscriber.

use std::sync::Arc;

use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use tonic::{Request, Streaming, client::Grpc, transport::Endpoint};
use unibus::v1::{AckMode, Start, SubscribeRequest, start::At};

use super::fan_out::{Publish, looped};
use crate::{
    client::{self, PAYLOAD_BYTES},
    crowd::Crowd,
    measure::{Scale, Side, Turn, in_turns},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
    wire::{Counting, Frame},
};

const CONNECTIONS: usize = 4;
const OTHERS: usize = 99;
const WINDOW: u64 = 2048;
/// HTTP/2's own default, the smallest that a client is likely to have.
const STALLED_WINDOW_BYTES: u32 = 65_535;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Interval).await?;
    let context = native::connect(&stand.nats).await?;
    let control = client::channel(stand.service.url()).await?;
    let channels = client::channels(stand.service.url(), CONNECTIONS).await?;
    let mut sides = Vec::new();
    for (name, room) in [("unibus", "with"), ("without the stalled one", "without")] {
        client::create_room(&control, room).await?;
        let crowd = Arc::new(Crowd::open(&channels, room, OTHERS, true).await?);
        let (stream, subject) = (client::stream_name(room), client::subject(room));
        let publish = Publish::natively(&context, &stream, &subject, &client::payload(PAYLOAD_BYTES));
        let turn = move || {
            let (crowd, publish) = (Arc::clone(&crowd), publish.clone());
            async move {
                let (messages, elapsed) = looped(&crowd, &publish, scale.turn, WINDOW).await?;
                Ok(Turn::rate(messages * OTHERS as u64, elapsed))
            }
        };
        sides.push(Side::new(name, &stand.ours(), turn));
    }
    let stalled = stall(stand.service.url(), "with").await?;
    let sides: [Side; 2] = sides.try_into().ok().context("two sides")?;
    let [with, without] = in_turns(&scale, sides).await?;
    drop(stalled);

    let claim = format!("deliveries to {OTHERS} beside a stalled one");
    let mut outcome = Outcome::default();
    outcome.spent(&claim, &[&with, &without]);
    let beside = ("without the stalled one", without.figure("rate")?);
    let line = Line::new(claim, Unit::PerSecond, with.figure("rate")?, beside);
    outcome.lines.push(line.reach(Reach::AtLeast(0.95)));
    Ok(outcome)
}

/// A subscription that stands and is read no further.
async fn stall(url: &str, room: &str) -> Result<Streaming<Frame>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?
        .initial_stream_window_size(STALLED_WINDOW_BYTES)
        .initial_connection_window_size(STALLED_WINDOW_BYTES);
    let mut client = Grpc::new(endpoint.connect().await?);
    client.ready().await?;
    let request = SubscribeRequest {
        room_id: room.to_owned(),
        subscriber: "stalled".to_owned(),
        ack_mode: AckMode::Auto.into(),
        start: Some(Start { at: Some(At::New(())) }),
        ..SubscribeRequest::default()
    };
    let path = PathAndQuery::from_static("/unibus.v1.RoomService/Subscribe");
    let mut frames = client.server_streaming(Request::new(request), path, Counting).await?.into_inner();
    while frames.message().await?.context("a subscription that ended")? != Frame::CaughtUp {}
    Ok(frames)
}
