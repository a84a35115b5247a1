//! The service as a program.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{Metadata, error, info, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use unibus::{Command, Config, LogFormat, Server, StopSignals};

/// Rooms over gRPC on NATS JetStream.
///
/// Without a command this is the service. Without --nats-url it runs its own nats-server, on loopback, with its data under
/// --data-dir.
#[derive(Debug, Parser)]
#[command(name = "unibus", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, config } = Arguments::parse();
    if let Some(command) = command {
        return obey(&command);
    }
    start_log(config.log_format);
    match Box::pin(run(config)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What a command makes is all that stands on standard output.
fn obey(command: &Command) -> ExitCode {
    let done = command.run().map_err(|error| error.message().to_owned());
    let told = match &done {
        Ok(made) => io::stdout().write_all(made.as_bytes()),
        Err(problem) => writeln!(io::stderr(), "{problem}"),
    };
    if done.is_ok() && told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(config: Config) -> anyhow::Result<()> {
    raise_limit_of_open_files();
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    let mut server = tokio::select! {
        server = Server::bind(config) => server.context("cannot start")?,
        signal = signals.next() => {
            info!(signal, "stopped before the service had started");
            return Ok(());
        }
    };
    tokio::select! {
        signal = signals.next() => info!(signal, "stopping; the same signal again stops at once"),
        () = server.stopped() => anyhow::bail!("the service cannot go on"),
    }
    tokio::select! {
        stopped = server.shutdown() => stopped.context("not everything ended in time"),
        signal = signals.next() => anyhow::bail!("stopped at once by a second {signal}"),
    }
}

/// Up to what the operator allows: the low limit that shells set is for programs that use select(2).
fn raise_limit_of_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        info!(%error, "the limit of open files stays as it is");
    }
}

fn start_log(format: LogFormat) {
    let chosen = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    let log = tracing_subscriber::registry().with(chosen);
    let discreet = filter_fn(|line| !shows_payloads(line));
    match format {
        LogFormat::Text => {
            log.with(fmt::layer().with_ansi(io::stdout().is_terminal()).with_filter(discreet)).init();
        }
        LogFormat::Json => log.with(fmt::layer().json().with_filter(discreet)).init(),
    }
}

/// Whether the NATS client writes whole messages into this line. No setting shows them.
fn shows_payloads(line: &Metadata<'_>) -> bool {
    let most = match line.target() {
        "async_nats::connection" => LevelFilter::DEBUG,
        "async_nats::jetstream::context" => LevelFilter::INFO,
        _ => return false,
    };
    *line.level() > most
}
