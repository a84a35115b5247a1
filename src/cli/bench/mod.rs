//! The command that measures how fast a service publishes and delivers.
//!
//! Everything runs in this process, so the times of publishing and of delivering are of one clock. Each payload has a
//! stamp with its publisher, its number and its time, so every delivery is checked: nothing may be lost or come twice.

mod pace;
mod payload;
mod progress;
mod publisher;
mod report;
mod rooms;
mod run;
mod subscriber;
mod tally;
mod workload;

use std::{sync::Arc, time::Duration};

use clap::{Args, value_parser};
use serde_json::json;
use tokio::time;
use unibus::StopSignals;

use self::{
    pace::PhaseEnd,
    progress::{BenchProgress, PROGRESS_INTERVAL},
    report::BenchReport,
    rooms::OwnRooms,
    run::{RunResult, Shared, run},
    tally::Totals,
    workload::Workload,
};
use super::{
    exit::Exit,
    failure::{CliResult, Failure},
    options::ClientOptions,
    room,
    session::Session,
    text, values,
};

/// Measure how fast the service publishes and delivers.
#[derive(Args, Debug)]
pub(crate) struct BenchCommand {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    /// Publishers of each room
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000))]
    publishers: u32,
    /// Subscribers of each room; each of them gets every message of the room
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = value_parser!(u32).range(..=10_000))]
    subscribers: u32,
    /// Number of rooms
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000))]
    rooms: u32,
    /// Size of each payload, such as 1KiB; at least 24 bytes
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = values::bytes)]
    size: u64,
    /// Number of messages of all publishers together
    #[arg(long, value_name = "COUNT", conflicts_with = "duration", value_parser = value_parser!(u64).range(1..=1 << 33))]
    messages: Option<u64>,
    /// How long messages are published. Default: 10s
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    duration: Option<Duration>,
    /// Time before the measurement, in which messages are published and not counted
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = values::duration)]
    warm_up: Duration,
    /// Messages per second of all publishers together. A latency then counts from the time at which its message was due.
    /// Default: as many as the service takes
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u64).range(1..=100_000_000))]
    rate: Option<u64>,
    /// Messages of a publisher that wait for their acknowledgements. Default: 256, and 1 with --unary
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=1024))]
    window: Option<u32>,
    /// Publish each message with a call of its own, and not on a stream
    #[arg(long)]
    unary: bool,
    /// Connections that publishers and subscribers share. Default: one for each of them, at most 64
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=10_000))]
    connections: Option<u32>,
    /// Use this room, and delete nothing. Default: new rooms, which are deleted at the end
    #[arg(long, value_name = "ROOM", conflicts_with_all = ["rooms", "ephemeral", "keep"])]
    room: Option<String>,
    /// Store no messages: create ephemeral rooms
    #[arg(long)]
    ephemeral: bool,
    /// Copies of each room's log in the NATS cluster: 1, 3 or 5. Default: 1
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["room", "ephemeral"])]
    replicas: Option<u32>,
    /// Do not delete the rooms at the end
    #[arg(long)]
    keep: bool,
}

impl BenchCommand {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        let workload = Workload::of(&self)?;
        let mut signals = StopSignals::listen().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        if let Some(room_id) = &self.room {
            let is_persisted = unless_stopped(room::read(&session, room_id), &mut signals).await?.persist;
            let ids = [room_id.clone()];
            return Bench { session, workload, is_persisted }.measure(&ids, &mut signals).await;
        }
        let bench = Bench { session, workload, is_persisted: !self.ephemeral };
        let mut rooms = OwnRooms::new(self.rooms, bench.is_persisted, self.replicas.unwrap_or_default());
        let done = bench.in_own_rooms(&mut rooms, &mut signals).await;
        if rooms.made().is_empty() {
            return done;
        }
        if self.keep {
            bench.session.out.notice(&format!("kept: {}", named(rooms.made())));
            return done;
        }
        tokio::select! {
            () = bench.clean_up(&rooms) => {}
            _ = signals.next() => bench.session.out.notice(&format!("not deleted: {}", named(rooms.made()))),
        }
        done
    }
}

/// A benchmark that is about to run.
struct Bench {
    session: Session,
    workload: Workload,
    is_persisted: bool,
}

impl Bench {
    async fn in_own_rooms(&self, rooms: &mut OwnRooms, signals: &mut StopSignals) -> CliResult {
        let client = unless_stopped(self.session.client(), signals).await?;
        // every call that was begun is waited for, and signals are only noticed between them
        while rooms.create_some(&self.session, &client).await? {
            tokio::select! {
                biased;
                signal = signals.next() => return Err(Failure::signal(signal)),
                () = std::future::ready(()) => {}
            }
        }
        self.measure(&rooms.ids, signals).await
    }

    /// Measures, and prints the result.
    async fn measure(&self, room_ids: &[String], signals: &mut StopSignals) -> CliResult {
        let out = &self.session.out;
        out.notice(&self.described(room_ids));
        let shared = Arc::new(Shared::new(self.session.clone(), self.workload.clone()));
        let mut progress = BenchProgress::new(self.workload.end, out.has_watcher());
        let mut ticks = time::interval(PROGRESS_INTERVAL);
        let mut interrupted = None;
        let RunResult { publishers, subscribers, failure } = {
            let mut running = std::pin::pin!(run(Arc::clone(&shared), room_ids));
            loop {
                tokio::select! {
                    result = running.as_mut() => break result,
                    signal = signals.next() => {
                        if let Some(first) = interrupted.replace(signal) {
                            // the first signal was not enough
                            return Err(Failure::signal(first));
                        }
                        shared.stop.cancel();
                    }
                    _ = ticks.tick() => progress.draw(&shared),
                }
            }
        };
        progress.end();
        let is_complete = interrupted.is_none() && failure.is_none();
        let totals = Totals::of(publishers, &subscribers, self.workload.publishers);
        if is_complete || totals.sent > 0 {
            let (workload, is_persisted) = (&self.workload, self.is_persisted);
            BenchReport { workload, room_ids, is_persisted, totals: &totals, is_complete }.print(out)?;
        }
        match (interrupted, failure) {
            (Some(signal), _) => Err(Failure::signal(signal)),
            (None, Some(failure)) => Err(failure),
            (None, None) => judged(totals),
        }
    }

    fn described(&self, room_ids: &[String]) -> String {
        let Workload { publishers, subscribers, size, end, .. } = &self.workload;
        let size = text::bytes(*size as u64);
        let amount = match end {
            PhaseEnd::Messages(messages) => format!("{} of {size}", text::count(*messages, "message")),
            PhaseEnd::After(length) => format!("messages of {size} for {}", humantime::format_duration(*length)),
        };
        let kind = if self.is_persisted { "persisted" } else { "ephemeral" };
        let place = match room_ids {
            [first, .., last] => format!("each of {} {kind} rooms, {first} to {last}", room_ids.len()),
            _ => format!("the {kind} {}", named(room_ids)),
        };
        let publishers = text::count((*publishers).into(), "publisher");
        let subscribers = text::count((*subscribers).into(), "subscriber");
        format!("{amount}, with {publishers} and {subscribers} in {place}")
    }

    /// Deletes the rooms. What cannot be deleted is reported.
    async fn clean_up(&self, rooms: &OwnRooms) {
        let left = match self.session.client().await {
            Ok(client) => rooms.delete(&self.session, &client).await,
            Err(failure) => Some((rooms.made().to_vec(), failure)),
        };
        if let Some((ids, failure)) = left {
            let text = format!("{} not deleted: {}", named(&ids), failure.summary());
            self.session.out.warning(&text, &json!({ "notDeleted": ids, "why": failure.summary() }));
        }
    }
}

/// Waits for the first calls, which may last as long as `--timeout`, or for a signal.
async fn unless_stopped<T>(work: impl Future<Output = CliResult<T>>, signals: &mut StopSignals) -> CliResult<T> {
    tokio::select! {
        done = work => done,
        signal = signals.next() => Err(Failure::signal(signal)),
    }
}

/// The rooms in a sentence.
fn named(room_ids: &[String]) -> String {
    match room_ids {
        [one] => format!("room {one}"),
        [first, .., last] => format!("{} rooms {first} to {last}", room_ids.len()),
        [] => "rooms".to_owned(),
    }
}

/// The failure of a run that came to its end.
fn judged(totals: Totals) -> CliResult {
    let (failed, sent, lost, expected) = (totals.failed(), totals.sent, totals.lost, totals.expected);
    if let Some(first) = totals.first_error {
        let first = match first.reason() {
            Some("RATE_LIMITED") => first.hint(
                "The service limits how fast a caller publishes, by --limit-publishes or --limit-publish-bytes. \
                 Choose a lower --rate.",
            ),
            _ => first,
        };
        return Err(first.within(&format!("{failed} of {} failed, the first", text::count(sent, "message"))));
    }
    if lost > 0 {
        return Err(Failure::new(Exit::Incomplete, format!("{lost} of {expected} deliveries were lost")));
    }
    Ok(())
}
