//! Messages as people read them, and the commands about one message.

use std::fmt::Write;

use clap::{Args, Subcommand};
use unibus::v1::{DeleteMessageRequest, DeleteMessageResponse, Message};

use super::{
    failure::{CliResult, Failure},
    json,
    options::ClientOptions,
    output::{Form, Printer},
    printable::{self, safe_line},
    session::Session,
    style::Style,
    text,
};

/// How messages are printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct MessageFlags {
    /// Print only the payloads, as the bytes that they are
    ///
    /// A newline follows each payload, unless --no-newline is given.
    #[arg(long, conflicts_with_all = ["json", "headers"])]
    raw: bool,
    /// With --raw: print nothing between the payloads
    #[arg(long, requires = "raw")]
    no_newline: bool,
    /// Print the message id and the headers below each message
    #[arg(long)]
    headers: bool,
}

impl MessageFlags {
    /// The bytes that stand for the message in the output.
    pub(super) fn render(self, out: &Printer, message: &Message) -> CliResult<Vec<u8>> {
        if self.raw {
            let mut bytes = message.payload.to_vec();
            bytes.extend((!self.no_newline).then_some(b'\n'));
            return Ok(bytes);
        }
        Ok(match out.form() {
            Form::Json => format!("{}\n", json::of("Message", message)?),
            Form::Quiet => format!("{}\n", message.sequence),
            Form::People => self.text(out, message),
        }
        .into_bytes())
    }

    /// A line for people: sequence, time, sender if there is one, payload.
    fn text(self, out: &Printer, message: &Message) -> String {
        const INDENT: &str = "    ";
        let time = text::local_time(message.published_at.as_ref());
        let mut line = out.paint(Style::Faint, &format!("{}  {time}", message.sequence));
        if !message.sender.is_empty() {
            let _ = write!(line, "  {}", out.paint(Style::Strong, &safe_line(&message.sender)));
        }
        let _ = writeln!(line, "  {}", printable::payload(&message.payload, INDENT));
        if self.headers {
            let id = (!message.message_id.is_empty()).then(|| ("id".to_owned(), message.message_id.clone()));
            let mut headers: Vec<_> = message.headers.clone().into_iter().collect();
            headers.sort();
            for (name, value) in id.into_iter().chain(headers) {
                let header = format!("{INDENT}{}: {}", safe_line(&name), safe_line(&value));
                let _ = writeln!(line, "{}", out.paint(Style::Faint, &header));
            }
        }
        line
    }
}

/// Erase a stored message.
#[derive(Args, Debug)]
pub(crate) struct MessageCommands {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    #[command(subcommand)]
    pub(super) action: MessageAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MessageAction {
    /// Erase a stored message; NATS overwrites it on disk
    #[command(visible_alias = "rm")]
    Delete {
        /// Id of the room
        room: String,
        /// Sequence of the message
        sequence: u64,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

impl MessageAction {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        let Self::Delete { room: room_id, sequence, yes } = self;
        Session::confirm(&format!("Erase message {sequence} of {room_id}"), yes)?;
        let what = format!("erase message {sequence} of {room_id}");
        let sentence = format!("{} message {sequence} of {room_id}", session.out.paint(Style::Good, "erased:"));
        let request = session.request(DeleteMessageRequest { room_id, sequence });
        let deleted = session.client().await?.delete_message(request).await;
        deleted.map_err(|status| Failure::call(&what, &status))?;
        session.out.result(&sentence, "DeleteMessageResponse", &DeleteMessageResponse {}, &sequence.to_string())
    }
}
