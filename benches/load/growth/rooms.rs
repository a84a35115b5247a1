//! 10 to 10,000 rooms. Calls go to the first room. Every room has been published to once.

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Axis, probe};
use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    processes::{Disk, Nats, Service},
    report::Unit,
    rows::create_rooms,
};

pub(super) async fn measure(quick: bool) -> Result<Axis> {
    let sizes: &[u64] = if quick { &[10, 20] } else { &[10, 100, 1000, 10_000] };
    let calls = if quick { 3 } else { 40 };
    let mut axis = Axis::new("rooms", sizes);
    let nats = Nats::start(Disk::Interval).await?;
    let mut service = Service::with_nats(&nats).await?;
    let payload = client::payload(PAYLOAD_BYTES);
    let mut rooms: Vec<String> = Vec::new();
    for size in sizes.iter().copied() {
        let more: Vec<_> = (rooms.len() as u64..size).map(|number| format!("room_{number}")).collect();
        create_rooms(service.url(), &more).await?;
        rooms.extend(more);
        service = probe::restart(&mut axis, size, &nats, service).await?;
        let client = Client::new(client::channel(service.url()).await?);
        let first = rooms.first().context("a room")?;
        // the first publish into a room after a start is a call of its own kind
        let unused = std::sync::Mutex::new(rooms.iter().rev());
        let publish = || {
            let room = unused.lock().ok().and_then(|mut unused| unused.next());
            let (client, payload) = (&client, &payload);
            async move { probe::publish(client, room.unwrap_or(first), payload).await }
        };
        axis.add(size, "the first Publish into a room", Unit::Seconds, probe::timed(2, publish).await?);
        let all = stream::iter(&rooms).map(|room| probe::publish(&client, room, &payload));
        all.buffer_unordered(64).try_for_each(async |_| Ok(())).await?;
        let times = probe::timed(calls * 5, || probe::publish(&client, first, &payload)).await?;
        axis.add(size, "Publish", Unit::Seconds, times);
        probe::opens(&mut axis, size, calls, &client, first).await?;
        probe::lookups(&mut axis, size, calls, &client, first).await?;
        probe::memory(&mut axis, size, "after a publish into each", &nats, &service)?;
    }
    Ok(axis)
}
