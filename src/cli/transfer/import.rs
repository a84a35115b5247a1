//! The command that publishes the messages of a file.

use std::{path::PathBuf, pin::pin};

use clap::Args;
use serde_json::json;
use unibus::{
    StopSignals,
    v1::{CreateRoomRequest, Room},
};

use super::{
    calls::RoomCalls,
    check,
    progress::{BarUnit, TransferBar},
    records::FileRecords,
    target::{Imported, RoomTarget},
};
use crate::cli::{
    connection::client_of,
    exit::Exit,
    failure::{CliResult, Failure},
    options::ClientOptions,
    output::Form,
    session::Session,
    style::Style,
    text,
};

/// Publish the messages of an exported file into a room.
///
/// The messages keep their order, payloads, headers and message ids. They get new sequences and times, and the caller is
/// their sender. Members, subscribers and lifetimes of messages are not in the file.
///
/// The room must be empty, or have the first messages of the file from an import that was interrupted. Nobody else may
/// publish meanwhile. The same command again goes on where the last one ended, and stores no message twice.
#[derive(Args, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
pub(crate) struct ImportCommand {
    #[command(flatten)]
    pub(crate) options: ClientOptions,
    /// File of `unibus export`; `-`: standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only read the file to its end and report what it has
    #[arg(long, conflicts_with_all = ["room", "create", "append_after", "origin_headers", "salvage"])]
    check: bool,
    /// Id of the room. Default: the room of the file
    #[arg(long, value_name = "ROOM")]
    room: Option<String>,
    /// Create the room with the bounds, replicas and labels of the file, if it does not exist
    #[arg(long)]
    create: bool,
    /// Add the messages after this sequence, which must be the last one of the room when the import begins for the first
    /// time
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0, hide_default_value = true)]
    append_after: u64,
    /// Add headers with the sequence, time, sender and message id that each message had
    #[arg(long)]
    origin_headers: bool,
    /// Import the messages before the damage of a damaged file
    #[arg(long)]
    salvage: bool,
}

impl ImportCommand {
    /// Runs the command.
    pub(crate) async fn run(self, session: Session) -> CliResult {
        let mut signals = StopSignals::listen().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let bar = TransferBar::hidden(&session.out);
        let mut work = pin!(self.work(session, &bar));
        let done = tokio::select! {
            done = &mut work => done,
            signal = signals.next() => Err(Failure::signal(signal)),
        };
        bar.end();
        let is_signal = |failure: &Failure| matches!(failure.exit(), Exit::Interrupted | Exit::Terminated);
        if done.as_ref().is_err_and(is_signal) && !self.check {
            bar.notice("interrupted; the same command goes on where this one ended");
        }
        done
    }

    async fn work(&self, session: Session, bar: &TransferBar) -> CliResult {
        if self.check {
            let (head, content) = check::verify(&self.file, bar).await?;
            return check::report(&session.out, &self.file, &head, &content);
        }
        // nothing of a damaged file is imported
        let can_be_read_twice = std::fs::metadata(&self.file).is_ok_and(|file| file.is_file());
        if can_be_read_twice && !self.salvage {
            let hint = "Nothing was imported. --salvage imports the messages before the damage.";
            let checked = check::verify(&self.file, bar).await;
            checked.map_err(|failure| if failure.exit() == Exit::Damaged { failure.hint(hint) } else { failure })?;
        }
        let records = FileRecords::open(&self.file, self.origin_headers).await?;
        let origin = records.head().room().unwrap_or_default();
        let room_id = self.room.clone().unwrap_or_else(|| origin.room_id.clone());
        let mut calls = RoomCalls::new(session.clone(), room_id, bar.clone());
        if self.create {
            create(&mut calls, origin).await?;
        }
        let size = std::fs::metadata(&self.file).map_or(0, |file| file.len());
        bar.begin("import", BarUnit::Bytes, size, 0);
        let mut target = RoomTarget::new(calls, records, self.append_after);
        let imported = target.run().await.map_err(|failure| match failure.reason() {
            Some("ROOM_NOT_FOUND") if !self.create => {
                failure.hint("--create creates the room with the settings of the file.")
            }
            _ => failure,
        })?;
        bar.end();
        self.report(&session, target.room_id(), &imported)?;
        match target.take_damage() {
            Some(damage) => Err(damage),
            None => Ok(()),
        }
    }

    fn report(&self, session: &Session, room_id: &str, imported: &Imported) -> CliResult {
        let out = &session.out;
        let Imported { stored, earlier, without_id, last_sequence } = *imported;
        match out.form() {
            Form::Json => out.value(&json!({
                "file": self.file.display().to_string(),
                "room": room_id,
                "messages": stored.to_string(),
                "earlier": earlier.to_string(),
                "withoutMessageId": without_id.to_string(),
                "lastSequence": last_sequence.to_string(),
            }))?,
            Form::Quiet => out.line(&last_sequence.to_string())?,
            Form::People => {
                let count = text::count(stored, "message");
                let earlier = if earlier > 0 { format!("; {earlier} of them earlier") } else { String::new() };
                let verb = out.paint(Style::Good, "imported:");
                out.line(&format!("{verb} {count} into {room_id}, the last as {last_sequence}{earlier}"))?;
            }
        }
        if without_id > 0 {
            let count = text::count(without_id, "message");
            out.notice(&format!("{count} stored without their message ids, which the room knows from other messages"));
        }
        Ok(())
    }
}

/// Creates the room with the settings of the exported one. It gets a subject of its own.
async fn create(calls: &mut RoomCalls, origin: Room) -> CliResult {
    let what = format!("create the room {}", calls.room_id());
    let request = CreateRoomRequest {
        room_id: calls.room_id().to_owned(),
        persist: true,
        subject: String::new(),
        retention: origin.retention,
        dedupe_window: origin.dedupe_window,
        replicas: origin.replicas,
        allow_message_ttl: origin.allow_message_ttl,
        labels: origin.labels,
    };
    let session = calls.session.clone();
    let created =
        calls.call(&what, async |channel| client_of(channel).create_room(session.request(request.clone())).await).await;
    created.map(drop).map_err(|failure| match failure.reason() {
        Some("ROOM_EXISTS") => {
            failure.hint("The room has other settings. Leave out --create to import into it as it is.")
        }
        _ => failure,
    })
}
