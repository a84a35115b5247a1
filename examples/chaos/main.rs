//! Checks the guarantees of unibus under faults, with real servers, real clients, and a judge of what the clients saw.
//!
//! ```console
//! $ cargo build --release --bin unibus --example chaos
//! $ cargo run --release --example chaos -- --episodes 20 --seed 1
//! ```
//!
//! An episode starts nats-servers and unibus instances as processes of its own, with a TCP proxy on every link between
//! them. Clients publish with every RPC and read in every way, and retry as the docs say. Meanwhile the faults of the
//! episode's plan happen: processes are killed or stopped, links are cut, disks fill up, native programs interfere,
//! owners purge and delete.
//!
//! At the end everything must work again, and every reader must reach the last message. Then the judge compares the
//! answers that the clients received with the stored messages. A violation is printed with its evidence and with the
//! seed that repeats the plan. The logs and data of its servers are kept, and the program exits with 1.
//!
//! | module | what it is |
//! |---|---|
//! | `plan` | an episode, drawn from its seed |
//! | `world` | servers: processes, links, a small disk, NATS by hand |
//! | `clients` | publishers and readers, which record what they see |
//! | `faults`, `native`, `owner`, `members`, `full` | the faults |
//! | `episode` | one episode from its start to its verdict |
//! | `oracle` | the judge: pure, tested with planted violations |
//! | `report` | the table |

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that says what it found")]

mod clients;
mod episode;
mod faults;
mod full;
mod members;
mod native;
mod oracle;
mod owner;
mod plan;
#[path = "../../tests/it/support/proxy.rs"]
#[allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the proxy of the tests, which may panic"
)]
mod proxy;
mod report;
mod world;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{
    episode::Verdict,
    plan::{Fault, Plan, Setup},
    report::Report,
    world::{Programs, Tmpfs},
};

/// Time after which an episode counts as hung.
const EPISODE_WITHIN: Duration = Duration::from_secs(300);
/// Maximum violations of one promise that are printed for an episode.
const EVIDENCE_MAX: usize = 3;

/// Checks the promises of unibus under faults
#[derive(Debug, Parser)]
#[command(name = "chaos", max_term_width = 100)]
struct Options {
    /// How many episodes to run
    #[arg(long, default_value_t = 10)]
    episodes: u64,

    /// Chooses all episodes; the same seed gives the same plans
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Servers of the episodes; `all`: each set-up in turn
    #[arg(long, value_enum, default_value_t = Choice::All)]
    setup: Choice,

    /// Run only the episode with this seed, as a violation's report names it
    #[arg(long)]
    episode_seed: Option<u64>,

    /// Print the plans and run nothing
    #[arg(long)]
    plan: bool,

    /// Keep logs and data of every episode, not only of those with violations
    #[arg(long)]
    keep: bool,

    /// Print the table alone on standard output, for the docs
    #[arg(long)]
    markdown: bool,
}

/// The set-ups to run.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// One instance, one nats-server
    One,
    /// Two instances, one nats-server
    Two,
    /// Two instances, a cluster of three nodes, three replicas
    Cluster,
    /// Each of them in turn
    All,
}

impl Choice {
    fn setup(self) -> Option<Setup> {
        match self {
            Self::One => Some(Setup::One),
            Self::Two => Some(Setup::Two),
            Self::Cluster => Some(Setup::Cluster),
            Self::All => None,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let run = async {
        tokio::select! {
            done = run(&options) => done,
            () = end_signal() => Err(anyhow::anyhow!("told to end")),
        }
    };
    match Box::pin(run).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs all episodes. Returns `true` if no promise was broken.
async fn run(options: &Options) -> Result<bool> {
    let seeds = match options.episode_seed {
        Some(seed) => vec![seed],
        None => (0..options.episodes).map(|number| options.seed.wrapping_mul(1_000_000).wrapping_add(number)).collect(),
    };
    let plans: Vec<Plan> = seeds.into_iter().map(|seed| Plan::new(seed, options.setup.setup())).collect();
    if options.plan {
        for plan in &plans {
            println!("{plan}");
        }
        return Ok(true);
    }
    let programs = Programs::find()?;
    if programs.are_stale() {
        eprintln!("the sources are newer than {}, which is tested all the same", programs.unibus.display());
    }
    let mut report = Report::default();
    for plan in &plans {
        eprintln!("{plan}");
        if plan.has(|fault| matches!(fault, Fault::FullDisk { .. })) && !Tmpfs::is_allowed() {
            eprintln!("  not run: only root can mount a small disk");
            report.not_run(plan, "only root can mount a small disk");
            continue;
        }
        let dir = tempfile::Builder::new().prefix(&format!("chaos-{}-", plan.seed)).tempdir()?;
        let done = timeout(EPISODE_WITHIN, episode::run(plan, &programs, dir.path())).await;
        let verdict = done.unwrap_or_else(|_| Err(anyhow::anyhow!("it hangs")));
        let keep = match &verdict {
            Ok(verdict) => {
                show(verdict);
                report.add(plan, verdict);
                !verdict.violations.is_empty()
            }
            Err(error) => {
                eprintln!("  could not be run: {error:#}");
                report.not_run(plan, &format!("{error:#}"));
                true
            }
        };
        if keep || options.keep {
            eprintln!("  logs and data: {}", dir.keep().display());
        }
    }
    println!("{}", report.table(&programs.versions()?));
    if !options.markdown {
        for missing in report.missing() {
            println!("not run: {missing}");
        }
    }
    Ok(report.broken() == 0)
}

fn show(verdict: &Verdict) {
    let counts = verdict.counts;
    eprintln!("  {:?}: {counts:?}", verdict.took);
    let mut before = ("", 0);
    for violation in &verdict.violations {
        before = if before.0 == violation.promise { (before.0, before.1 + 1) } else { (violation.promise, 0) };
        if before.1 < EVIDENCE_MAX {
            eprintln!("  VIOLATION of \"{}\" in {:?}: {}", violation.promise, violation.room_id, violation.evidence);
        }
    }
    if !verdict.violations.is_empty() {
        eprintln!("  {} violations", verdict.violations.len());
    }
}

/// Waits for a signal to end. The child processes end when their owners are dropped.
async fn end_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
