//! What the screen shows: a pure function from what `top` knows to lines.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::state::{OpenedRoom, RoomRow, SortBy, SubscriberRow, TopState};
use crate::cli::{printable::safe_line, style::Style, text};

/// Lines that are not for rooms or subscribers: the title, a line below it, the headings, and the keys.
const OTHER_LINES: usize = 4;
/// The columns before the name: the mark of the chosen line.
const MARK_COLUMNS: usize = 2;
/// The fewest columns for a name, before others make room for it.
const NAME_COLUMNS_MIN: usize = 16;
/// What stands for an unknown figure.
const UNKNOWN: &str = "-";

/// A part of a line, at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextSpan {
    /// The first column, from 0.
    pub(super) column: usize,
    pub(super) text: String,
    pub(super) style: Option<Style>,
}

/// A line of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) spans: Vec<TextSpan>,
    /// Whether the line is the chosen one.
    pub(super) is_selected: bool,
}

/// What does not come from readings.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    /// The URL of the service.
    pub(super) server: String,
    pub(super) interval: Duration,
    pub(super) columns: usize,
    pub(super) lines: usize,
}

/// A column to the right of the name.
struct Column {
    heading: &'static str,
    width: usize,
    /// The order that the column shows.
    sort: Option<SortBy>,
    /// Columns with the highest number go first when there is no room.
    rank: u8,
}

const fn column(heading: &'static str, width: usize, sort: Option<SortBy>, rank: u8) -> Column {
    Column { heading, width, sort, rank }
}

/// The columns of the rooms; [`room_cells`] has their values.
const ROOM_COLUMNS: [Column; 6] = [
    column("MESSAGES", 15, Some(SortBy::Messages), 2),
    column("BYTES", 12, Some(SortBy::Bytes), 3),
    column("RATE/S", 11, Some(SortBy::Rate), 0),
    column("SUBSCRIBERS", 13, None, 4),
    column("OPEN", 6, None, 5),
    column("MAX LAG", 14, Some(SortBy::Lag), 1),
];

/// The columns of the subscribers; [`subscriber_cells`] has their values.
const SUBSCRIBER_COLUMNS: [Column; 5] = [
    column("LAG", 14, None, 0),
    column("RATE/S", 11, None, 1),
    column("POSITION", 15, None, 2),
    column("OPEN", 6, None, 3),
    column("LAST ACTIVE", 21, None, 4),
];

/// The lines for rooms or subscribers on a screen with this number of lines.
pub(super) fn body_height(lines: usize) -> usize {
    lines.saturating_sub(OTHER_LINES).max(1)
}

/// The lines of the screen, at most as many as it has.
pub(super) fn draw(state: &TopState, around: &Surroundings) -> Vec<Line> {
    let mut lines = match &state.opened {
        Some(opened) => subscribers(state, opened, around),
        None => rooms(state, around),
    };
    let keys = if state.opened.is_some() {
        "q quit   Esc rooms   arrows move"
    } else {
        "q quit   Enter subscribers   sort by: r rate, m messages, b bytes, l lag, n name"
    };
    lines.resize(around.lines.saturating_sub(1).max(1), Line::default());
    lines.push(Line::of(0, keys, Some(Style::Faint), around.columns));
    lines.truncate(around.lines);
    lines
}

fn rooms(state: &TopState, around: &Surroundings) -> Vec<Line> {
    let (columns, name_width) = fitting(&ROOM_COLUMNS, around.columns);
    let count = text::count(state.room_count() as u64, "room");
    let rate = format!("{}/s published", text::rate(state.total_rate()));
    let parts = [("unibus top", Some(Style::Strong)), (count.as_str(), None), (rate.as_str(), None)];
    let mut lines = title(state, &parts, around);
    lines.push(headings("ROOM", &columns, name_width, Some((state.sort, state.is_reversed))));
    if state.room_count() == 0 {
        lines.push(Line::of(MARK_COLUMNS, "no rooms", Some(Style::Faint), around.columns));
    }
    let shown = state.rows().enumerate().skip(state.window.first).take(body_height(around.lines));
    for (number, (room_id, room)) in shown {
        let cells = room_cells(room);
        lines.push(row(room_id, &cells, &columns, name_width, number == state.window.selected));
    }
    lines
}

fn subscribers(state: &TopState, opened: &OpenedRoom, around: &Surroundings) -> Vec<Line> {
    let (columns, name_width) = fitting(&SUBSCRIBER_COLUMNS, around.columns);
    let figures = state.row(&opened.room_id).and_then(|room| room.figures.as_ref());
    let messages = figures.map(|figures| text::count_grouped(figures.messages, "message")).unwrap_or_default();
    let bytes = figures.map(|figures| text::bytes(figures.bytes)).unwrap_or_default();
    let rate = figures.and_then(|figures| figures.rate).map(|rate| format!("{}/s published", text::rate(rate)));
    let (name, rate) = (safe_line(&opened.room_id), rate.unwrap_or_default());
    let parts =
        [(&*name, Some(Style::Strong)), (messages.as_str(), None), (bytes.as_str(), None), (rate.as_str(), None)];
    let mut lines = title(state, &parts, around);
    lines.push(headings("SUBSCRIBER", &columns, name_width, None));
    let is_ephemeral = state.row(&opened.room_id).is_some_and(|room| !room.persist);
    let remark = match opened {
        _ if is_ephemeral => "an ephemeral room has no durable subscribers",
        OpenedRoom { is_read: false, .. } => "reading",
        OpenedRoom { subscribers, .. } if subscribers.is_empty() => "no durable subscribers",
        _ => "",
    };
    if !remark.is_empty() {
        lines.push(Line::of(MARK_COLUMNS, remark, Some(Style::Faint), around.columns));
    }
    let window = state.opened_window;
    let shown = opened.subscribers.iter().enumerate().skip(window.first).take(body_height(around.lines));
    for (number, one) in shown {
        let cells = subscriber_cells(one);
        lines.push(row(&one.subscriber.subscriber, &cells, &columns, name_width, number == window.selected));
    }
    lines
}

/// The title, and the line below it, which has what went wrong.
fn title(state: &TopState, parts: &[(&str, Option<Style>)], around: &Surroundings) -> Vec<Line> {
    let mut first = Line::default();
    let every = format!("every {}", humantime::format_duration(around.interval));
    let last = [(&*around.server, Some(Style::Faint)), (&*every, Some(Style::Faint))];
    for (text, style) in parts.iter().chain(&last).filter(|(text, _)| !text.is_empty()) {
        let column = first.spans.last().map_or(0, |span| span.column + span.text.width() + 3);
        first.push(column, text, *style, around.columns);
    }
    let second = match (&state.problem, &state.room_problem) {
        (Some(problem), _) => {
            Line::of(0, &format!("reconnecting; the figures are old: {problem}"), Some(Style::Error), around.columns)
        }
        (None, Some(problem)) => Line::of(0, problem, Some(Style::Warning), around.columns),
        (None, None) if !state.reads_all() => {
            let text = "many rooms: those on the screen are read each time, the others in turn";
            Line::of(0, text, Some(Style::Faint), around.columns)
        }
        (None, None) => Line::default(),
    };
    vec![first, second]
}

/// The columns for which there is room, and the width of the names.
fn fitting(columns: &[Column], width: usize) -> (Vec<(usize, &Column)>, usize) {
    let mut kept: Vec<_> = columns.iter().enumerate().collect();
    loop {
        let taken: usize = kept.iter().map(|(_, column)| column.width).sum();
        let name_width = width.saturating_sub(MARK_COLUMNS + taken);
        let last = kept.iter().map(|(_, column)| column.rank).max();
        match last {
            Some(rank) if name_width < NAME_COLUMNS_MIN => kept.retain(|(_, column)| column.rank != rank),
            _ => return (kept, name_width),
        }
    }
}

fn headings(name: &str, columns: &[(usize, &Column)], name_width: usize, order: Option<(SortBy, bool)>) -> Line {
    let arrow = |sort: Option<SortBy>| match order {
        // the names ascend by themselves, and the figures descend
        Some((by, is_reversed)) if sort == Some(by) => {
            if is_reversed == (by == SortBy::Name) {
                "▼"
            } else {
                "▲"
            }
        }
        _ => "",
    };
    let mut line = Line::default();
    let style = Some(Style::Strong);
    line.push(MARK_COLUMNS, &format!("{name}{}", arrow(Some(SortBy::Name))), style, MARK_COLUMNS + name_width);
    let mut end = MARK_COLUMNS + name_width;
    for (_, column) in columns {
        end += column.width;
        let heading = format!("{}{}", column.heading, arrow(column.sort));
        line.push(end.saturating_sub(heading.width()), &heading, style, end);
    }
    line
}

fn row(
    name: &str,
    cells: &[(String, Option<Style>)],
    columns: &[(usize, &Column)],
    name_width: usize,
    is_selected: bool,
) -> Line {
    let mut line = Line { is_selected, ..Line::default() };
    if is_selected {
        line.push(0, ">", None, MARK_COLUMNS);
    }
    line.push(MARK_COLUMNS, &safe_line(name), None, MARK_COLUMNS + name_width);
    let mut end = MARK_COLUMNS + name_width;
    for (index, column) in columns {
        end += column.width;
        if let Some((cell, style)) = cells.get(*index) {
            // a value never touches the one before it
            let text = cut(cell, column.width.saturating_sub(1));
            line.push(end.saturating_sub(text.width()), &text, *style, end);
        }
    }
    line
}

/// The values of [`ROOM_COLUMNS`].
fn room_cells(room: &RoomRow) -> Vec<(String, Option<Style>)> {
    let unknown = || (UNKNOWN.to_owned(), Some(Style::Faint));
    let Some(figures) = &room.figures else {
        let first = if room.persist { unknown() } else { ("ephemeral".to_owned(), Some(Style::Faint)) };
        return std::iter::once(first).chain(std::iter::repeat_with(unknown)).take(ROOM_COLUMNS.len()).collect();
    };
    let plus = if figures.has_more { "+" } else { "" };
    let lag_style = match (figures.lag, figures.lag_grows) {
        (0, _) => Some(Style::Faint),
        (_, true) => Some(Style::Warning),
        (_, false) => None,
    };
    let if_some = |number: usize| if number == 0 { Some(Style::Faint) } else { None };
    vec![
        (text::grouped(figures.messages), None),
        (text::bytes(figures.bytes), None),
        rate_cell(figures.rate),
        (format!("{}{plus}", figures.subscribers), if_some(figures.subscribers)),
        (format!("{}{plus}", figures.open), if_some(figures.open)),
        (format!("{}{plus}", text::grouped(figures.lag)), lag_style),
    ]
}

/// The values of [`SUBSCRIBER_COLUMNS`].
fn subscriber_cells(row: &SubscriberRow) -> Vec<(String, Option<Style>)> {
    let one = &row.subscriber;
    vec![
        (text::grouped(one.lag), if one.lag == 0 { Some(Style::Faint) } else { None }),
        rate_cell(row.rate),
        (text::grouped(one.position), None),
        (text::yes_no(one.open).to_owned(), if one.open { Some(Style::Good) } else { Some(Style::Faint) }),
        (text::local_time(one.last_active_at.as_ref()), Some(Style::Faint)),
    ]
}

fn rate_cell(rate: Option<f64>) -> (String, Option<Style>) {
    match rate {
        None => (UNKNOWN.to_owned(), Some(Style::Faint)),
        Some(rate) => (text::rate(rate), Some(if rate > 0.0 { Style::Good } else { Style::Faint })),
    }
}

impl Line {
    fn of(column: usize, text: &str, style: Option<Style>, end: usize) -> Self {
        let mut line = Self::default();
        line.push(column, text, style, end);
        line
    }

    /// Adds a text, which ends before the column `end`.
    fn push(&mut self, column: usize, text: &str, style: Option<Style>, end: usize) {
        let text = cut(&safe_line(text), end.saturating_sub(column));
        if !text.is_empty() {
            self.spans.push(TextSpan { column, text, style });
        }
    }
}

/// The beginning of a text that takes at most this number of columns. Characters are counted one by one, so joined ones
/// are taken for wider than they are.
fn cut(text: &str, columns: usize) -> String {
    let width = |c: char| c.width().unwrap_or_default();
    if text.chars().map(width).sum::<usize>() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut shown = String::new();
    for c in text.chars() {
        let Some(rest) = left.checked_sub(width(c)) else { break };
        left = rest;
        shown.push(c);
    }
    if columns > 0 {
        shown.push('…');
    }
    shown
}
