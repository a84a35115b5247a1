//! The commands that call a service: a client of the contract for people and scripts.
//!
//! A command reads its settings, makes one or more calls and prints the results. It shares nothing with the service but
//! the generated types, so whatever it can do, every gRPC client can do. The doc comments of the commands and flags are
//! the text of `--help`.

mod acks;
mod backoff;
mod bench;
mod completions;
mod connection;
mod exit;
mod failure;
mod follow;
mod hints;
mod history;
mod json;
mod listing;
mod member;
mod message;
mod options;
mod output;
mod payloads;
mod pipeline;
mod printable;
mod profiles;
mod publish;
mod reference;
mod room;
mod room_settings;
mod session;
mod style;
mod subscribe;
mod subscriber;
mod text;
mod top;
mod transfer;
mod values;

use std::{io, num::NonZero, process::ExitCode, thread::available_parallelism, time::Duration};

use clap::Subcommand;
use tokio::runtime;

use self::{
    bench::BenchCommand,
    completions::Completions,
    exit::Exit,
    failure::{CliResult, Failure},
    history::HistoryCommand,
    member::MemberCommands,
    message::MessageCommands,
    options::ClientOptions,
    output::Printer,
    publish::PubCommand,
    room::RoomCommands,
    session::Session,
    subscribe::SubCommand,
    subscriber::SubscriberCommands,
    top::TopCommand,
    transfer::{ExportCommand, ImportCommand},
};

/// How long threads that wait for standard input may hold up the end of the program.
const THREADS_TIMEOUT: Duration = Duration::from_millis(100);
/// Threads of a command: one for its work, one for the connection.
const WORKER_THREADS: usize = 2;

/// A command that calls a service, or explains the commands.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Create, show, change and delete rooms
    Room(Box<RoomCommands>),
    /// Publish messages
    Pub(Box<PubCommand>),
    /// Follow the messages of a room
    Sub(Box<SubCommand>),
    /// Print stored messages
    History(Box<HistoryCommand>),
    /// Erase stored messages
    Message(Box<MessageCommands>),
    /// Add, list and remove members
    Member(Box<MemberCommands>),
    /// List, move and delete durable subscribers
    Subscriber(Box<SubscriberCommands>),
    /// Write all messages of a room to a file
    Export(Box<ExportCommand>),
    /// Publish the messages of an exported file into a room
    Import(Box<ImportCommand>),
    /// Measure how fast the service publishes and delivers
    ///
    /// Publishers and subscribers run in this program. Each message has a stamp, so every delivery is checked: lost and
    /// duplicated messages are counted, and lost ones make the command fail.
    Bench(Box<BenchCommand>),
    /// Watch rooms with their rates, subscribers and lags
    ///
    /// On a terminal: arrows choose a room, Enter shows its subscribers, r, m, b, l and n choose the order, q ends.
    Top(Box<TopCommand>),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print all commands, flags and exit statuses as Markdown
    #[command(hide = true)]
    Reference,
}

/// Runs a command to its end. `program` is the whole command line of the program.
pub(crate) fn run(command: ClientCommand, program: clap::Command) -> ExitCode {
    let plain = Printer::plain();
    let (out, done) = match command {
        ClientCommand::Completions(command) => (plain.clone(), command.run(program, &plain)),
        ClientCommand::Reference => (plain.clone(), reference::print(program, &plain)),
        ClientCommand::Room(command) => call(&command.options.clone(), |session| command.action.run(session)),
        ClientCommand::Pub(command) => call(&command.options.clone(), |session| command.run(session)),
        ClientCommand::Sub(command) => call(&command.options.clone(), |session| command.run(session)),
        ClientCommand::History(command) => call(&command.options.clone(), |session| command.run(session)),
        ClientCommand::Message(command) => call(&command.options.clone(), |session| command.action.run(session)),
        ClientCommand::Member(command) => call(&command.options.clone(), |session| command.action.run(session)),
        ClientCommand::Subscriber(command) => call(&command.options.clone(), |session| command.action.run(session)),
        ClientCommand::Export(command) => call(&command.options.clone(), |session| command.run(session)),
        ClientCommand::Import(command) => call(&command.options.clone(), |session| command.run(session)),
        ClientCommand::Bench(command) => {
            let threads = available_parallelism().map_or(WORKER_THREADS, NonZero::get).max(WORKER_THREADS);
            call_on(threads, &command.options.clone(), |session| command.run(session))
        }
        ClientCommand::Top(command) => call(&command.options.clone(), |session| command.run(session)),
    };
    let exit = match done {
        Ok(()) => Exit::Done,
        Err(failure) => {
            out.failure(&failure);
            failure.exit()
        }
    };
    exit.status().into()
}

/// Runs a command that calls a service.
fn call(options: &ClientOptions, work: impl AsyncFnOnce(Session) -> CliResult) -> (Printer, CliResult) {
    call_on(WORKER_THREADS, options, work)
}

/// The same with this number of threads.
fn call_on(
    threads: usize,
    options: &ClientOptions,
    work: impl AsyncFnOnce(Session) -> CliResult,
) -> (Printer, CliResult) {
    let out = options.printer();
    let done = Session::open(options, out.clone()).and_then(|session| {
        let runtime = start_runtime(threads).map_err(|error| {
            Failure::new(Exit::Failed, format!("the threads of the command cannot be started: {error}"))
        })?;
        let done = runtime.block_on(work(session));
        // a thread may wait for standard input without end
        runtime.shutdown_timeout(THREADS_TIMEOUT);
        done
    });
    (out, done)
}

fn start_runtime(threads: usize) -> io::Result<runtime::Runtime> {
    runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}
