//! Stores the records of a file in a room: each once, in order, whatever breaks.
//!
//! Record N gets the sequence `base + N`. A publish expects the sequence before its own to be the last one of the room, so
//! a second copy of it is refused, whoever sends it and however late. What is open after a failure is read from the room:
//! its last sequence is the number of records that it has, and the messages after the last known one must be those
//! records.

use std::collections::HashSet;

use prost::Message as _;
use tokio::time;
use unibus::v1::{
    BatchMessage, Message, PublishBatchRequest, PublishOutcome, PublishRequest, PublishResponse,
    history_request::Anchor, publish_outcome::Outcome,
};

use super::{
    calls::{PAGE_MESSAGES_MAX, RETRY_TIME_MAX, RoomCalls},
    record::Record,
    records::FileRecords,
};
use crate::cli::{
    backoff::Retries,
    connection::{CallChannel, client_of},
    exit::Exit,
    failure::{CliResult, Failure, status_of},
};

/// Messages of one publish. The service takes no more.
const BATCH_MESSAGES_MAX: usize = 1000;
/// Bytes of one publish with several messages: less than the service takes, so that an answer comes soon.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What was imported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Imported {
    /// Records that the room has.
    pub(super) stored: u64,
    /// Those of them that an earlier run has stored.
    pub(super) earlier: u64,
    /// Those that were stored now without their message ids.
    pub(super) without_id: u64,
    /// The sequence of the last record.
    pub(super) last_sequence: u64,
}

/// How a publish ended that the service answered.
enum BatchEnd {
    Stored,
    /// The room knows the id of this message from another one, or the ids of all messages.
    IdKnown(Option<usize>),
}

/// The room that gets the records.
pub(super) struct RoomTarget {
    calls: RoomCalls,
    records: FileRecords,
    /// The sequence before that of the first record.
    base: u64,
    created_at: Option<prost_types::Timestamp>,
    /// Records that the room has.
    stored: u64,
    without_id: u64,
    /// Bytes of the file up to the last of them.
    file_bytes: u64,
    /// Messages of the next publish: fewer after the service refused that many.
    batch_max: usize,
    retries: Retries,
}

impl RoomTarget {
    /// Nothing is known of the room yet.
    pub(super) fn new(calls: RoomCalls, records: FileRecords, base: u64) -> Self {
        Self {
            calls,
            records,
            base,
            created_at: None,
            stored: 0,
            without_id: 0,
            file_bytes: 0,
            batch_max: BATCH_MESSAGES_MAX,
            retries: Retries::new(Some(RETRY_TIME_MAX)),
        }
    }

    pub(super) fn room_id(&self) -> &str {
        self.calls.room_id()
    }

    /// The damage at which the records end.
    pub(super) fn take_damage(&mut self) -> Option<Failure> {
        self.records.take_damage()
    }

    /// Stores all records that the room does not have.
    pub(super) async fn run(&mut self) -> CliResult<Imported> {
        let last = self.last_sequence().await?;
        if last < self.base {
            let text = format!("the last sequence of {} is {last}, and not {}", self.room_id(), self.base);
            return Err(Failure::new(Exit::Conflict, text).hint("Give --append-after the last sequence of the room."));
        }
        if last > self.base {
            self.recognise(last).await.map_err(|failure| self.not_empty(failure, last))?;
        }
        let earlier = self.stored;
        loop {
            self.records.fill(self.batch_max).await?;
            let size = self.batch_size();
            if size == 0 {
                break;
            }
            match self.publish(size).await {
                Ok(BatchEnd::Stored) => {
                    self.retries.progress();
                    (0..size).for_each(|_| self.advance());
                    self.show_progress();
                }
                Ok(BatchEnd::IdKnown(which)) => self.forget_ids(which, size),
                Err(failure) => self.mend(failure, size).await?,
            }
        }
        Ok(Imported {
            stored: self.stored,
            earlier,
            without_id: self.without_id,
            last_sequence: self.base + self.stored,
        })
    }

    /// How many of the ready records the next publish has.
    fn batch_size(&self) -> usize {
        let mut bytes = 0;
        let fits = self.records.ready().iter().take(self.batch_max).take_while(|record| {
            bytes += record.bytes();
            bytes <= BATCH_BYTES_MAX
        });
        // a message that is larger than a batch is published alone
        fits.count().max(1).min(self.records.ready().len())
    }

    /// The room has the next record.
    fn advance(&mut self) {
        let Some(record) = self.records.pop() else { return };
        self.stored += 1;
        self.without_id += u64::from(record.has_lost_id());
        self.file_bytes = record.file_bytes;
    }

    fn show_progress(&self) {
        self.calls.bar.reached_messages(self.file_bytes, self.stored);
    }

    /// Publishes the next records: all of them, or none.
    async fn publish(&mut self, size: usize) -> CliResult<BatchEnd> {
        let expected = self.base + self.stored;
        let mut ids = HashSet::new();
        let mut messages: Vec<BatchMessage> = Vec::with_capacity(size);
        for at in 0..size {
            let Some(record) = self.records.get_mut(at) else { break };
            // the second message of an id would not be stored
            if !record.message().message_id.is_empty() && !ids.insert(record.message().message_id.clone()) {
                record.forget_id();
            }
            messages.push(record.message().clone());
        }
        if let Some(first) = messages.first_mut() {
            first.expected_last_sequence = Some(expected);
        }
        let answers = self.answers(messages).await?;
        let sequences: Vec<_> = answers.iter().map(|answer| answer.sequence).collect();
        if sequences.iter().copied().eq((expected + 1..).take(size)) {
            return Ok(BatchEnd::Stored);
        }
        // an answer with another sequence is that of another message with the same id
        match answers.iter().position(|answer| answer.duplicate) {
            Some(_) if size > 1 => Ok(BatchEnd::IdKnown(None)),
            Some(at) => Ok(BatchEnd::IdKnown(Some(at))),
            None => Err(Failure::new(Exit::Failed, format!("the service stored record {} elsewhere", self.stored + 1))),
        }
    }

    /// The answers to a publish of one or several messages.
    async fn answers(&mut self, mut messages: Vec<BatchMessage>) -> CliResult<Vec<PublishResponse>> {
        let (room_id, session) = (self.room_id().to_owned(), self.calls.session.clone());
        let what = format!("import into {room_id}");
        if messages.len() == 1
            && let Some(BatchMessage { payload, headers, message_id, expected_last_sequence, ttl }) = messages.pop()
        {
            let request = PublishRequest { room_id, payload, headers, message_id, expected_last_sequence, ttl };
            let publish =
                async |channel: CallChannel| client_of(channel).publish(session.request(request.clone())).await;
            return Ok(vec![self.calls.attempt(&what, &publish).await?]);
        }
        let request = PublishBatchRequest { room_id, messages, atomic: true };
        let publish =
            async |channel: CallChannel| client_of(channel).publish_batch(session.request(request.clone())).await;
        let answer = self.calls.attempt(&what, &publish).await?;
        let outcome = |result: PublishOutcome| match result.outcome {
            Some(Outcome::Result(stored)) => Ok(stored),
            Some(Outcome::Error(error)) => Err(Failure::call(&what, &status_of(&error))),
            None => Err(Failure::new(Exit::Failed, format!("cannot {what}: an answer is missing"))),
        };
        answer.results.into_iter().map(outcome).collect()
    }

    /// Publishes these records without ids from now on.
    fn forget_ids(&mut self, which: Option<usize>, size: usize) {
        for at in which.map_or(0..size, |at| at..at + 1) {
            if let Some(record) = self.records.get_mut(at) {
                record.forget_id();
            }
        }
    }

    /// Finds out what to do after a publish that failed.
    async fn mend(&mut self, failure: Failure, size: usize) -> CliResult {
        match failure.reason() {
            Some("BATCH_DUPLICATE") => {
                let number = |name| failure.metadata(name).and_then(|value| value.parse::<u64>().ok());
                let (index, sequence) = (number("index"), number("sequence"));
                // a late copy of an earlier publish has just stored this record
                if index.is_some_and(|index| sequence == Some(self.base + self.stored + 1 + index)) {
                    return self.settle(failure).await;
                }
                self.forget_ids(index.and_then(|index| usize::try_from(index).ok()), size);
                Ok(())
            }
            // the bounds of the room or the limits of the caller allow fewer messages at once, or one of them is refused:
            // then the others are stored, and the one is named
            Some("INVALID_FIELD" | "PAYLOAD_TOO_LARGE" | "LIMIT_REACHED") if size > 1 => {
                self.batch_max = size / 2;
                Ok(())
            }
            Some("RATE_LIMITED") if size > 1 => {
                self.batch_max = size / 2;
                self.settle(failure).await
            }
            Some("SEQUENCE_MISMATCH" | "OUTCOME_UNKNOWN" | "TIMEOUT") => self.settle(failure).await,
            _ if self.calls.session.may_pass(&failure) => self.settle(failure).await,
            _ => Err(match self.records.ready().front() {
                Some(record) if size == 1 => failure.within(&place(record)),
                _ => failure,
            }),
        }
    }

    /// Waits, and reads from the room which records it has.
    async fn settle(&mut self, failure: Failure) -> CliResult {
        let Some(wait) = self.retries.next_wait(&failure) else { return Err(failure) };
        if self.retries.is_first() && failure.reason() != Some("SEQUENCE_MISMATCH") {
            self.calls.bar.notice(&format!("{}; trying again", failure.summary()));
        }
        time::sleep(wait).await;
        let before = self.stored;
        let last = self.last_sequence().await?;
        if last > self.base + self.stored {
            self.recognise(last).await?;
        }
        if self.stored > before {
            self.retries.progress();
        }
        Ok(())
    }

    /// The last sequence of the room, which must still be the same room.
    async fn last_sequence(&mut self) -> CliResult<u64> {
        let (_, room) = self.calls.room().await?;
        if self.created_at.is_some() && self.created_at != room.created_at {
            let text = format!("the room {} was deleted and created again during the import", self.room_id());
            return Err(Failure::new(Exit::Conflict, text));
        }
        self.created_at = room.created_at;
        Ok(room.state.unwrap_or_default().last_sequence)
    }

    /// Compares the messages after those that are known, up to `last`, with the next records, and takes these as stored.
    async fn recognise(&mut self, last: u64) -> CliResult {
        let mut anchor = Anchor::AfterSequence(self.base + self.stored);
        let (mut compared, mut has_more) = (0_u64, true);
        while has_more {
            let page = self.calls.page(PAGE_MESSAGES_MAX, anchor).await?;
            for encoded in &page.messages {
                let message = Message::decode(encoded.clone())
                    .map_err(|error| Failure::new(Exit::Failed, format!("a message has no meaning: {error}")))?;
                if message.sequence > last {
                    has_more = false;
                    break;
                }
                let number = message.sequence.saturating_sub(self.base);
                self.advance_before(number).await?;
                match self.records.front().await? {
                    Some(record) if record.is(&message) => self.advance(),
                    Some(record) => return Err(foreign(self.calls.room_id(), &message, record)),
                    // others publish after the end of the import
                    None if compared > 0 => return Ok(()),
                    None => return Err(self.nothing_to_compare(last)),
                }
                compared += 1;
            }
            self.show_progress();
            has_more &= page.has_newer && !page.messages.is_empty();
            anchor = Anchor::AfterCursor(page.newer_cursor);
        }
        if compared == 0 {
            return Err(self.nothing_to_compare(last));
        }
        // the newest ones were removed since
        self.advance_before(last.saturating_sub(self.base) + 1).await
    }

    /// Takes the records before this one as stored. The room does not have them any more.
    async fn advance_before(&mut self, number: u64) -> CliResult {
        while self.records.front().await?.is_some_and(|record| record.number < number) {
            self.advance();
        }
        Ok(())
    }

    fn nothing_to_compare(&self, last: u64) -> Failure {
        let (room_id, after) = (self.room_id(), self.base + self.stored);
        let text = format!("{room_id} has no message after sequence {after} any more, but its last sequence is {last}");
        Failure::new(Exit::Conflict, text)
    }

    /// Adds to a failure of the first comparison what a person can do.
    fn not_empty(&self, failure: Failure, last: u64) -> Failure {
        if failure.exit() != Exit::Conflict || failure.reason().is_some() {
            return failure;
        }
        let (room_id, base) = (self.room_id(), self.base);
        let text = match base {
            0 => format!("{room_id} is not empty, and its messages are not those of the file"),
            _ => format!("the messages of {room_id} after sequence {base} are not those of the file"),
        };
        failure.within(&text).hint(format!(
            "Import into an empty room, or add the messages after those of the room with `--append-after {last}`, \
             while nobody else publishes."
        ))
    }
}

/// Which record a failure is about.
fn place(record: &Record) -> String {
    format!("record {} with sequence {}", record.number, record.origin_sequence)
}

fn foreign(room_id: &str, message: &Message, record: &Record) -> Failure {
    let text = format!("the message {} of {room_id} is not {}", message.sequence, place(record));
    Failure::new(Exit::Conflict, text).hint("Nobody else may publish into the room during an import.")
}
