//! The command that publishes messages.

use std::{collections::HashMap, fmt::Write, io::IsTerminal, path::PathBuf, time::Duration};

use clap::Args;
use serde_json::json;
use unibus::v1::{PublishRequest, PublishResponse};
use uuid::Uuid;

use super::{
    failure::{CliResult, Failure},
    json,
    options::ClientOptions,
    output::Form,
    payloads::{PayloadSource, Payloads},
    pipeline::{Pipeline, PublishProgress},
    room,
    session::Session,
    style::Style,
    text, values,
};

/// Publish messages.
#[derive(Args, Debug)]
pub(crate) struct PubCommand {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    /// Id of the room
    room: String,
    /// Payload; `-` or nothing: standard input
    text: Option<String>,
    /// Take the payload from this file
    #[arg(long, short, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// Publish each line of the file or of standard input as a message, without its newline
    #[arg(long, short)]
    lines: bool,
    /// A header of each message; may be given several times
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = values::pair)]
    headers: Vec<(String, String)>,
    /// Message id: the same message is stored once. With --lines, line N gets the id ID-N
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Lifetime of each message, in whole seconds; the room must allow it
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    ttl: Option<Duration>,
    /// Store the message only if this is the last sequence of the room
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "lines")]
    expected_sequence: Option<u64>,
}

impl PubCommand {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        let source = self.source(&session)?;
        // only a persisted room knows message ids
        let is_persisted = room::read(&session, &self.room).await?.persist;
        let ids = match &self.id {
            Some(id) => Some(id.clone()),
            None => is_persisted.then(|| Uuid::new_v4().simple().to_string()),
        };
        let mut request = self.request();
        let (lines, given_id) = (self.lines, self.id.is_some());
        let make = |number: u64, payload| {
            // an id that the caller gives to one message is used as it is
            let id = ids.as_ref().map(|id| if lines || !given_id { format!("{id}-{number}") } else { id.clone() });
            request.message_id = id.unwrap_or_default();
            PublishRequest { payload, ..request.clone() }
        };
        let mut report = PublishReport { session: &session, room_id: &self.room, lines: self.lines };
        let payloads = Payloads::open(source, self.lines).await?;
        let pipeline = Pipeline::new(&session, payloads, make);
        let (progress, done) = pipeline.run(|number, stored| report.stored(number, stored)).await;
        report.end(&progress)?;
        done.map_err(|(number, failure)| match number {
            Some(number) if self.lines => failure.within(&format!("line {number}")),
            _ => failure,
        })
    }

    fn source(&self, session: &Session) -> CliResult<PayloadSource> {
        match (&self.text, &self.file) {
            (Some(text), _) if text != "-" => {
                if self.lines {
                    return Err(Failure::usage("--lines reads standard input or --file, and a payload is given too"));
                }
                Ok(PayloadSource::Text(text.clone().into()))
            }
            (_, Some(file)) => Ok(PayloadSource::File(file.clone())),
            (_, None) => {
                if std::io::stdin().is_terminal() {
                    session.out.notice("reading from the terminal; Ctrl-D ends the input");
                }
                Ok(PayloadSource::StandardInput)
            }
        }
    }

    /// What all messages have in common.
    fn request(&self) -> PublishRequest {
        PublishRequest {
            room_id: self.room.clone(),
            headers: self.headers.iter().cloned().collect::<HashMap<_, _>>(),
            expected_last_sequence: self.expected_sequence,
            ttl: self.ttl.map(values::proto_duration),
            ..PublishRequest::default()
        }
    }
}

/// Prints the outcomes.
struct PublishReport<'a> {
    session: &'a Session,
    room_id: &'a str,
    lines: bool,
}

impl PublishReport<'_> {
    /// Prints the outcome of one message.
    fn stored(&mut self, number: u64, stored: &PublishResponse) -> CliResult {
        let out = &self.session.out;
        match out.form() {
            Form::People if self.lines => Ok(()),
            Form::People => out.line(&self.sentence(stored)),
            Form::Quiet => out.line(&stored.sequence.to_string()),
            Form::Json => {
                let mut object = json::of("PublishResponse", stored)?;
                if let (true, Some(fields)) = (self.lines, object.as_object_mut()) {
                    fields.insert("line".to_owned(), json!(number));
                }
                out.value(&object)
            }
        }
    }

    fn sentence(&self, stored: &PublishResponse) -> String {
        let (out, room_id) = (&self.session.out, self.room_id);
        match stored {
            PublishResponse { sequence: 0, .. } => format!("{} to {room_id}", out.paint(Style::Good, "sent:")),
            PublishResponse { duplicate: true, sequence, .. } => {
                format!("{} as {sequence} in {room_id}", out.paint(Style::Good, "stored earlier:"))
            }
            PublishResponse { sequence, durability, .. } => format!(
                "{} as {sequence} in {room_id}, {}",
                out.paint(Style::Good, "stored:"),
                text::durability(*durability)
            ),
        }
    }

    /// Prints how much was done.
    fn end(&self, progress: &PublishProgress) -> CliResult {
        let out = &self.session.out;
        if !self.lines || out.form() != Form::People {
            return Ok(());
        }
        let verb = if progress.last_sequence == 0 { "sent:" } else { "stored:" };
        let mut sentence =
            format!("{} {} in {}", out.paint(Style::Good, verb), text::count(progress.stored, "message"), self.room_id);
        if progress.last_sequence > 0 {
            let _ = write!(sentence, ", the last as {}", progress.last_sequence);
        }
        if progress.duplicates > 0 {
            let _ = write!(sentence, "; {} of them earlier", progress.duplicates);
        }
        out.line(&sentence)
    }
}
