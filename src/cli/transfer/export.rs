//! The command that writes a room to a file.

use std::{
    fs,
    path::{Path, PathBuf},
    pin::pin,
};

use bytes::Bytes;
use clap::Args;
use prost::Message as _;
use serde_json::json;
use tokio::task::spawn_blocking;
use unibus::{
    StopSignals,
    v1::{Message, history_request::Anchor},
};

use super::{
    calls::{EncodedMessages, PAGE_MESSAGES_MAX, RoomCalls},
    canonical::canonical,
    format::{BlockKind, FileContent, FileHead, MARK, VERSION, put_block},
    output_file::{LeftOver, OutputFile},
    progress::{BarUnit, TransferBar},
    selection::SelectionFlags,
};
use crate::cli::{
    exit::Exit,
    failure::{CliResult, Failure},
    options::ClientOptions,
    output::Form,
    session::Session,
    style::Style,
    text,
};

/// The field of `unibus.v1.Message` with the headers.
const HEADERS_FIELD: u32 = 3;
/// The field of `unibus.v1.Room` with the labels.
const LABELS_FIELD: u32 = 7;

/// Write all messages of a room to a file.
///
/// The file has the settings of the room and each message with its sequence, time, sender, message id, headers and
/// payload. It ends with the newest message of the moment at which the export began. It does not have members, subscribers
/// and lifetimes of messages.
///
/// Until the file is whole, its name ends with `.partial`. If the export is interrupted, the same command goes on where it
/// ended.
#[derive(Args, Debug)]
pub(crate) struct ExportCommand {
    #[command(flatten)]
    pub(crate) options: ClientOptions,
    /// Id of the room
    room: String,
    /// Name of the file; `-`: standard output, which cannot go on after an interruption. Default: ROOM.unibus
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    selection: SelectionFlags,
}

impl ExportCommand {
    /// Runs the command.
    pub(crate) async fn run(self, session: Session) -> CliResult {
        let mut signals = StopSignals::listen().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let name = self.name();
        let (opened, force) = (name.clone(), self.force);
        let opened = blocking(move || match opened {
            Some(name) => OutputFile::open(&name, force),
            None => OutputFile::standard_output().map(|output| (output, None)),
        });
        let (output, left_over) = tokio::select! {
            opened = opened => opened?,
            signal = signals.next() => return Err(Failure::signal(signal)),
        };
        let partial = output.partial().map(Path::to_owned);
        let calls = RoomCalls::new(session.clone(), self.room.clone(), TransferBar::hidden(&session.out));
        let mut export = Export { calls, output: Some(output), content: FileContent::new(), resumed: 0 };
        let done = {
            let mut work = pin!(export.run(&self.selection, left_over));
            tokio::select! {
                done = &mut work => done,
                signal = signals.next() => Err(Failure::signal(signal)),
            }
        };
        export.calls.bar.end();
        if done.is_err()
            && let Some(partial) = partial
        {
            export.leave(&partial);
        }
        done?;
        export.report(&session, name)
    }

    /// The name of the file; `None`: standard output.
    fn name(&self) -> Option<PathBuf> {
        match &self.output {
            Some(output) if output.as_os_str() == "-" => None,
            Some(output) => Some(output.clone()),
            None => {
                // no file in another folder, none that is hidden, none that looks like a flag
                let name = self.room.replace(['/', '\0'], "_");
                let first = if name.starts_with(['.', '-']) { "_" } else { "" };
                Some(PathBuf::from(format!("{first}{name}.unibus")))
            }
        }
    }
}

/// An export that runs.
struct Export {
    calls: RoomCalls,
    /// `None`: it is being written.
    output: Option<OutputFile>,
    /// What is written.
    content: FileContent,
    /// Messages of it that an earlier run has written.
    resumed: u64,
}

impl Export {
    async fn run(&mut self, selection: &SelectionFlags, left_over: Option<LeftOver>) -> CliResult {
        let (head, is_whole) = match left_over {
            Some(left_over) => {
                self.resume(selection, &left_over).await?;
                (left_over.head, left_over.is_whole)
            }
            None => (self.begin(selection).await?, false),
        };
        if !is_whole {
            self.messages(&head).await?;
            self.check_log(&head).await?;
            self.end().await?;
        }
        let mut output = self.output.take().ok_or_else(lost)?;
        self.output = Some(blocking(move || output.finish().map(|()| output)).await?);
        Ok(())
    }

    /// Tells what a failed export leaves behind.
    fn leave(&self, partial: &Path) {
        if fs::metadata(partial).is_ok_and(|file| file.len() == 0) {
            // nothing was written, and nothing is to be continued
            let _ = fs::remove_file(partial);
        } else if self.content.messages > 0 {
            let partial = partial.display();
            self.calls.bar.notice(&format!("{partial} has what was exported; the same command goes on from there"));
        }
    }

    /// Writes the head.
    async fn begin(&mut self, selection: &SelectionFlags) -> CliResult<FileHead> {
        let (encoded, room) = self.calls.room().await?;
        let encoded = self.canonical(&encoded, LABELS_FIELD)?;
        let head = selection.head(&mut self.calls, encoded, &room).await?;
        let mut bytes = MARK.to_vec();
        bytes.push(VERSION);
        put_block(BlockKind::Head, &head.encode_to_vec(), &mut bytes).ok_or_else(too_large)?;
        self.content.add(&bytes);
        self.write(bytes).await?;
        Ok(head)
    }

    /// Goes on with a partial file, if it is one of this room and these flags.
    async fn resume(&mut self, selection: &SelectionFlags, left_over: &LeftOver) -> CliResult {
        let partial = self.output.as_ref().and_then(OutputFile::partial);
        let partial = partial.map(|partial| partial.display().to_string()).unwrap_or_default();
        let hint = "Remove the file to begin again, or give another --output.";
        let room_id = left_over.head.room().unwrap_or_default().room_id;
        if room_id != self.calls.room_id() {
            let text = format!("{partial} belongs to an export of the room {room_id}");
            return Err(Failure::new(Exit::Conflict, text).hint(hint));
        }
        if left_over.head.selection != selection.written() {
            let text = format!("{partial} belongs to an export with the flags {:?}", left_over.head.selection);
            return Err(Failure::new(Exit::Conflict, text).hint(hint));
        }
        self.calls.room().await?;
        self.check_log(&left_over.head).await.map_err(|failure| failure.within(&partial).hint(hint))?;
        self.content = left_over.content.clone();
        self.resumed = self.content.messages;
        if self.resumed > 0 {
            let count = text::count(self.resumed, "message");
            self.calls.bar.notice(&format!("{partial} has {count}; going on from there"));
        }
        Ok(())
    }

    /// Whether the log of the room is still the one of the head.
    async fn check_log(&mut self, head: &FileHead) -> CliResult {
        let checked = self.calls.page(1, Anchor::AfterCursor(head.cursor.clone())).await;
        checked.map(drop).map_err(|failure| match failure.reason() {
            Some("CURSOR_EXPIRED" | "CURSOR_INVALID") => {
                failure.within("the room was deleted and created again since the export began")
            }
            _ => failure,
        })
    }

    /// Writes the messages after those that the file has.
    async fn messages(&mut self, head: &FileHead) -> CliResult {
        let (after, through) = (head.after_sequence, head.through_sequence);
        let reached = self.content.last_sequence.max(after);
        self.calls.bar.begin("export", BarUnit::Messages, through - after, reached - after);
        let anchor = match &self.content.last_cursor {
            cursor if cursor.is_empty() => Anchor::AfterSequence(after),
            cursor => Anchor::AfterCursor(cursor.clone()),
        };
        if reached >= through {
            return Ok(());
        }
        let mut page = self.calls.page(PAGE_MESSAGES_MAX, anchor).await?;
        loop {
            let (bytes, is_last) = self.blocks(&page, through)?;
            if is_last {
                return self.write(bytes).await;
            }
            // the next page is read while this one is written
            let mut output = self.output.take().ok_or_else(lost)?;
            let writing = blocking(move || output.write(&bytes).map(|()| output));
            let reading = self.calls.page(PAGE_MESSAGES_MAX, Anchor::AfterCursor(page.newer_cursor.clone()));
            let (output, next) = tokio::join!(writing, reading);
            self.output = Some(output?);
            page = next?;
            let place = self.content.last_sequence.saturating_sub(after);
            self.calls.bar.reached(place, self.content.payload_bytes);
        }
    }

    /// The blocks of a page, and whether it is the last one.
    fn blocks(&mut self, page: &EncodedMessages, through: u64) -> CliResult<(Vec<u8>, bool)> {
        let mut blocks = Vec::new();
        let mut is_last = !page.has_newer || page.messages.is_empty();
        for encoded in &page.messages {
            let message = Message::decode(encoded.clone()).map_err(|error| self.meaningless(&error))?;
            if message.sequence > through {
                is_last = true;
                break;
            }
            let body = self.canonical(encoded, HEADERS_FIELD)?;
            put_block(BlockKind::Message, &body, &mut blocks).ok_or_else(too_large)?;
            self.content.add_message(&message);
        }
        self.content.add(&blocks);
        Ok((blocks, is_last || self.content.last_sequence >= through))
    }

    async fn end(&mut self) -> CliResult {
        let mut bytes = Vec::new();
        put_block(BlockKind::End, &self.content.end().encode_to_vec(), &mut bytes).ok_or_else(too_large)?;
        self.content.add(&bytes);
        self.write(bytes).await
    }

    async fn write(&mut self, bytes: Vec<u8>) -> CliResult {
        let mut output = self.output.take().ok_or_else(lost)?;
        self.output = Some(blocking(move || output.write(&bytes).map(|()| output)).await?);
        Ok(())
    }

    fn canonical(&self, encoded: &Bytes, map_field: u32) -> CliResult<Vec<u8>> {
        canonical(encoded, map_field).map_err(|error| self.meaningless(&error))
    }

    fn meaningless(&self, error: &prost::DecodeError) -> Failure {
        Failure::new(Exit::Failed, format!("an answer about {} has no meaning: {error}", self.calls.room_id()))
    }

    /// Prints what was done.
    fn report(&self, session: &Session, name: Option<PathBuf>) -> CliResult {
        let Some(name) = name.map(|name| name.display().to_string()) else { return Ok(()) };
        let (out, content) = (&session.out, &self.content);
        match out.form() {
            Form::Json => out.value(&json!({
                "file": name,
                "room": self.calls.room_id(),
                "messages": content.messages.to_string(),
                "earlier": self.resumed.to_string(),
                "payloadBytes": content.payload_bytes.to_string(),
                "firstSequence": content.first_sequence.to_string(),
                "lastSequence": content.last_sequence.to_string(),
                "sha256": content.sha256(),
            })),
            Form::Quiet => out.line(&content.messages.to_string()),
            Form::People => out.line(&format!(
                "{} {} of {} in {name}",
                out.paint(Style::Good, "exported:"),
                text::count(content.messages, "message"),
                self.calls.room_id(),
            )),
        }
    }
}

/// Runs what waits for a disk or a reader of standard output, without holding up signals and connections.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> CliResult<T> + Send + 'static) -> CliResult<T> {
    spawn_blocking(work).await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?
}

fn lost() -> Failure {
    Failure::new(Exit::Failed, "the file is not open any more")
}

fn too_large() -> Failure {
    Failure::new(Exit::Failed, "a message is too large for the file")
}
