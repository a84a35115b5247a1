//! The `unibus` program: it runs the service, or a command.

mod cli;

use std::{
    convert::Infallible,
    env,
    io::{self, IsTerminal, Write},
    num::NonZero,
    process::ExitCode,
    thread::available_parallelism,
    time::Duration,
};

use self::cli::ClientCommand;
use anyhow::Context;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use mimalloc::MiMalloc;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::{self, Runtime};
use tracing::{Metadata, error, info, level_filters::LevelFilter, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::filter_fn, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};
use unibus::{
    CheckCommand, CheckReport, Config, FlagChange, FlagSources, Healthcheck, LOG_LINES_MAX, LogFormat, Reason,
    ReloadSignals, Server, StopSignals, TokenCommand, Violation,
};

/// A call allocates many small, short-lived objects. This allocator serves them with less CPU than the system's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Rooms over gRPC on NATS JetStream.
///
/// Without a command, the program runs the service. Without --nats-url the service runs its embedded nats-server, on
/// loopback, with its data under --data-dir.
#[derive(Debug, Parser)]
#[command(name = "unibus", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<ProgramCommand>,
    #[command(flatten)]
    config: Config,
}

/// Rooms over gRPC on NATS JetStream.
///
/// `unibus` without a command runs the service, as `unibus serve` does.
#[derive(Debug, Parser)]
#[command(name = "unibus", version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: ProgramCommand,
}

#[derive(Debug, Subcommand)]
enum ProgramCommand {
    /// Run the service
    ///
    /// Without --nats-url the service runs its embedded nats-server, on loopback, with its data under --data-dir.
    Serve(Box<Config>),
    Check(Box<CheckCommand>),
    Healthcheck(Healthcheck),
    #[command(flatten)]
    Token(TokenCommand),
    #[command(flatten)]
    Client(ClientCommand),
}

impl ProgramCommand {
    /// Parses the command line. The flags of the service and their variables are only read if the service is to run, so
    /// that a variable with a wrong value does not stop the other commands.
    fn parse() -> (Self, FlagSources) {
        // a command is always the first argument
        let names_command = env::args_os().nth(1).is_some_and(|first| !first.as_encoded_bytes().starts_with(b"-"));
        if names_command {
            let (CommandLine { command }, sources) = parsed();
            return (command, sources);
        }
        let (Arguments { command, config }, sources) = parsed();
        (command.unwrap_or_else(|| Self::Serve(Box::new(config))), sources)
    }
}

/// The arguments of the program, with the values of the configuration file.
fn parsed<A: CommandFactory + FromArgMatches>() -> (A, FlagSources) {
    let parsed = FlagSources::parse(A::command(), env::args_os());
    let parsed = parsed.and_then(|(sources, matches)| Ok((A::from_arg_matches(&matches)?, sources)));
    parsed.unwrap_or_else(|error| {
        let mut arguments = env::args_os().skip(1);
        if error.use_stderr()
            && arguments.next().is_some_and(|name| name == "check")
            && arguments.any(|flag| flag == "--json")
        {
            let report = CheckReport::of_wrong_arguments(in_one_line(&error));
            let _ = io::stdout().write_all(report.text(false).as_bytes());
        }
        error.exit()
    })
}

fn main() -> ExitCode {
    match ProgramCommand::parse() {
        (ProgramCommand::Serve(config), sources) => run_service(*config, sources),
        (ProgramCommand::Check(command), _) => run_check(*command),
        (ProgramCommand::Healthcheck(command), _) => print(&command.run()),
        (ProgramCommand::Token(command), _) => print(&command.run().map_err(|error| error.message().to_owned())),
        (ProgramCommand::Client(command), _) => cli::run(command, CommandLine::command()),
    }
}

fn run_service(config: Config, sources: FlagSources) -> ExitCode {
    match runtime(config.worker_threads) {
        Ok(runtime) => runtime.block_on(serve(config, sources)),
        Err(error) => no_threads(&error),
    }
}

/// Checks the configuration. Standard output gets the findings.
fn run_check(command: CheckCommand) -> ExitCode {
    let runtime = match runtime(None) {
        Ok(runtime) => runtime,
        Err(error) => return no_threads(&error),
    };
    raise_limit_of_open_files();
    let report = runtime.block_on(command.run());
    let written = io::stdout().write_all(report.text(io::stdout().is_terminal()).as_bytes());
    // a disk that hangs must not keep the program
    runtime.shutdown_background();
    if report.has_failed() || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn no_threads(error: &io::Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "the threads of the program cannot be started: {error}");
    ExitCode::FAILURE
}

/// Starts the runtime. A hand-over between tasks on two threads wakes a core. So fewer threads than cores answer faster,
/// and the other cores serve nats-server and the network.
fn runtime(worker_threads: Option<u16>) -> io::Result<Runtime> {
    let cores = available_parallelism().map_or(1, NonZero::get);
    let threads = worker_threads.map_or((cores / 2).max(1), usize::from);
    runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

async fn serve(config: Config, sources: FlagSources) -> ExitCode {
    let (filter, lost, _flush_on_drop) = start_log(&config);
    let ended = tokio::select! {
        ended = Box::pin(run(config, sources, filter)) => ended,
        never = log_lost_lines(lost) => match never {},
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says why the service cannot start, with the names of the flags in place of the names of the fields.
fn start_problem(error: &unibus::Error) -> anyhow::Error {
    let command = Arguments::command();
    let mut text = format!("cannot start: {error}");
    for Violation { field, .. } in error.violations() {
        let is_flag = |flag: &&str| flag.replace('-', "_") == *field;
        if let Some(flag) = command.get_arguments().filter_map(clap::Arg::get_long).find(is_flag) {
            text = text.replace(&format!("`{field}`"), &format!("`--{flag}`"));
        }
    }
    let causes = anyhow::Chain::new(error).skip(1).map(|cause| format!(": {cause}"));
    text.extend(causes);
    if error.reason() == Reason::NatsUnavailable {
        text.push_str("; `unibus check` with the same flags names what is wrong, also a missing permission");
    }
    anyhow::Error::msg(text)
}

/// Minimum time between two warnings of lost log lines.
const LOST_LINES_INTERVAL: Duration = Duration::from_secs(5);

/// Logs the number of lost log lines.
async fn log_lost_lines(lost: ErrorCounter) -> Infallible {
    let mut logged = 0;
    loop {
        tokio::time::sleep(LOST_LINES_INTERVAL).await;
        let lines = lost.dropped_lines();
        if lines > logged {
            warn!(
                lines = lines - logged,
                in_all = lines,
                "lines of the log were lost: standard output is not read fast enough"
            );
            logged = lines;
        }
    }
}

/// Prints what a command has made to standard output, or its error to standard error.
fn print(done: &Result<String, String>) -> ExitCode {
    let written = match done {
        Ok(made) => io::stdout().write_all(made.as_bytes()),
        Err(problem) => writeln!(io::stderr(), "{problem}"),
    };
    if done.is_ok() && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(config: Config, mut sources: FlagSources, filter: LogFilter) -> anyhow::Result<()> {
    raise_limit_of_open_files();
    let mut signals = StopSignals::listen().context("cannot install the signal handlers")?;
    let mut reloads = ReloadSignals::listen().context("cannot install the signal handlers")?;
    let mut server = tokio::select! {
        server = Server::bind(config) => server.map_err(|error| start_problem(&error))?,
        signal = signals.next() => {
            info!(signal, "a signal stopped the service before it had started");
            return Ok(());
        }
    };
    loop {
        tokio::select! {
            signal = signals.next() => {
                info!(signal, "the service is stopping; a second signal stops it at once");
                break;
            }
            () = server.stopped() => anyhow::bail!("the service cannot continue; its log says why"),
            // on the main thread, which serves no calls
            () = reloads.next() => match reload(&server, &mut sources, &filter) {
                Ok(()) => info!("SIGHUP: the configuration was read again"),
                Err(error) => error!("SIGHUP: the configuration cannot be used, and nothing has changed: {error:#}"),
            },
        }
    }
    tokio::select! {
        stopped = server.shutdown() => stopped.context("not all calls ended before --drain-timeout"),
        signal = signals.next() => anyhow::bail!("stopped at once by a second {signal}"),
    }
}

/// Reads the configuration again, and puts in force what may change while the service runs.
fn reload(server: &Server, sources: &mut FlagSources, filter: &LogFilter) -> anyhow::Result<()> {
    let read = sources.parse_again().and_then(|(matches, changes)| Ok((service_config(&matches)?, changes)));
    let (config, changes) = read.map_err(|error| anyhow::anyhow!(in_one_line(&error)))?;
    let chosen = log_filter(&config);
    server.reload(config)?;
    // a filter that hides these lines comes after them, and one that shows them before
    let is_shown = tracing::enabled!(tracing::Level::INFO);
    if is_shown {
        log_changes(&changes);
    }
    filter.reload(chosen).context("the filter of the log cannot be replaced")?;
    if !is_shown {
        log_changes(&changes);
    }
    sources.set_in_force(&changes);
    Ok(())
}

/// The configuration of the service, which runs with or without the command `serve`.
fn service_config(matches: &ArgMatches) -> Result<Config, clap::Error> {
    if matches.subcommand_name().is_none() {
        return Arguments::from_arg_matches(matches).map(|arguments| arguments.config);
    }
    match CommandLine::from_arg_matches(matches)?.command {
        ProgramCommand::Serve(config) => Ok(*config),
        _ => Err(CommandLine::command().error(ErrorKind::InvalidSubcommand, "the command is not `serve`")),
    }
}

fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(|line| line.trim().trim_start_matches("error: ")).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

fn log_changes(changes: &[FlagChange]) {
    for FlagChange { flag, old, new, needs_restart, .. } in changes {
        if *needs_restart {
            warn!(flag, old, new, "a flag has another value, which needs a restart of the service");
        } else {
            info!(flag, old, new, "a flag has another value, which is in force");
        }
    }
}

/// Raises the soft limit of open files to the hard limit. Shells set a low soft limit for programs that use select(2).
fn raise_limit_of_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        info!(%error, "the limit of open files could not be raised");
    }
}

/// Replaces what is logged.
type LogFilter = reload::Handle<EnvFilter, Registry>;

/// What is logged: `--log`, else `RUST_LOG`, else the default.
fn log_filter(config: &Config) -> EnvFilter {
    match &config.log {
        Some(filter) => EnvFilter::new(filter),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn")),
    }
}

/// Starts the log. The guard writes the remaining lines when it is dropped.
fn start_log(config: &Config) -> (LogFilter, ErrorCounter, WorkerGuard) {
    // a reader that does not read the log must not stop the service
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LOG_LINES_MAX);
    let (writer, guard) = writer.finish(io::stdout());
    let lost = writer.error_counter();
    let (chosen, filter) = reload::Layer::new(log_filter(config));
    let log = tracing_subscriber::registry().with(chosen);
    let without_payloads = filter_fn(|line| !shows_payloads(line));
    match config.log_format {
        LogFormat::Text => {
            let lines = fmt::layer().with_ansi(io::stdout().is_terminal()).with_writer(writer);
            log.with(lines.with_filter(without_payloads)).init();
        }
        LogFormat::Json => log.with(fmt::layer().json().with_writer(writer).with_filter(without_payloads)).init(),
    }
    (filter, lost, guard)
}

/// Whether the NATS client writes whole messages into this line. Such lines are never logged, whatever `--log` says.
fn shows_payloads(line: &Metadata<'_>) -> bool {
    let most = match line.target() {
        "async_nats::connection" => LevelFilter::DEBUG,
        "async_nats::jetstream::context" => LevelFilter::INFO,
        _ => return false,
    };
    *line.level() > most
}
