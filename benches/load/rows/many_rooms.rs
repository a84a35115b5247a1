//! The publish rate over many rooms, 256 B: whether rooms cost the service more than their streams cost NATS.
//!
//! Ours: `PublishStream` on 4 streams and 4 connections. Each stream goes from room to room, and 256 messages are under
//! way in total. Baseline: async-nats publishes to the subjects of the same rooms, with 256 messages under way on 4
//! connections.
//!
//! The claim is that the ratio stays the same. So the last lines divide the ratio at many rooms by the ratio at one
//! room.

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::publish_stream::Load;
use crate::{
    client::{self, PAYLOAD_BYTES},
    measure::{Scale, Side, in_turns},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const CONNECTIONS: usize = 4;
const WINDOW: usize = 256;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let scale = scale.rounds(3);
    let stand = Stand::start(Disk::Interval).await?;
    let connections = native::connections(&stand.nats, CONNECTIONS).await?;
    let mut outcome = Outcome::default();
    if !client::has_publish_stream(&client::channel(stand.service.url()).await?).await? {
        outcome.lines.push(Line::missing("PublishStream over many rooms", "not available: UNIMPLEMENTED"));
        return Ok(outcome);
    }
    let clients = client::clients(stand.service.url(), CONNECTIONS).await?;
    let mut rooms: Vec<String> = Vec::new();
    let mut ratios: Vec<(usize, f64)> = Vec::new();
    for count in scale.pick([1, 1000, 5000], [1, 20, 50]) {
        let more: Vec<String> = (rooms.len()..count).map(|number| format!("room-{number}").replace('-', "_")).collect();
        create(stand.service.url(), &more).await?;
        rooms.extend(more);
        let load = Load::new(&rooms, client::payload(PAYLOAD_BYTES), CONNECTIONS, WINDOW, scale.turn);
        let sides = [
            Side::new("unibus", &stand.ours(), load.streamed(clients.clone())),
            Side::new("async-nats publish", &stand.direct(), load.direct(connections.clone())),
        ];
        let [ours, direct] = in_turns(&scale, sides).await?;
        let claim = format!("PublishStream over {count} rooms, window {WINDOW}");
        outcome.spent(&claim, &[&ours, &direct]);
        let direct = ("async-nats publish", direct.figure("rate")?);
        let line = Line::new(claim, Unit::PerSecond, ours.figure("rate")?, direct);
        ratios.extend(line.ratio.map(|ratio| (count, ratio)));
        outcome.lines.push(line);
    }
    if let Some((_, one)) = ratios.first().copied() {
        for (count, ratio) in ratios.into_iter().skip(1) {
            let claim = format!("that ratio over {count} rooms beside over one");
            let line = Line::new(claim, Unit::Ratio, vec![ratio], ("the ratio over one room", vec![one]));
            outcome.lines.push(line.reach(Reach::AtLeast(0.8)));
        }
    }
    Ok(outcome)
}

/// Creates rooms, several at a time.
pub(crate) async fn create(url: &str, rooms: &[String]) -> Result<()> {
    let channel = client::channel(url).await?;
    let created = stream::iter(rooms).map(|room| client::create_room(&channel, room));
    created.buffer_unordered(16).try_collect::<()>().await
}
