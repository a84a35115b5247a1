//! What `top` knows: the newest figures of each room, the order of the rooms, and what the person looks at.
//!
//! Nothing here talks to the service or to the terminal. Readings and keys come in, and the view reads the result.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    time::Instant,
};

use clap::ValueEnum;
use unibus::v1::Subscriber;

use super::readings::{ListedRoom, RoomAnswer, RoomReading};
use crate::cli::text::as_float;

/// Rooms whose details one refresh reads.
pub(super) const ROOMS_PER_REFRESH_MAX: usize = 200;

/// The order of the rooms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// The highest publish rate first
    #[default]
    Rate,
    /// The most messages first
    Messages,
    /// The most bytes first
    Bytes,
    /// The largest lag first
    Lag,
    /// By id
    Name,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Sort by this; again: the other way round.
    Sort(SortBy),
    /// Move by this number of lines.
    Move(isize),
    /// Move by this number of pages.
    Page(isize),
    First,
    Last,
    /// Show the subscribers of the chosen room.
    Open,
    /// Show the rooms again.
    Back,
}

/// The newest figures of a room.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RoomFigures {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// Messages per second between the last two readings; `None` after the first one.
    pub(super) rate: Option<f64>,
    pub(super) subscribers: usize,
    /// Whether the room has more subscribers, which were not read.
    pub(super) has_more: bool,
    /// Subscribers with an open subscription.
    pub(super) open: usize,
    /// The largest lag of a subscriber.
    pub(super) lag: u64,
    /// Whether the lag has grown since the reading before.
    pub(super) lag_grows: bool,
}

/// A room.
#[derive(Clone, Debug)]
pub(super) struct RoomRow {
    pub(super) persist: bool,
    /// `None`: nothing was read yet.
    pub(super) figures: Option<RoomFigures>,
    /// The time of the last reading, and the sequence of the newest message then.
    last: Option<(Instant, u64)>,
}

/// A subscriber of the room that is shown alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SubscriberRow {
    pub(super) subscriber: Subscriber,
    /// Messages per second by which the position moved on; `None` if it is unknown or moved back.
    pub(super) rate: Option<f64>,
}

/// The room that is shown alone.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenedRoom {
    pub(super) room_id: String,
    pub(super) subscribers: Vec<SubscriberRow>,
    pub(super) has_more: bool,
    /// Whether its subscribers were read.
    pub(super) is_read: bool,
    last: Option<Instant>,
}

/// The part of a list that fits on the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ListWindow {
    /// The line that is chosen.
    pub(super) selected: usize,
    /// The first line that is shown.
    pub(super) first: usize,
}

/// Everything that `top` knows.
#[derive(Debug, Default)]
pub(super) struct TopState {
    rooms: BTreeMap<String, RoomRow>,
    /// The ids in the order of the table.
    order: Vec<String>,
    pub(super) sort: SortBy,
    pub(super) is_reversed: bool,
    /// The part of the rooms that is shown.
    pub(super) window: ListWindow,
    pub(super) opened: Option<OpenedRoom>,
    /// The part of the subscribers that is shown.
    pub(super) opened_window: ListWindow,
    /// Lines for rooms or subscribers on the screen; 0: there is no screen.
    height: usize,
    /// The room after which the next rooms are read that are not on the screen.
    read_through: Option<String>,
    /// Why the last refresh failed.
    pub(super) problem: Option<String>,
    /// Why the details of a room could not be read in the last refresh.
    pub(super) room_problem: Option<String>,
}

impl TopState {
    pub(super) fn new(sort: SortBy) -> Self {
        Self { sort, ..Self::default() }
    }

    /// Takes the list of all rooms.
    pub(super) fn listed(&mut self, listed: Vec<ListedRoom>) {
        let ids: BTreeSet<_> = listed.iter().map(|room| room.room_id.as_str()).collect();
        self.rooms.retain(|room_id, _| ids.contains(room_id.as_str()));
        for room in listed {
            let row =
                self.rooms.entry(room.room_id).or_insert(RoomRow { persist: room.persist, figures: None, last: None });
            row.persist = room.persist;
        }
        self.problem = None;
        self.arrange();
    }

    /// The rooms whose details the next refresh reads: those on the screen, and then others in turn.
    pub(super) fn wanted(&mut self) -> Vec<String> {
        let opened = self.opened.iter().map(|opened| &opened.room_id);
        let visible = self.order.iter().skip(self.window.first).take(self.height);
        let is_read = |room_id: &&String| self.rooms.get(*room_id).is_some_and(|room| room.persist);
        // the opened room is one of the visible ones
        let mut chosen = BTreeSet::new();
        let first = opened.chain(visible).filter(is_read).filter(|room_id| chosen.insert((*room_id).clone()));
        let mut wanted: Vec<_> = first.take(ROOMS_PER_REFRESH_MAX).cloned().collect();
        // without a screen the same rooms are read each time, for their rates
        let begin = self.read_through.take().filter(|_| self.height > 0);
        let after = begin.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.rooms.range::<String, _>((after, Bound::Unbounded));
        let earlier = begin.iter().flat_map(|begin| self.rooms.range::<String, _>(..=begin));
        for (room_id, _) in later.chain(earlier).filter(|(_, room)| room.persist) {
            if wanted.len() >= ROOMS_PER_REFRESH_MAX {
                break;
            }
            if chosen.insert(room_id.clone()) {
                wanted.push(room_id.clone());
                self.read_through = Some(room_id.clone());
            }
        }
        wanted
    }

    /// Takes the details of rooms.
    pub(super) fn details(&mut self, answers: Vec<(String, RoomAnswer)>) {
        (self.problem, self.room_problem) = (None, None);
        for (room_id, answer) in answers {
            match answer {
                RoomAnswer::Gone => drop(self.rooms.remove(&room_id)),
                RoomAnswer::Failed(failure) => self.room_problem = Some(failure.summary()),
                RoomAnswer::Read(reading) => {
                    if let Some(opened) = self.opened.as_mut().filter(|opened| opened.room_id == room_id) {
                        opened.read(&reading);
                    }
                    if let Some(row) = self.rooms.get_mut(&room_id) {
                        row.read(&reading);
                    }
                }
            }
        }
        self.arrange();
    }

    /// A refresh failed. The figures stay as they are.
    pub(super) fn failed(&mut self, problem: String) {
        self.problem = Some(problem);
    }

    /// Does what a key asks for.
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Sort(sort) if sort == self.sort => self.is_reversed = !self.is_reversed,
            Command::Sort(sort) => (self.sort, self.is_reversed) = (sort, false),
            Command::Move(lines) => self.step(lines),
            Command::Page(pages) => self.step(pages.saturating_mul(self.height.max(1).cast_signed())),
            Command::First => self.step(isize::MIN),
            Command::Last => self.step(isize::MAX),
            Command::Open => self.open(),
            Command::Back => self.opened = None,
        }
        self.arrange();
    }

    fn step(&mut self, lines: isize) {
        let window = if self.opened.is_some() { &mut self.opened_window } else { &mut self.window };
        window.selected = window.selected.saturating_add_signed(lines);
    }

    fn open(&mut self) {
        let chosen = self.order.get(self.window.selected).filter(|_| self.opened.is_none());
        if let Some(room_id) = chosen.cloned() {
            self.opened = Some(OpenedRoom { room_id, ..OpenedRoom::default() });
            self.opened_window = ListWindow::default();
        }
    }

    /// The screen has this number of lines for rooms or subscribers.
    pub(super) fn resize(&mut self, height: usize) {
        self.height = height.max(1);
        self.arrange();
    }

    /// Sorts the rooms, and keeps the chosen lines on the screen.
    fn arrange(&mut self) {
        let mut order: Vec<_> = self.rooms.iter().collect();
        order.sort_by(|one, other| self.compare(*one, *other));
        self.order = order.into_iter().map(|(room_id, _)| room_id.clone()).collect();
        if self.opened.as_ref().is_some_and(|opened| !self.rooms.contains_key(&opened.room_id)) {
            self.opened = None;
        }
        self.window.fit(self.order.len(), self.height);
        let subscribers = self.opened.as_ref().map_or(0, |opened| opened.subscribers.len());
        self.opened_window.fit(subscribers, self.height);
    }

    fn compare(&self, one: (&String, &RoomRow), other: (&String, &RoomRow)) -> Ordering {
        let figure = |room: &RoomRow| {
            let figures = room.figures.as_ref()?;
            match self.sort {
                SortBy::Rate => figures.rate,
                SortBy::Messages => Some(as_float(figures.messages)),
                SortBy::Bytes => Some(as_float(figures.bytes)),
                SortBy::Lag => Some(as_float(figures.lag)),
                SortBy::Name => None,
            }
        };
        let by_name = one.0.cmp(other.0);
        let descending = match (figure(one.1), figure(other.1)) {
            (Some(one), Some(other)) => other.total_cmp(&one),
            // unknown figures come last, in either direction
            (Some(_), None) => return Ordering::Less,
            (None, Some(_)) => return Ordering::Greater,
            (None, None) if self.sort == SortBy::Name => by_name,
            (None, None) => return by_name,
        };
        (if self.is_reversed { descending.reverse() } else { descending }).then(by_name)
    }

    /// All rooms, in their order.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, &RoomRow)> {
        self.order.iter().filter_map(|room_id| Some((room_id.as_str(), self.rooms.get(room_id)?)))
    }

    /// The room with this id.
    pub(super) fn row(&self, room_id: &str) -> Option<&RoomRow> {
        self.rooms.get(room_id)
    }

    pub(super) fn room_count(&self) -> usize {
        self.order.len()
    }

    /// Whether every refresh reads all rooms.
    pub(super) fn reads_all(&self) -> bool {
        self.rooms.values().filter(|room| room.persist).count() <= ROOMS_PER_REFRESH_MAX
    }

    /// Messages per second in all rooms whose rate is known.
    pub(super) fn total_rate(&self) -> f64 {
        // an empty sum would be -0
        self.rooms.values().filter_map(|room| room.figures.as_ref()?.rate).fold(0.0, |sum, rate| sum + rate)
    }
}

impl ListWindow {
    /// Keeps the chosen line inside the list, and inside the lines that are shown.
    fn fit(&mut self, lines: usize, height: usize) {
        let height = height.max(1);
        self.selected = self.selected.min(lines.saturating_sub(1));
        self.first = self.first.min(lines.saturating_sub(height)).min(self.selected);
        self.first = self.first.max((self.selected + 1).saturating_sub(height));
    }
}

impl RoomRow {
    fn read(&mut self, reading: &RoomReading) {
        let lag = reading.subscribers.iter().map(|one| one.lag).max().unwrap_or_default();
        let before = self.figures.as_ref();
        let rate = self.last.and_then(|(at, sequence)| {
            // a smaller sequence: the log was created again
            rate(reading.last_sequence.checked_sub(sequence)?, at, reading.at)
        });
        self.figures = Some(RoomFigures {
            messages: reading.messages,
            bytes: reading.bytes,
            rate,
            subscribers: reading.subscribers.len(),
            has_more: reading.has_more,
            open: reading.subscribers.iter().filter(|one| one.open).count(),
            lag,
            lag_grows: before.is_some_and(|before| lag > before.lag),
        });
        self.last = Some((reading.at, reading.last_sequence));
    }
}

impl OpenedRoom {
    fn read(&mut self, reading: &RoomReading) {
        let before: HashMap<_, _> =
            self.subscribers.iter().map(|row| (row.subscriber.consumer.clone(), row.subscriber.position)).collect();
        let rows = reading.subscribers.iter().map(|subscriber| {
            let moved = before.get(&subscriber.consumer).and_then(|before| subscriber.position.checked_sub(*before));
            let rate = moved.zip(self.last).and_then(|(moved, last)| rate(moved, last, reading.at));
            SubscriberRow { subscriber: subscriber.clone(), rate }
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|one, other| {
            let (one, other) = (&one.subscriber, &other.subscriber);
            other.lag.cmp(&one.lag).then_with(|| one.subscriber.cmp(&other.subscriber))
        });
        (self.subscribers, self.has_more, self.is_read) = (rows, reading.has_more, true);
        self.last = Some(reading.at);
    }
}

/// Messages per second between two times.
fn rate(messages: u64, from: Instant, to: Instant) -> Option<f64> {
    let seconds = to.saturating_duration_since(from).as_secs_f64();
    (seconds > 0.0).then(|| as_float(messages) / seconds)
}
