//! What is known, and what is drawn of it, without a service and a terminal.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use unibus::v1::Subscriber;

use super::{
    readings::{ListedRoom, RoomAnswer, RoomReading},
    state::{Command, ROOMS_PER_REFRESH_MAX, SortBy, TopState},
    view::{self, Line, Surroundings},
};
use crate::cli::{exit::Exit, failure::Failure, style::Style};

fn listed(room_id: &str) -> ListedRoom {
    ListedRoom { room_id: room_id.to_owned(), persist: true }
}

fn subscriber(name: &str, position: u64, lag: u64) -> Subscriber {
    let (subscriber, consumer) = (name.to_owned(), name.to_owned());
    Subscriber { subscriber, consumer, position, lag, ..Subscriber::default() }
}

fn reading(at: Instant, messages: u64) -> RoomReading {
    let (bytes, last_sequence) = (messages * 100, messages);
    RoomReading { at, messages, bytes, last_sequence, subscribers: Vec::new(), has_more: false }
}

fn read(room_id: &str, reading: RoomReading) -> (String, RoomAnswer) {
    (room_id.to_owned(), RoomAnswer::Read(reading))
}

fn order(state: &TopState) -> Vec<&str> {
    state.rows().map(|(room_id, _)| room_id).collect()
}

fn around(columns: usize, lines: usize) -> Surroundings {
    Surroundings { server: "http://s".to_owned(), interval: Duration::from_secs(2), columns, lines }
}

/// The lines as a terminal without colours shows them.
fn shown(state: &TopState, around: &Surroundings) -> Vec<String> {
    let text = |line: &Line| {
        let mut text = String::new();
        for span in &line.spans {
            text.extend(std::iter::repeat_n(' ', span.column.saturating_sub(text.chars().count())));
            text.push_str(&span.text);
        }
        text
    };
    view::draw(state, around).iter().map(text).collect()
}

/// Three rooms, each read twice: `a` grows fastest, `b` has the most messages, `c` has the largest lag.
fn three_rooms() -> TopState {
    let mut state = TopState::new(SortBy::Rate);
    let first = Instant::now();
    let second = first + Duration::from_secs(2);
    state.listed(["a", "b", "c"].map(listed).into());
    state.details(vec![read("a", reading(first, 10)), read("b", reading(first, 5000)), read("c", reading(first, 7))]);
    let with_lag = |mut reading: RoomReading| {
        reading.subscribers = vec![subscriber("ann", 7, 0), subscriber("bob", 3, 4)];
        reading
    };
    state.details(vec![
        read("a", reading(second, 30)),
        read("b", reading(second, 5001)),
        read("c", with_lag(reading(second, 7))),
    ]);
    state
}

#[test]
fn a_rate_comes_from_two_readings_of_the_sequence() {
    let mut state = TopState::new(SortBy::Rate);
    let first = Instant::now();
    let second = first + Duration::from_secs(2);
    state.listed(vec![listed("a")]);
    let rate = |state: &TopState| state.row("a").unwrap().figures.as_ref().unwrap().rate;
    state.details(vec![read("a", reading(first, 10))]);
    assert_eq!(rate(&state), None);
    // purged messages do not make the rate smaller
    state.details(vec![read("a", RoomReading { messages: 0, ..reading(second, 40) })]);
    assert_eq!(rate(&state), Some(15.0));
    // the log was created again
    state.details(vec![read("a", reading(second + Duration::from_secs(2), 1))]);
    assert_eq!(rate(&state), None);
    assert!(state.total_rate().abs() < f64::EPSILON);
}

#[test]
fn each_order_has_its_figure_and_turns_round_when_it_is_chosen_again() {
    let mut state = three_rooms();
    assert_eq!(order(&state), ["a", "b", "c"]);
    for (sort, expected) in [
        (SortBy::Messages, ["b", "a", "c"]),
        (SortBy::Bytes, ["b", "a", "c"]),
        (SortBy::Lag, ["c", "a", "b"]),
        (SortBy::Lag, ["a", "b", "c"]),
        (SortBy::Name, ["a", "b", "c"]),
        (SortBy::Name, ["c", "b", "a"]),
        (SortBy::Rate, ["a", "b", "c"]),
        (SortBy::Rate, ["c", "b", "a"]),
    ] {
        state.command(Command::Sort(sort));
        assert_eq!(order(&state), expected, "{sort:?} {}", state.is_reversed);
    }
    // a room without figures is last in either direction
    state.listed(["0", "a", "b", "c"].map(listed).into());
    assert_eq!(order(&state), ["c", "b", "a", "0"]);
    state.command(Command::Sort(SortBy::Rate));
    assert_eq!(order(&state), ["a", "b", "c", "0"]);
}

#[test]
fn a_refresh_reads_the_screen_and_a_bounded_number_of_others_in_turn() {
    let mut state = TopState::new(SortBy::Name);
    let all: Vec<_> = (0..1000).map(|number| listed(&format!("room-{number:04}"))).collect();
    state.listed(all);
    state.resize(10);
    state.command(Command::Last);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let wanted = state.wanted();
        assert_eq!(wanted.len(), ROOMS_PER_REFRESH_MAX);
        assert_eq!(wanted.first().unwrap(), "room-0990");
        seen.extend(wanted);
    }
    assert_eq!(seen.len(), 1000);
    assert!(!state.reads_all());
    // without a screen the same rooms are read again, since a rate needs two readings
    let mut state = TopState::new(SortBy::Name);
    state.listed((0..1000).map(|number| listed(&format!("room-{number:04}"))).collect());
    assert_eq!(state.wanted(), state.wanted());
    let ephemeral = ListedRoom { persist: false, ..listed("live") };
    state.listed(vec![ephemeral, listed("a")]);
    assert_eq!(state.wanted(), ["a"]);
}

#[test]
fn the_chosen_line_stays_on_the_screen() {
    let mut state = TopState::new(SortBy::Name);
    state.listed((0..30).map(|number| listed(&format!("{number:02}"))).collect());
    state.resize(10);
    let at = |state: &TopState| (state.window.first, state.window.selected);
    for (command, expected) in [
        (Command::Move(-1), (0, 0)),
        (Command::Move(3), (0, 3)),
        (Command::Page(1), (4, 13)),
        (Command::Move(-2), (4, 11)),
        (Command::Last, (20, 29)),
        (Command::Move(1), (20, 29)),
        (Command::First, (0, 0)),
    ] {
        state.command(command);
        assert_eq!(at(&state), expected, "{command:?}");
    }
    state.command(Command::Last);
    state.resize(25);
    assert_eq!(at(&state), (5, 29));
    state.listed(vec![listed("00")]);
    assert_eq!(at(&state), (0, 0));
    state.listed(Vec::new());
    assert_eq!(at(&state), (0, 0));
    assert!(shown(&state, &around(80, 24))[0].contains("   0.0/s"));
    assert_eq!(shown(&state, &around(80, 24))[3].trim(), "no rooms");
}

#[test]
fn the_table_shows_figures_under_their_headings() {
    let mut state = three_rooms();
    state.resize(view::body_height(8));
    let lines = shown(&state, &around(100, 8));
    assert_eq!(lines.len(), 8);
    assert_eq!(lines[0], "unibus top   3 rooms   10.5/s published   http://s   every 2s");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&lines[2]), ["ROOM", "MESSAGES", "BYTES", "RATE/S▼", "SUBSCRIBERS", "OPEN", "MAX", "LAG"]);
    assert_eq!(words(&lines[3]), [">", "a", "30", "2.9", "KiB", "10.0", "0", "0", "0"]);
    assert_eq!(words(&lines[4]), ["b", "5,001", "488.3", "KiB", "0.5", "0", "0", "0"]);
    assert_eq!(words(&lines[5]), ["c", "7", "700", "B", "0.0", "2", "0", "4"]);
    let end = |line: &str, text: &str| {
        let from = line.find(text).unwrap();
        line[..from].chars().count() + text.chars().count()
    };
    assert_eq!(end(&lines[2], "MESSAGES"), end(&lines[4], "5,001"));
    assert_eq!(end(&lines[2], "MAX LAG"), end(&lines[5], "4"));
    assert!(lines[7].contains("q quit"));
}

#[test]
fn a_narrow_terminal_keeps_the_names_and_the_rate() {
    let mut state = three_rooms();
    for (columns, kept) in [(30, 1), (50, 2), (65, 3), (100, 6)] {
        state.resize(4);
        let lines = shown(&state, &around(columns, 8));
        assert!(lines.iter().all(|line| line.chars().count() <= columns), "{lines:?}");
        let headings = ["MESSAGES", "BYTES", "RATE/S", "SUBSCRIBERS", "OPEN", "MAX LAG"];
        assert_eq!(headings.iter().filter(|heading| lines[2].contains(**heading)).count(), kept, "{lines:?}");
        assert!(lines[2].contains("RATE/S") && lines[3].contains('a'), "{lines:?}");
    }
    for (columns, lines) in [(1, 1), (3, 2), (200, 1), (1, 50)] {
        state.resize(view::body_height(lines));
        assert!(view::draw(&state, &around(columns, lines)).len() <= lines);
    }
}

#[test]
fn ids_of_others_cannot_steer_the_terminal_or_shift_columns() {
    let mut state = TopState::new(SortBy::Name);
    let long = "x".repeat(128);
    state.listed(["a\u{1b}[2J\nb", "部屋-の-名前-は-とても-長い-です-から-切る", &long].map(listed).into());
    state.details(state.rows().map(|(room_id, _)| read(room_id, reading(Instant::now(), 3))).collect());
    state.resize(4);
    let drawn = view::draw(&state, &around(80, 8));
    for line in &drawn[3..6] {
        assert!(line.spans.iter().all(|span| !span.text.contains(['\u{1b}', '\n'])), "{line:?}");
        let name = line.spans.iter().find(|span| span.column == 2).unwrap();
        let width: usize = name.text.chars().map(|c| if c.is_ascii() || c == '…' { 1 } else { 2 }).sum();
        let next = line.spans.iter().filter(|span| span.column > 2).map(|span| span.column).min().unwrap();
        assert!(2 + width < next, "{line:?}");
    }
    let columns =
        |line: &Line| line.spans.iter().map(|span| span.column).filter(|column| *column > 2).collect::<Vec<_>>();
    assert_eq!(columns(&drawn[3]), columns(&drawn[4]));
}

#[test]
fn an_opened_room_shows_its_subscribers_with_the_largest_lag_first() {
    let mut state = three_rooms();
    state.command(Command::Sort(SortBy::Lag));
    state.command(Command::Open);
    state.resize(view::body_height(8));
    assert!(shown(&state, &around(100, 8))[3].contains("reading"));
    // once, although it is on the screen of the rooms too: two readings at the same time give no rate
    assert_eq!(state.wanted(), ["c", "a", "b"]);
    let at = Instant::now() + Duration::from_secs(4);
    let with = |at, ann, bob| RoomReading {
        subscribers: vec![subscriber("ann", ann, 7 - ann), subscriber("bob", bob, 7 - bob)],
        ..reading(at, 7)
    };
    state.details(vec![read("c", with(at, 7, 3))]);
    state.details(vec![read("c", with(at + Duration::from_secs(2), 7, 5))]);
    let lines = shown(&state, &around(100, 8));
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&lines[3]), [">", "bob", "2", "1.0", "5", "no", "-"]);
    assert_eq!(words(&lines[4]), ["ann", "0", "0.0", "7", "no", "-"]);
    state.command(Command::Back);
    assert!(shown(&state, &around(100, 8))[0].starts_with("unibus top"));
    // a room that is gone is left
    state.command(Command::Open);
    state.details(vec![("c".to_owned(), RoomAnswer::Gone)]);
    assert!(state.opened.is_none());
    assert_eq!(order(&state), ["a", "b"]);
}

#[test]
fn a_lost_connection_is_said_and_the_figures_stay() {
    let mut state = three_rooms();
    state.failed("gone\u{1b}".to_owned());
    state.resize(4);
    let drawn = view::draw(&state, &around(80, 8));
    let problem = drawn[1].spans.first().unwrap();
    assert!(problem.text.starts_with("reconnecting") && !problem.text.contains('\u{1b}'), "{problem:?}");
    assert_eq!(problem.style, Some(Style::Error));
    assert!(shown(&state, &around(80, 8))[3].contains("10.0"));
    state.details(vec![("a".to_owned(), RoomAnswer::Failed(Failure::new(Exit::Unavailable, "no leader")))]);
    assert_eq!(shown(&state, &around(80, 8))[1], "no leader");
    state.details(Vec::new());
    assert_eq!(shown(&state, &around(80, 8))[1], "");
}
