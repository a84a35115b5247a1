//! One message to the last of 1000 subscribers, each on a connection of its own, 256 B. This is a closed loop: the next
//! message is published when the one before has reached every subscriber, at most 20 a second.
//!
//! Ours: subscriptions without a name, as the baselines have no position either. A native peer publishes to the room's
//! subject with core NATS. Baselines: subscribers of core NATS, without a stream; and subscribers of the bare server,
//! which follows a subject of core NATS and broadcasts.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use super::fan_out::Publish;
use crate::{
    client::{self, PAYLOAD_BYTES},
    crowd::Crowd,
    measure::{Scale, Side, Turn, in_turns},
    native,
    processes::{Baseline, Disk, Nats, Service},
    report::{Line, Outcome, Reach, Unit},
};

const ROOM: &str = "own";
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let scale = scale.rounds(3);
    let size = scale.pick(1000, 50);
    let nats = Nats::start(Disk::Interval).await?;
    let service = Service::with_nats(&nats).await?;
    let feeder = Baseline::fed(&nats, "fed").await?;
    let context = native::connect(&nats).await?;
    client::create_room(&client::channel(service.url()).await?, ROOM).await?;
    let ours = Crowd::open(&client::channels(service.url(), size).await?, ROOM, size, false).await?;
    let fed = Crowd::open(&client::channels(feeder.url(), size).await?, ROOM, size, false).await?;
    let core = Crowd::core(&native::connections(&nats, size).await?, "core").await?;
    let payload = client::payload(PAYLOAD_BYTES);
    let turns = |crowd: Crowd, subject: &str| {
        let publish = Publish::natively(&context, "", subject, &payload);
        let crowd = Arc::new(crowd);
        move || {
            let (crowd, publish) = (Arc::clone(&crowd), publish.clone());
            async move {
                let count = scale.pick(60, 5);
                let mut turn = Turn::times(crowd.one_by_one(count, PAUSE, |count| publish.messages(count)).await?)?;
                turn.messages *= crowd.len() as u64;
                Ok(turn)
            }
        }
    };
    let sides = [
        Side::new("unibus", &[("service", service.id()), ("nats", nats.id())], turns(ours, &client::subject(ROOM))),
        Side::new("NATS core subscribers", &[("nats", nats.id())], turns(core, "core")),
        Side::new("bare tonic fed by NATS", &[("bare", feeder.id()), ("nats", nats.id())], turns(fed, "fed")),
    ];
    let [ours, core, fed] = in_turns(&scale, sides).await?;
    let what = format!("one live message to the last of {size}, each on its own connection");
    let mut outcome = Outcome::default();
    outcome.spent(&what, &[&ours, &core, &fed]);
    for quantile in ["p50", "p99"] {
        let claim = format!("{what}, {quantile}");
        let beside = |side: &crate::measure::Measured| {
            let baseline = (side.side, side.figure(quantile)?);
            anyhow::Ok(Line::new(&claim, Unit::Seconds, ours.figure(quantile)?, baseline))
        };
        let line = beside(&core)?;
        outcome.lines.push(if quantile == "p50" { line.reach(Reach::AtMost(1.3)) } else { line });
        outcome.lines.push(beside(&fed)?);
    }
    Ok(outcome)
}
