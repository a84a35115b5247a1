//! Reads a whole file and reports what it has.

use std::path::Path;

use serde_json::json;

use super::{
    export::blocking,
    format::{FileContent, FileHead},
    progress::{BarUnit, TransferBar},
    records,
};
use crate::cli::{
    failure::CliResult,
    output::{Form, Printer},
    text,
};

/// Messages that are read before the bar moves.
const STEP_MESSAGES: u64 = 10_000;

/// Reads the file to its end. Fails if it is damaged.
pub(super) async fn verify(file: &Path, bar: &TransferBar) -> CliResult<(FileHead, FileContent)> {
    let name = file.display().to_string();
    let mut reader = records::open(file, &name).await?;
    let size = std::fs::metadata(file).map_or(0, |file| file.len());
    bar.begin("check", BarUnit::Bytes, size, 0);
    loop {
        let named = name.clone();
        let (read, is_whole) = blocking(move || {
            let until = reader.content().messages + STEP_MESSAGES;
            while reader.content().messages < until {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok((reader, true)),
                    Err(damage) => return Err(damage.failure(&named, reader.content())),
                }
            }
            Ok((reader, false))
        })
        .await?;
        reader = read;
        bar.reached_messages(reader.content().bytes, reader.content().messages);
        if is_whole {
            bar.end();
            return Ok((reader.head().clone(), reader.content().clone()));
        }
    }
}

/// Prints what a whole file has.
pub(super) fn report(out: &Printer, file: &Path, head: &FileHead, content: &FileContent) -> CliResult {
    let name = file.display().to_string();
    let room = head.room().unwrap_or_default();
    let sha256 = content.sha256();
    match out.form() {
        Form::Json => out.value(&json!({
            "file": name,
            "room": room.room_id,
            "selection": head.selection,
            "afterSequence": head.after_sequence.to_string(),
            "throughSequence": head.through_sequence.to_string(),
            "messages": content.messages.to_string(),
            "payloadBytes": content.payload_bytes.to_string(),
            "firstSequence": content.first_sequence.to_string(),
            "lastSequence": content.last_sequence.to_string(),
            "sha256": sha256,
        })),
        Form::Quiet => out.line(&content.messages.to_string()),
        Form::People => {
            let (first, last) = (content.first_sequence, content.last_sequence);
            let (oldest, newest) = (content.first_time.as_ref(), content.last_time.as_ref());
            let times = format!("{} to {}", text::local_time(oldest), text::local_time(newest));
            let has_messages = content.messages > 0;
            out.pairs(&[
                ("Room", room.room_id),
                ("Selection", head.selection.join(" ")),
                ("Messages", content.messages.to_string()),
                ("Payloads", text::bytes(content.payload_bytes)),
                ("Sequences", if has_messages { format!("{first} to {last}") } else { String::new() }),
                ("Stored", if has_messages { times } else { String::new() }),
                ("SHA-256", sha256),
            ])
        }
    }
}
