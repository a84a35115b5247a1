//! 1 to 10,000 durable subscribers of one room with `ACK_MODE_AUTO`, all open, on 8 connections. A timed publish begins
//! when every subscriber has the message before.

use anyhow::{Context, Result};

use super::{Axis, probe};
use crate::{
    client::{self, Client, PAYLOAD_BYTES},
    crowd::Crowd,
    processes::{Disk, Nats, Service},
    report::Unit,
};

const ROOM: &str = "crowded";
const CONNECTIONS: usize = 8;

pub(super) async fn measure(quick: bool) -> Result<Axis> {
    let sizes: &[u64] = if quick { &[1, 10] } else { &[1, 10, 100, 1000, 10_000] };
    let calls = if quick { 3 } else { 20 };
    let mut axis = Axis::new("subscribers", sizes);
    let nats = Nats::start(Disk::Interval).await?;
    let mut service = Service::with_nats(&nats).await?;
    client::create_room(&client::channel(service.url()).await?, ROOM).await?;
    let payload = client::payload(PAYLOAD_BYTES);
    for size in sizes.iter().copied() {
        let channels = client::channels(service.url(), CONNECTIONS).await?;
        let client = Client::new(client::channel(service.url()).await?);
        let started = std::time::Instant::now();
        let crowd = Crowd::open(&channels, ROOM, usize::try_from(size)?, true).await?;
        axis.add(size, "opening all", Unit::Seconds, vec![started.elapsed().as_secs_f64()]);
        let publish = || {
            let before = crowd.count();
            let (client, payload, crowd) = (&client, &payload, &crowd);
            async move {
                let time = probe::publish(client, ROOM, payload).await?;
                crowd.received(&before, 1).await?;
                Ok(time)
            }
        };
        axis.add(size, "Publish", Unit::Seconds, probe::timed(calls, publish).await?);
        let deliver = || async {
            let before = crowd.count();
            probe::time(async {
                probe::publish(&client, ROOM, &payload).await?;
                crowd.received(&before, 1).await
            })
            .await
        };
        axis.add(size, "Publish until all have it", Unit::Seconds, probe::timed(calls, deliver).await?);
        probe::memory(&mut axis, size, "with all open", &nats, &service)?;
        probe::opens(&mut axis, size, calls, &client, ROOM).await?;
        probe::lookups(&mut axis, size, calls, &client, ROOM).await?;
        drop((crowd, channels, client));
        service = probe::restart(&mut axis, size, &nats, service).await?;
    }
    let last = axis.sizes.last().copied().context("a size")?;
    anyhow::ensure!(last > 1, "one size only");
    Ok(axis)
}
