//! The start of the service with its embedded nats-server, on an empty directory.
//!
//! Ours: the time from the start of the process until its log reports that it listens. Baseline: the time until
//! nats-server alone, with an empty store, answers a JetStream request.

use std::time::Instant;

use anyhow::Result;

use crate::{
    measure::{Scale, Side, Turn, in_turns},
    processes::{Disk, Nats, Service},
    report::{Line, Outcome, Unit},
};

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let ours = || async {
        let started = Instant::now();
        let service = Service::embedded().await?;
        let turn = Turn::times(vec![started.elapsed()]);
        service.stop().await?;
        turn
    };
    let alone = || async {
        let started = Instant::now();
        let nats = Nats::start(Disk::Always).await?;
        let turn = Turn::times(vec![started.elapsed()]);
        drop(nats);
        turn
    };
    let [ours, alone] =
        in_turns(&scale, [Side::new("unibus", &[], ours), Side::new("nats-server", &[], alone)]).await?;
    let beside = ("nats-server alone", alone.figure("p50")?);
    let line = Line::new("start on an empty directory", Unit::Seconds, ours.figure("p50")?, beside);
    Ok(Outcome { lines: vec![line], ..Outcome::default() })
}
