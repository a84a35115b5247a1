//! The command that prints stored messages.

use clap::Args;
use jiff::Timestamp;
use tokio::time;
use unibus::v1::{HistoryRequest, HistoryResponse, Message, TimeRange, history_request::Anchor};

use super::{
    connection::RoomClient,
    failure::{CliResult, Failure},
    message::MessageFlags,
    options::ClientOptions,
    session::Session,
    values::{self, LogPlace},
};

/// Messages on a page: the largest page that the service gives.
const PAGE_MESSAGES_MAX: u64 = 1000;
/// The largest `--limit` without `--after` or `--since`: so many messages may wait in memory to be printed oldest first.
const NEWEST_MAX: u64 = 100_000;

/// How often a page is asked for again.
const RETRIES_MAX: u32 = 5;

/// Print stored messages, oldest to newest.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("anchor").args(["before", "after", "since"])))]
pub(crate) struct HistoryCommand {
    #[command(flatten)]
    pub(super) options: ClientOptions,
    /// Id of the room
    room: String,
    /// Number of messages: the newest ones, or with --after and --since the oldest ones
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 20, conflicts_with = "all")]
    limit: u64,
    /// All messages, instead of --limit
    #[arg(long)]
    all: bool,
    /// Only messages before this sequence or cursor
    #[arg(long, value_name = "PLACE")]
    before: Option<LogPlace>,
    /// Only messages after this sequence or cursor
    #[arg(long, value_name = "PLACE")]
    after: Option<LogPlace>,
    /// Only messages that were stored at or after this time: a time, or a duration before now
    #[arg(long, value_name = "TIME", value_parser = values::time)]
    since: Option<Timestamp>,
    /// Only messages that were stored before this time
    #[arg(long, value_name = "TIME", value_parser = values::time, conflicts_with = "before")]
    until: Option<Timestamp>,
    #[command(flatten)]
    printing: MessageFlags,
}

impl HistoryCommand {
    /// Runs the command.
    pub(super) async fn run(self, session: Session) -> CliResult {
        let client = session.client().await?;
        let mut pages = Pages { session: &session, client, room_id: &self.room, has_printed: false };
        let reads_forwards = self.all || self.after.is_some() || self.since.is_some();
        let footer = if reads_forwards { self.forwards(&mut pages).await? } else { self.newest(&mut pages).await? };
        if !pages.has_printed {
            session.out.notice("no messages");
        } else if let Some(footer) = footer {
            session.out.notice(&footer);
        }
        Ok(())
    }

    /// Prints the newest messages, of all or of those before a place. Returns how to see older ones.
    async fn newest(&self, pages: &mut Pages<'_>) -> CliResult<Option<String>> {
        if self.limit > NEWEST_MAX {
            return Err(Failure::usage(format!("--limit is at most {NEWEST_MAX} here; use --all, --after or --since")));
        }
        let mut anchor = match (&self.before, self.until) {
            (Some(place), _) => Some(before(place)),
            (None, Some(until)) => pages.first_since(until).await?.map(Anchor::BeforeSequence),
            (None, None) => None,
        };
        let (mut found, mut wanted, mut has_older) = (Vec::new(), self.limit, false);
        while wanted > 0 {
            let page = pages.read(wanted, anchor).await?;
            has_older = page.has_older;
            wanted = wanted.saturating_sub(page.messages.len() as u64);
            found.push(page.messages);
            if !has_older {
                break;
            }
            anchor = Some(Anchor::BeforeCursor(page.older_cursor));
        }
        let first = found.iter().flatten().map(|message| message.sequence).min();
        for messages in found.iter().rev() {
            self.print(pages, messages)?;
        }
        let first = first.filter(|_| has_older);
        Ok(first.map(|first| format!("older messages: unibus history {} --before {first}", self.room)))
    }

    /// Prints messages from a place on, page by page. Returns how to see newer ones.
    async fn forwards(&self, pages: &mut Pages<'_>) -> CliResult<Option<String>> {
        let end = match &self.before {
            Some(LogPlace::Sequence(sequence)) => Some(*sequence),
            Some(cursor) => match pages.read(1, Some(before(cursor))).await?.messages.last() {
                Some(last) => Some(last.sequence.saturating_add(1)),
                None => return Ok(None),
            },
            None => None,
        };
        let mut anchor = match (&self.after, self.since) {
            (Some(LogPlace::Sequence(sequence)), _) => Anchor::AfterSequence(*sequence),
            (Some(LogPlace::Cursor(cursor)), _) => Anchor::AfterCursor(cursor.clone()),
            (None, Some(since)) => Anchor::TimeRange(TimeRange { start: Some(values::proto_time(since)), end: None }),
            (None, None) => Anchor::AfterSequence(0),
        };
        let mut wanted = if self.all { u64::MAX } else { self.limit };
        while wanted > 0 {
            let page = pages.read(wanted, Some(anchor)).await?;
            let inside = page.messages.iter().take_while(|message| self.is_inside(message, end)).count();
            self.print(pages, page.messages.get(..inside).unwrap_or_default())?;
            wanted = wanted.saturating_sub(inside as u64);
            if !page.has_newer || inside < page.messages.len() {
                return Ok(None);
            }
            if wanted == 0 {
                let last = page.messages.last().map(|message| message.sequence);
                return Ok(last.map(|last| format!("newer messages: unibus history {} --after {last}", self.room)));
            }
            anchor = Anchor::AfterCursor(page.newer_cursor);
        }
        Ok(None)
    }

    /// Whether the message belongs to the output: it lies before the sequence `end` and before `--until`.
    fn is_inside(&self, message: &Message, end: Option<u64>) -> bool {
        let key = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
        let until = self.until.map(values::proto_time);
        let is_early = until.is_none_or(|until| message.published_at.as_ref().map(key) < Some(key(&until)));
        is_early && end.is_none_or(|end| message.sequence < end)
    }

    fn print(&self, pages: &mut Pages<'_>, messages: &[Message]) -> CliResult {
        let out = &pages.session.out;
        let mut text = Vec::new();
        for message in messages {
            text.extend(self.printing.render(out, message)?);
        }
        pages.has_printed |= !messages.is_empty();
        out.bytes(&text)
    }
}

fn before(place: &LogPlace) -> Anchor {
    match place {
        LogPlace::Sequence(sequence) => Anchor::BeforeSequence(*sequence),
        LogPlace::Cursor(cursor) => Anchor::BeforeCursor(cursor.clone()),
    }
}

/// Reads pages of one room over one connection.
struct Pages<'a> {
    session: &'a Session,
    client: RoomClient,
    room_id: &'a str,
    has_printed: bool,
}

impl Pages<'_> {
    /// Reads a page. If the service cannot give it now and says when it can, asks again.
    async fn read(&mut self, wanted: u64, anchor: Option<Anchor>) -> CliResult<HistoryResponse> {
        let limit = i32::try_from(wanted.min(PAGE_MESSAGES_MAX)).unwrap_or_default();
        let request = HistoryRequest { room_id: self.room_id.to_owned(), limit, anchor };
        let what = format!("read the history of {}", self.room_id);
        let mut retries = RETRIES_MAX;
        loop {
            let failure = match self.client.history(self.session.request(request.clone())).await {
                Ok(page) => return Ok(page.into_inner()),
                Err(status) => Failure::call(&what, &status),
            };
            let Some(after) = failure.retry_after().filter(|_| retries > 0) else { return Err(failure) };
            retries -= 1;
            time::sleep(after).await;
        }
    }

    /// The sequence of the first message that was stored at or after this time.
    async fn first_since(&mut self, time: Timestamp) -> CliResult<Option<u64>> {
        let range = TimeRange { start: Some(values::proto_time(time)), end: None };
        let page = self.read(1, Some(Anchor::TimeRange(range))).await?;
        Ok(page.messages.first().map(|message| message.sequence))
    }
}
