//! 1,000 to 10,000,000 messages of 64 B in one room. A native peer stores them with fast ingest. Nobody is subscribed.
//! Opening a subscription must not grow with the length of the room.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use unibus::v1::HistoryRequest;

use super::{Allowed, Axis, probe};
use crate::{
    client::{self, Client},
    ingest, native,
    processes::{Disk, Nats, Service},
    report::Unit,
};

const ROOM: &str = "long";
const BYTES: usize = 64;
const WINDOW: u64 = 2000;

pub(super) async fn measure(quick: bool) -> Result<Axis> {
    let sizes: &[u64] = if quick { &[1000, 10_000] } else { &[1000, 10_000, 100_000, 1_000_000, 10_000_000] };
    let calls = if quick { 3 } else { 40 };
    let mut axis = Axis::new("messages", sizes);
    let nats = Nats::start(Disk::Interval).await?;
    let mut service = Service::with_nats(&nats).await?;
    client::create_room(&client::channel(service.url()).await?, ROOM).await?;
    let context = native::connect(&nats).await?;
    let (stream, subject, payload) = (client::stream_name(ROOM), client::subject(ROOM), client::payload(BYTES));
    ingest::allow(&context, &stream).await?;
    for size in sizes.iter().copied() {
        let missing = size.saturating_sub(native::last_sequence(&context, &stream).await?);
        if missing > 0 {
            ingest::batch(&context, &subject, &payload, (Duration::from_secs(600), missing), WINDOW).await?;
        }
        service = probe::restart(&mut axis, size, &nats, service).await?;
        let client = Client::new(client::channel(service.url()).await?);
        let times = probe::timed(calls, || probe::publish(&client, ROOM, &payload)).await?;
        axis.add(size, "Publish", Unit::Seconds, times);
        probe::opens(&mut axis, size, calls, &client, ROOM).await?;
        let first = || probe::open(&client, ROOM, String::new(), probe::From::Beginning);
        let what = ("the first message of a subscription from the beginning", Unit::Seconds, Allowed::Flat);
        axis.add_as(size, what, probe::timed(calls, first).await?);
        let page = || {
            let (mut client, request) =
                (client.clone(), HistoryRequest { room_id: ROOM.to_owned(), limit: 200, anchor: None });
            async move { probe::time(async { Ok(client.history(request).await?) }).await }
        };
        let what = ("History of the newest 200", Unit::Seconds, Allowed::Flat);
        axis.add_as(size, what, probe::timed(calls, page).await?);
        probe::lookups(&mut axis, size, calls, &client, ROOM).await?;
        let history = context.get_stream(&stream).await?;
        for (what, config) in consumers() {
            let create = || probe::time(async { Ok(history.create_consumer(config.clone()).await?) });
            axis.add(size, what, Unit::Seconds, probe::timed(calls, create).await?);
        }
        probe::memory(&mut axis, size, "after these calls", &nats, &service)?;
    }
    Ok(axis)
}

/// Consumers of NATS alone, like those of the service, to show which part of an opening is theirs.
fn consumers() -> [(&'static str, pull::Config); 2] {
    let beginning = pull::Config {
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::None,
        memory_storage: true,
        inactive_threshold: Duration::from_secs(1),
        ..pull::Config::default()
    };
    let new = pull::Config { deliver_policy: DeliverPolicy::New, ..beginning.clone() };
    [("NATS alone: a new consumer from the beginning", beginning), ("NATS alone: a new consumer at the end", new)]
}
