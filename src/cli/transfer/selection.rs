//! Which messages of a room are exported.

use clap::Args;
use jiff::Timestamp;
use prost::Message as _;
use unibus::v1::{Message, Room, TimeRange, history_request::Anchor};

use super::{
    calls::{EncodedMessages, RoomCalls},
    format::FileHead,
};
use crate::cli::{
    exit::Exit,
    failure::{CliResult, Failure},
    values::{self, LogPlace},
};

/// A value with the text that gave it.
#[derive(Clone, Debug)]
pub(super) struct AsWritten<T> {
    text: String,
    value: T,
}

fn place(given: &str) -> Result<AsWritten<LogPlace>, String> {
    Ok(AsWritten { text: given.to_owned(), value: given.parse()? })
}

fn time(given: &str) -> Result<AsWritten<Timestamp>, String> {
    Ok(AsWritten { text: given.to_owned(), value: values::time(given)? })
}

/// The flags that choose messages.
#[derive(Args, Clone, Debug)]
pub(super) struct SelectionFlags {
    /// Only messages after this sequence or cursor
    #[arg(long, value_name = "PLACE", value_parser = place, conflicts_with = "since")]
    after: Option<AsWritten<LogPlace>>,
    /// Only messages before this sequence or cursor
    #[arg(long, value_name = "PLACE", value_parser = place, conflicts_with = "until")]
    before: Option<AsWritten<LogPlace>>,
    /// Only messages that were stored at or after this time: a time, or a duration before now
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<AsWritten<Timestamp>>,
    /// Only messages that were stored before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<AsWritten<Timestamp>>,
}

impl SelectionFlags {
    /// The flags as they were written. The same command has the same text, also if a time is relative to now.
    pub(super) fn written(&self) -> Vec<String> {
        let of = |name: &str, text: Option<&String>| text.map(|text| format!("--{name}={text}"));
        [
            of("after", self.after.as_ref().map(|given| &given.text)),
            of("before", self.before.as_ref().map(|given| &given.text)),
            of("since", self.since.as_ref().map(|given| &given.text)),
            of("until", self.until.as_ref().map(|given| &given.text)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The head of a new file. The places become sequences, so that an export that goes on later ends at the same message.
    pub(super) async fn head(&self, calls: &mut RoomCalls, encoded: Vec<u8>, room: &Room) -> CliResult<FileHead> {
        let last = room.state.unwrap_or_default().last_sequence;
        let after = match (&self.after, &self.since) {
            (Some(AsWritten { value: LogPlace::Sequence(sequence), .. }), _) => *sequence,
            (Some(AsWritten { value: LogPlace::Cursor(cursor), .. }), _) => {
                let page = calls.page(1, Anchor::AfterCursor(cursor.clone())).await?;
                first(&page)?.map_or(last, |sequence| sequence.saturating_sub(1))
            }
            (None, Some(since)) => before_time(calls, since.value).await?.unwrap_or(last),
            (None, None) => 0,
        };
        let through = match (&self.before, &self.until) {
            (Some(AsWritten { value: LogPlace::Sequence(sequence), .. }), _) => sequence.saturating_sub(1),
            (Some(AsWritten { value: LogPlace::Cursor(cursor), .. }), _) => {
                let page = calls.page(1, Anchor::BeforeCursor(cursor.clone())).await?;
                first(&page)?.unwrap_or_default()
            }
            (None, Some(until)) => before_time(calls, until.value).await?.unwrap_or(last),
            (None, None) => last,
        };
        // a page without messages, which only shows the log
        let cursor = calls.page(1, Anchor::AfterSequence(last)).await?.newer_cursor;
        Ok(FileHead {
            room: encoded.into(),
            after_sequence: after,
            through_sequence: through.min(last).max(after),
            cursor,
            selection: self.written(),
        })
    }
}

/// The sequence before the first message that was stored at or after this time; `None` if there is no such message.
async fn before_time(calls: &mut RoomCalls, time: Timestamp) -> CliResult<Option<u64>> {
    let range = TimeRange { start: Some(values::proto_time(time)), end: None };
    let page = calls.page(1, Anchor::TimeRange(range)).await?;
    Ok(first(&page)?.map(|sequence| sequence.saturating_sub(1)))
}

fn first(page: &EncodedMessages) -> CliResult<Option<u64>> {
    let message = page.messages.first().map(|encoded| Message::decode(encoded.clone())).transpose();
    let message = message.map_err(|error| Failure::new(Exit::Failed, format!("a message has no meaning: {error}")))?;
    Ok(message.map(|message| message.sequence))
}
