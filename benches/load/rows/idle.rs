//! Idle subscriptions: 10,000 over 1,000 rooms on one instance, without a single message.
//!
//! Ours: subscriptions without a durable name, 10 in each room, on 8 connections, with the default heartbeats of the
//! service. Memory is the growth of the service's resident set while they open, divided by their number. CPU is the
//! service's share of a core afterwards.
//!
//! Baseline: the same number of open streams of the bare server on the same number of connections, each with a receiver
//! of the broadcast.
//!
//! Each round has new processes. CPU is read over two spans of a round.

use std::time::Duration;

use anyhow::Result;
use tokio::time;

use super::many_rooms;
use crate::{
    client,
    crowd::Crowd,
    measure::{Scale, busy_percent, resident_bytes},
    processes::{Baseline, Disk, Nats, Service},
    report::{Line, Outcome, Reach, Unit},
};

const CONNECTIONS: usize = 8;
const SPANS: usize = 2;

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let scale = scale.rounds(2);
    let (rooms, each) = scale.pick((1000, 10), (20, 10));
    let rooms: Vec<String> = (0..rooms).map(|number| format!("room_{number}")).collect();
    let subscriptions: Vec<String> = rooms.iter().cycle().take(rooms.len() * each).cloned().collect();
    let [mut ours, mut bare, mut nats] = [Idle::default(), Idle::default(), Idle::default()];
    for _ in 0..scale.rounds {
        let server = Nats::start(Disk::Interval).await?;
        let service = Service::with_nats(&server).await?;
        many_rooms::create(service.url(), &rooms).await?;
        let pids = [service.id(), server.id()];
        let [first, second] = look(&scale, service.url(), &subscriptions, pids).await?;
        ours.add(first);
        nats.add(second);
        drop((service, server));
        let server = Baseline::start().await?;
        let [first] = look(&scale, server.url(), &subscriptions, [server.id()]).await?;
        bare.add(first);
    }
    let claim = format!("{} idle subscriptions over {} rooms", subscriptions.len(), rooms.len());
    let streams = "bare tonic streams";
    let lines = vec![
        Line::new(format!("{claim}, memory each"), Unit::Bytes, ours.bytes, (streams, bare.bytes))
            .reach(Reach::AtMost(1.5)),
        Line::new(format!("{claim}, CPU"), Unit::Percent, ours.percent, (streams, bare.percent))
            .reach(Reach::Below(2.0)),
        Line::alone(format!("{claim}, memory of nats-server each"), Unit::Bytes, nats.bytes),
        Line::alone(format!("{claim}, CPU of nats-server"), Unit::Percent, nats.percent),
    ];
    Ok(Outcome { lines, ..Outcome::default() })
}

/// The resources that a process needs for idle subscriptions.
#[derive(Clone, Debug, Default)]
struct Idle {
    bytes: Vec<f64>,
    percent: Vec<f64>,
}

impl Idle {
    fn add(&mut self, other: Self) {
        self.bytes.extend(other.bytes);
        self.percent.extend(other.percent);
    }
}

/// Opens the subscriptions and looks at these processes.
async fn look<const N: usize>(scale: &Scale, url: &str, rooms: &[String], processes: [u32; N]) -> Result<[Idle; N]> {
    let settle = scale.pick(Duration::from_secs(3), Duration::from_millis(300));
    let span = scale.pick(Duration::from_secs(10), Duration::from_secs(1));
    let channels = client::channels(url, CONNECTIONS).await?;
    time::sleep(settle).await;
    let mut idle: [Idle; N] = std::array::from_fn(|_| Idle::default());
    let mut before = [0.0; N];
    for (before, pid) in before.iter_mut().zip(processes) {
        *before = resident_bytes(pid)?;
    }
    let crowd = Crowd::open_in(&channels, rooms, false).await?;
    time::sleep(settle).await;
    for _ in 0..SPANS {
        for (idle, percent) in idle.iter_mut().zip(busy_percent(processes, span).await?) {
            idle.percent.push(percent);
        }
    }
    for ((idle, before), pid) in idle.iter_mut().zip(before).zip(processes) {
        idle.bytes.push((resident_bytes(pid)? - before) / rooms.len() as f64);
    }
    drop(crowd);
    Ok(idle)
}
