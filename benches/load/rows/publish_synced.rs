//! Publishing on a nats-server that syncs every write before it acknowledges it, 256 B.
//!
//! Many messages under way: `PublishStream` on one stream with a window, and 256 callers of unary Publish on 4
//! connections. Each is compared with async-nats, which publishes to the same room with the same number of messages
//! under way.
//!
//! One message at a time, as in `publish_one.rs`.

use anyhow::Result;

use super::{CALLERS, publish_many::callers, publish_one, publish_stream};
use crate::{
    client::{self, PAYLOAD_BYTES},
    measure::{Scale, Side, in_turns},
    native,
    processes::{Disk, Stand},
    report::{Line, Outcome, Reach, Unit},
};

const WINDOW: usize = 1024;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let stand = Stand::start(Disk::Always).await?;
    let channel = client::channel(stand.service.url()).await?;
    client::create_room(&channel, "one").await?;
    let mut outcome = Outcome::default();

    let load =
        |window| publish_stream::Load::new(&["one".to_owned()], client::payload(PAYLOAD_BYTES), 1, window, scale.turn);
    let claim = format!("synced PublishStream, window {WINDOW}");
    if client::has_publish_stream(&channel).await? {
        let sides = [
            Side::new("unibus", &stand.ours(), load(WINDOW).streamed(client::clients(stand.service.url(), 1).await?)),
            Side::new(
                "async-nats publish",
                &stand.direct(),
                load(WINDOW).direct(native::connections(&stand.nats, 1).await?),
            ),
        ];
        let [ours, direct] = in_turns(&scale, sides).await?;
        outcome.spent(&claim, &[&ours, &direct]);
        let beside = ("async-nats publish", direct.figure("rate")?);
        let line = Line::new(claim, Unit::PerSecond, ours.figure("rate")?, beside);
        outcome.lines.push(line.reach(Reach::AtLeast(8.0)));
    } else {
        outcome.lines.push(Line::missing(claim, "not available: UNIMPLEMENTED"));
    }

    let sides = [
        Side::new("unibus", &stand.ours(), callers(stand.service.url(), vec!["one".to_owned()], scale).await?),
        Side::new(
            "async-nats publish",
            &stand.direct(),
            load(CALLERS).direct(native::connections(&stand.nats, 4).await?),
        ),
    ];
    let [ours, direct] = in_turns(&scale, sides).await?;
    let claim = format!("synced Publish, {CALLERS} under way on 4 connections");
    outcome.spent(&claim, &[&ours, &direct]);
    let beside = ("async-nats publish", direct.figure("rate")?);
    outcome.lines.push(Line::new(claim, Unit::PerSecond, ours.figure("rate")?, beside).reach(Reach::AtLeast(4.0)));

    let alone = publish_one::compare(&stand, &scale, "synced Publish, one at a time, p50", 1.2).await?;
    outcome.extend(alone);
    Ok(outcome)
}
