//! The benchmark of the service, as ratios: each row compares the service with its baselines, in turns of the same run.
//! nats-server, the service and the bare server are separate processes. This program is the load generator.
//!
//! `cargo bench --bench load -- --help` shows the flags. Each file of `rows` documents what it measures, and how.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures, far below what a float holds exactly"
)]

mod baseline;
mod client;
mod crowd;
mod flame;
mod growth;
mod ingest;
mod measure;
mod native;
mod pace;
mod plot;
mod plot_latency;
mod processes;
mod report;
mod rows;
mod tables;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use unibus::StopSignals;

use crate::{
    growth::Growth,
    measure::Scale,
    report::{Report, Row},
    tables::{Comparison, Tables},
};

/// Measures the service beside its baselines and prints the table.
#[derive(Debug, Parser)]
#[allow(clippy::struct_excessive_bools, reason = "flags")]
#[command(name = "load")]
struct Options {
    /// Only this row; can be given more than once
    #[arg(long)]
    row: Vec<String>,

    /// Only see that everything works: the figures mean nothing
    #[arg(long)]
    quick: bool,

    /// The rows and about how long each takes
    #[arg(long)]
    list: bool,

    /// Keep the results as benches/results/NAME.json, with the plot beside it; rows already there that are not measured
    /// now stay
    #[arg(long, value_name = "NAME")]
    save: Option<String>,

    /// Measure nothing: print the tables of a results file and draw its plots again
    #[arg(long, value_name = "FILE")]
    show: Option<PathBuf>,

    /// Also print what each figure was in this earlier results file, and whether the difference is more than noise
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,

    /// Also draw flame graphs of the service: after its samples, each comparison of a row has one more turn under perf.
    /// They are benches/results/flame-ROW-NUMBER.svg
    #[arg(long)]
    flame: bool,

    /// Measure growth instead of the rows: how figures change with the number of rooms, of subscribers of a room, and of
    /// messages in a room. With --save, keeps it as benches/results/NAME-growth.json; with --show, prints such a file
    #[arg(long)]
    growth: bool,

    /// Only this axis of growth: rooms, subscribers or messages; can be given more than once
    #[arg(long, value_name = "AXIS", requires = "growth")]
    axis: Vec<String>,

    /// Cargo gives this
    #[arg(long, hide = true)]
    bench: bool,

    /// Be the bare tonic server
    #[arg(long, hide = true)]
    serve_baseline: bool,

    /// The NATS server that feeds it
    #[arg(long, hide = true, requires = "feed_subject")]
    feed_from: Option<String>,

    /// The subject that feeds it
    #[arg(long, hide = true)]
    feed_subject: Option<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if options.serve_baseline {
        let feed = options.feed_from.as_deref().zip(options.feed_subject.as_deref());
        return finish(baseline::serve(feed).await);
    }
    let Ok(mut signals) = StopSignals::listen() else { return ExitCode::FAILURE };
    let done = tokio::select! {
        done = run(&options) => done,
        // dropping the running row ends every process
        signal = signals.next() => Err(anyhow::anyhow!("stopped by {signal}")),
    };
    finish(done)
}

fn finish(done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    if options.list {
        for row in rows::ROWS {
            println!("{:16} {:4} s  {}", row.name, row.seconds, row.what);
        }
        println!("{:16} {:4} s", "all", rows::ROWS.iter().map(|row| row.seconds).sum::<u32>());
        return Ok(());
    }
    if options.growth {
        return grow(options).await;
    }
    let before = options.compare.as_deref().map(Report::read).transpose()?;
    if let Some(path) = &options.show {
        let report = Report::read(path)?;
        print(&report, before.as_ref());
        return draw(&report, path);
    }
    if let Some(unknown) = options.row.iter().find(|name| rows::ROWS.iter().all(|row| row.name != **name)) {
        bail!("no row is called {unknown}; --list names them");
    }
    raise_file_limit()?;
    let scale = if options.quick { Scale::quick() } else { Scale::full() };
    let path = options.save.as_ref().map(|name| results(name));
    let mut report = Report::new(options.quick);
    if let Some(path) = path.as_ref().filter(|path| path.exists()) {
        let older = Report::read(path)?;
        ensure!(older.quick == options.quick, "{} holds another kind of run", path.display());
        report.rows = older.rows;
    }
    let mut failures = 0;
    for row in rows::ROWS.iter().filter(|row| options.row.is_empty() || options.row.iter().any(|name| name == row.name))
    {
        eprintln!("{}: {}", row.name, row.what);
        let started = Instant::now();
        let (outcome, failed) = match (row.run)(Scale { flame: options.flame.then_some(row.name), ..scale }).await {
            Ok(outcome) => (outcome, None),
            Err(error) => (report::Outcome::default(), Some(format!("{error:#}"))),
        };
        if let Some(why) = &failed {
            eprintln!("  failed: {why}");
            failures += 1;
        }
        let seconds = started.elapsed().as_secs_f64();
        eprintln!("  {seconds:.1} s");
        report.put(Row { row: row.name.to_owned(), measured_at: report::now(), seconds, failed, outcome });
        if let Some(path) = &path {
            // after each row, so that nothing is lost with a later one
            report.write(path)?;
        }
    }
    print(&report, before.as_ref());
    if let Some(path) = &path {
        draw(&report, path)?;
    }
    if failures > 0 {
        bail!("{failures} rows failed");
    }
    Ok(())
}

/// The results file with this name.
fn results(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(format!("{name}.json"))
}

async fn grow(options: &Options) -> Result<()> {
    if let Some(path) = &options.show {
        println!("{}", Growth::read(path)?);
        return Ok(());
    }
    raise_file_limit()?;
    let growth = growth::measure(options.quick, &options.axis).await?;
    println!("{growth}");
    options.save.as_ref().map_or(Ok(()), |name| growth.write(&results(&format!("{name}-growth"))))
}

fn print(report: &Report, before: Option<&Report>) {
    println!("{}", Tables { report, before });
    if let Some(before) = before {
        println!("{}", Comparison { before, after: report });
    }
}

/// Draws the plots of a report beside its file.
fn draw(report: &Report, path: &Path) -> Result<()> {
    let beside = |end: &str, svg: String| {
        let path = path.with_extension(end);
        std::fs::write(&path, svg).with_context(|| path.display().to_string())
    };
    beside("svg", plot::svg(report)?)?;
    match plot_latency::svg(report)? {
        Some(svg) => beside("latency.svg", svg),
        None => Ok(()),
    }
}

/// A stream is a file and a subscription a part of a connection: some rows need more than the usual thousand.
fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}
