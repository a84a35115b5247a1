//! Tables and JSON objects for pipes and scripts.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::{RoomRow, TopState};
use crate::cli::{
    failure::CliResult,
    output::{Form, Printer},
    text,
};

/// Prints all rooms in the form that was asked for.
pub(super) fn print(out: &Printer, state: &TopState) -> CliResult {
    match out.form() {
        Form::People => table(out, state),
        Form::Json => out.value(&object(state, Timestamp::now())),
        Form::Quiet => state.rows().try_for_each(|(room_id, _)| out.line(room_id)),
    }
}

fn table(out: &Printer, state: &TopState) -> CliResult {
    if state.room_count() == 0 {
        out.notice("no rooms");
        return Ok(());
    }
    let headings = ["ROOM", "MESSAGES", "BYTES", "RATE/S", "SUBSCRIBERS", "OPEN", "MAX LAG"];
    out.table(&headings, state.rows().map(|(room_id, room)| row(room_id, room)))
}

fn row(room_id: &str, room: &RoomRow) -> Vec<String> {
    let unknown = || "-".to_owned();
    let mut row = vec![room_id.to_owned()];
    match &room.figures {
        Some(figures) => row.extend([
            figures.messages.to_string(),
            text::bytes(figures.bytes),
            figures.rate.map_or_else(unknown, |rate| format!("{rate:.1}")),
            figures.subscribers.to_string(),
            figures.open.to_string(),
            figures.lag.to_string(),
        ]),
        None if room.persist => row.extend(std::iter::repeat_with(unknown).take(6)),
        None => row.extend(std::iter::once("ephemeral".to_owned()).chain(std::iter::repeat_with(unknown)).take(6)),
    }
    row
}

/// One refresh in JSON. What is unknown is null.
fn object(state: &TopState, now: Timestamp) -> Value {
    let rooms = state.rows().map(|(room_id, room)| {
        let figures = room.figures.as_ref();
        json!({
            "roomId": room_id,
            "persisted": room.persist,
            "messages": figures.map(|figures| figures.messages),
            "bytes": figures.map(|figures| figures.bytes),
            "publishRate": figures.and_then(|figures| figures.rate),
            "subscribers": figures.map(|figures| figures.subscribers),
            "moreSubscribers": figures.map(|figures| figures.has_more),
            "openSubscribers": figures.map(|figures| figures.open),
            "maxLag": figures.map(|figures| figures.lag),
        })
    });
    json!({
        "time": now.to_string(),
        "publishRate": state.total_rate(),
        "rooms": rooms.collect::<Vec<_>>(),
    })
}
