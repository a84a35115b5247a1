//! The command that watches rooms: a table that is read again and again.
//!
//! [`readings`] asks the service, [`state`] makes rates and an order of the answers, and [`view`] makes lines of those.
//! [`live`] joins them on a terminal; without a terminal the same state is printed as tables or JSON.

mod live;
mod plain;
mod readings;
mod screen;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal},
    time::Duration,
};

use clap::Args;
use tokio::time::{self, MissedTickBehavior};
use unibus::StopSignals;

use self::{
    readings::Reader,
    state::{ROOMS_PER_REFRESH_MAX, SortBy, TopState},
};
use super::{
    exit::Exit,
    failure::{CliResult, Failure},
    options::ClientOptions,
    output::Form,
    session::Session,
    values,
};

/// The shortest time between two refreshes.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Watch rooms with their rates, subscribers and lags.
#[derive(Args, Debug)]
pub(crate) struct TopCommand {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    /// Only these rooms. Default: all rooms of which you are a member
    #[arg(value_name = "ROOM")]
    rooms: Vec<String>,
    /// Time between two refreshes
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = values::duration)]
    interval: Duration,
    /// Order of the rooms
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = SortBy::Rate)]
    sort: SortBy,
    /// Print one table after --interval, and end
    #[arg(long)]
    once: bool,
}

impl TopCommand {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        if self.interval < INTERVAL_MIN {
            let shortest = humantime::format_duration(INTERVAL_MIN);
            return Err(Failure::usage(format!("--interval must be at least {shortest}")));
        }
        let mut signals = StopSignals::listen().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let only: BTreeSet<_> = self.rooms.into_iter().collect();
        let reader = Reader::new(session.clone(), only);
        let state = TopState::new(self.sort);
        if !self.once && session.out.form() == Form::People && io::stdout().is_terminal() {
            let (server, colours) = (session.connector.server().to_owned(), session.out.has_colours());
            return live::run(reader, state, server, self.interval, colours, &mut signals).await;
        }
        tokio::select! {
            done = print_refreshes(&session, reader, state, self.interval, self.once) => done,
            signal = signals.next() => Err(Failure::signal(signal)),
        }
    }
}

/// Prints a table or a JSON object for each refresh, from the second one on: a rate needs two readings.
async fn print_refreshes(
    session: &Session,
    mut reader: Reader,
    mut state: TopState,
    interval: Duration,
    once: bool,
) -> CliResult {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut readings, mut is_failing) = (0_u64, false);
    loop {
        ticks.tick().await;
        match refresh(&mut reader, &mut state).await {
            Ok(()) => is_failing = false,
            Err(failure) if readings > 0 && !once && reader.may_pass(&failure) => {
                if !is_failing {
                    session.out.notice(&format!("{}; trying again", failure.summary()));
                }
                is_failing = true;
                continue;
            }
            Err(failure) => return Err(failure),
        }
        readings += 1;
        if readings < 2 {
            if !state.reads_all() {
                session
                    .out
                    .notice(&format!("only {ROOMS_PER_REFRESH_MAX} rooms have figures; name rooms to choose others"));
            }
            continue;
        }
        if readings > 2 && session.out.form() == Form::People {
            session.out.line("")?;
        }
        plain::print(&session.out, &state)?;
        if once {
            return Ok(());
        }
    }
}

async fn refresh(reader: &mut Reader, state: &mut TopState) -> CliResult {
    if reader.needs_list() {
        state.listed(reader.list().await?);
    }
    let answers = reader.details(state.wanted()).await?;
    state.details(answers);
    Ok(())
}
