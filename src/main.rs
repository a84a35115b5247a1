//! The service as a program.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{Metadata, error, info, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt};
use unibus::{Config, LogFormat, Server, StopSignals};

#[tokio::main]
async fn main() -> ExitCode {
    let config = Config::parse();
    start_log(config.log_format);
    match Box::pin(run(config)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    raise_limit_of_open_files();
    let mut signals = StopSignals::listen().context("cannot listen for signals")?;
    let mut server = tokio::select! {
        server = Server::bind(config) => server.context("cannot start")?,
        signal = signals.next() => anyhow::bail!("stopped by {signal} before the service had started"),
    };
    tokio::select! {
        signal = signals.next() => info!(signal, "stopping; the same signal again stops at once"),
        () = server.stopped() => anyhow::bail!("the listener broke"),
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
            log.with(fmt::layer().with_ansi(std::io::stdout().is_terminal()).with_filter(discreet)).init();
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
