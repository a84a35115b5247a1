//! `top` on a terminal: keys, readings and the clock change what is known, and each change is drawn.

use std::{io, time::Duration};

use crossterm::{
    event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    terminal,
};
use futures_util::{StreamExt, future::BoxFuture};
use tokio::time::{self, MissedTickBehavior};
use unibus::StopSignals;

use super::{
    readings::{ListedRoom, Reader, RoomAnswer},
    screen::Screen,
    state::{Command, SortBy, TopState},
    view::{self, Surroundings},
};
use crate::cli::failure::{CliResult, Failure};

/// The size of a terminal that does not tell it.
const SIZE_DEFAULT: (u16, u16) = (80, 24);

/// What the service answered.
enum ServiceAnswer {
    Rooms(Vec<ListedRoom>),
    Details(Vec<(String, RoomAnswer)>),
}

/// A call under way, which gives the reader back.
type Asking = BoxFuture<'static, (Reader, CliResult<ServiceAnswer>)>;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Interrupt,
    Do(Command),
}

/// Runs on the terminal until a key or a signal ends it.
pub(super) async fn run(
    mut reader: Reader,
    mut state: TopState,
    server: String,
    interval: Duration,
    is_coloured: bool,
    signals: &mut StopSignals,
) -> CliResult {
    // the first answer shows whether the command is right at all, while the screen of the shell is still there
    tokio::select! {
        listed = reader.list() => state.listed(listed?),
        signal = signals.next() => return Err(Failure::signal(signal)),
    }
    let mut screen = Screen::enter(is_coloured).map_err(|error| Failure::output(&error))?;
    let mut around = Surroundings { server, interval, columns: 0, lines: 0 };
    resize(&mut screen, &mut state, &mut around);
    let mut events = Some(EventStream::new());
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle = Some(reader);
    let mut asking: Option<Asking> = None;
    loop {
        screen.draw(view::draw(&state, &around)).map_err(|error| Failure::output(&error))?;
        tokio::select! {
            (reader, answer) = under_way(&mut asking) => {
                asking = None;
                match answer {
                    Ok(ServiceAnswer::Rooms(listed)) => {
                        state.listed(listed);
                        asking = Some(details(reader, state.wanted()));
                    }
                    Ok(ServiceAnswer::Details(answers)) => {
                        state.details(answers);
                        idle = Some(reader);
                    }
                    Err(failure) if reader.may_pass(&failure) => {
                        state.failed(failure.summary());
                        idle = Some(reader);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            _ = ticks.tick(), if idle.is_some() => {
                asking = idle.take().map(|reader| ask(reader, &mut state));
            }
            event = next_event(&mut events) => match event {
                Some(Ok(Event::Key(key))) => match meaning(key) {
                    Some(Key::Quit) => return Ok(()),
                    Some(Key::Interrupt) => return Err(Failure::signal("SIGINT")),
                    Some(Key::Do(command)) => {
                        state.command(command);
                        // the subscribers of a room that was just opened are not to be waited for
                        if command == Command::Open {
                            ticks.reset_immediately();
                        }
                    }
                    None => {}
                },
                Some(Ok(Event::Resize(..))) => resize(&mut screen, &mut state, &mut around),
                Some(Ok(_)) => {}
                // there is no keyboard
                Some(Err(_)) | None => events = None,
            },
            signal = signals.next() => return Err(Failure::signal(signal)),
        }
    }
}

fn resize(screen: &mut Screen<io::Stdout>, state: &mut TopState, around: &mut Surroundings) {
    let (columns, lines) = terminal::size().ok().filter(|size| size.0 > 0 && size.1 > 0).unwrap_or(SIZE_DEFAULT);
    (around.columns, around.lines) = (columns.into(), lines.into());
    state.resize(view::body_height(around.lines));
    screen.resized(around.columns);
}

/// The first call of a refresh.
fn ask(mut reader: Reader, state: &mut TopState) -> Asking {
    if !reader.needs_list() {
        return details(reader, state.wanted());
    }
    Box::pin(async move {
        let answer = reader.list().await.map(ServiceAnswer::Rooms);
        (reader, answer)
    })
}

fn details(mut reader: Reader, room_ids: Vec<String>) -> Asking {
    Box::pin(async move {
        let answer = reader.details(room_ids).await.map(ServiceAnswer::Details);
        (reader, answer)
    })
}

async fn under_way(asking: &mut Option<Asking>) -> (Reader, CliResult<ServiceAnswer>) {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

async fn next_event(events: &mut Option<EventStream>) -> Option<io::Result<Event>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// What a key means.
fn meaning(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return matches!(key.code, KeyCode::Char('c')).then_some(Key::Interrupt);
    }
    let command = match key.code {
        KeyCode::Char('q') => return Some(Key::Quit),
        KeyCode::Char('r') => Command::Sort(SortBy::Rate),
        KeyCode::Char('m') => Command::Sort(SortBy::Messages),
        KeyCode::Char('b') => Command::Sort(SortBy::Bytes),
        KeyCode::Char('l') => Command::Sort(SortBy::Lag),
        KeyCode::Char('n') => Command::Sort(SortBy::Name),
        KeyCode::Up | KeyCode::Char('k') => Command::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Command::Move(1),
        KeyCode::PageUp => Command::Page(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Command::Page(1),
        KeyCode::Home => Command::First,
        KeyCode::End => Command::Last,
        KeyCode::Enter | KeyCode::Right => Command::Open,
        KeyCode::Esc | KeyCode::Left | KeyCode::Backspace => Command::Back,
        _ => return None,
    };
    Some(Key::Do(command))
}
