//! Follows a room for ever: prints each message once and in order, whatever connections break.
//!
//! Without a name the command itself knows its position, and begins again after the last message that it printed. With a
//! name the service keeps the position. A message is acknowledged after it was written to standard output, so the
//! service may send a message again that was printed already. Such a message is not printed twice.

use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;
use tokio::{
    task::spawn_blocking,
    time::{self, Instant},
};
use tonic::Streaming;
use unibus::{
    StopSignals,
    v1::{Gap, Message, Opened, Start, SubscribeRequest, SubscribeResponse, start::At, subscribe_response::Frame},
};

use super::{
    acks::PrintedAcks,
    backoff::Retries,
    exit::Exit,
    failure::{CliResult, Failure},
    json,
    session::Session,
    subscribe::{AckWhen, SubCommand},
    text,
};

/// Bytes that are written at once while further messages are ready.
const WRITE_BYTES: usize = 64 * 1024;
/// How long a token that has expired may stay in its file.
const NEW_TOKEN_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why following ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FollowEnd {
    /// `--count` messages were printed, or `--no-follow` is given and the backlog was printed.
    Complete,
    /// No message came for `--idle-timeout`.
    Idle,
}

/// What a frame asks for, beside more frames.
enum AfterFrame {
    /// Nothing.
    Nothing,
    /// Write what is ready, and then this warning.
    Warn(Gap),
    /// Write what is ready, and end.
    End,
}

/// Follows one room.
pub(super) struct Follower {
    session: Session,
    command: SubCommand,
    /// The sequence of the last message that was printed, or the place after which the subscription began.
    position: u64,
    /// The cursor of the message at `position`. Unlike a sequence, it is refused if the log was created again.
    cursor: Option<String>,
    was_opened: bool,
    /// An ephemeral room has no positions.
    is_ephemeral: bool,
    /// The position of the durable subscriber that the service has confirmed.
    confirmed: u64,
    printed: u64,
    last_message: Instant,
    retries: Retries,
    /// When the service first refused the token that the file has.
    expired_since: Option<Instant>,
}

impl Follower {
    /// Follows nothing yet.
    pub(super) fn new(session: Session, command: SubCommand) -> Self {
        Self {
            session,
            command,
            position: 0,
            cursor: None,
            was_opened: false,
            is_ephemeral: false,
            confirmed: 0,
            printed: 0,
            last_message: Instant::now(),
            retries: Retries::new(None),
            expired_since: None,
        }
    }

    /// Follows the room until it is told to end.
    pub(super) async fn run(mut self) -> CliResult {
        let mut signals = StopSignals::listen().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let end = loop {
            let failure = match self.subscription(&mut signals).await {
                Ok(end) => break end,
                Err(failure) => failure,
            };
            if !self.may_go_on(&failure) {
                return Err(failure);
            }
            let Some(wait) = self.retries.next_wait(&failure) else { return Err(failure) };
            if self.retries.is_first() {
                self.session.out.notice(&format!("{}; trying again", failure.summary()));
            }
            tokio::select! {
                () = time::sleep(wait) => {}
                () = until(self.idle_end()) => break FollowEnd::Idle,
                signal = signals.next() => return Err(Failure::signal(signal)),
            }
        };
        match (end, self.command.count) {
            (FollowEnd::Idle, Some(count)) => {
                let text = format!("no message for --idle-timeout after {} of {count} messages", self.printed);
                Err(Failure::new(Exit::Incomplete, text))
            }
            (FollowEnd::Complete, Some(count)) if self.printed < count => {
                Err(Failure::new(Exit::Incomplete, format!("the room has {} of {count} messages", self.printed)))
            }
            _ => Ok(()),
        }
    }

    /// Whether the subscription may be opened again after this failure.
    fn may_go_on(&mut self, failure: &Failure) -> bool {
        match failure.reason() {
            // the service said when to try again
            Some(_) if failure.retry_after().is_some() => true,
            Some("CREDENTIALS_EXPIRED") => {
                let since = self.expired_since.get_or_insert_with(Instant::now).elapsed();
                self.session.connector.has_token_file() && since < NEW_TOKEN_WAIT_MAX
            }
            // the place of the subscription that broke may not be free yet
            Some("LIMIT_REACHED") => self.was_opened,
            Some(_) => false,
            None => self.was_opened && matches!(failure.exit(), Exit::Unreachable | Exit::Timeout),
        }
    }

    /// Opens a subscription and prints its messages, until it ends or breaks.
    async fn subscription(&mut self, signals: &mut StopSignals) -> CliResult<FollowEnd> {
        let opening = self.open();
        let (frames, mut acks) = tokio::select! {
            opened = opening => opened?,
            signal = signals.next() => return Err(Failure::signal(signal)),
        };
        let end = self.frames(frames, &mut acks, signals).await;
        // a broken subscription is opened again, and the next one acknowledges what this one has printed
        let acknowledged = match &end {
            Ok(_) => acks.finish().await,
            Err(failure) if failure.is_silent() => acks.finish().await,
            Err(_) => Ok(()),
        };
        self.confirmed = acks.confirmed();
        end.and_then(|end| acknowledged.map(|()| end))
    }

    async fn open(&self) -> CliResult<(Streaming<SubscribeResponse>, PrintedAcks)> {
        let mut client = self.session.client().await?;
        let what = format!("follow the room {}", self.command.room);
        let timeout = self.session.connector.timeout();
        let opened = time::timeout(timeout, client.subscribe(self.request())).await;
        let opened = opened.map_err(|_| Failure::new(Exit::Timeout, format!("cannot {what}: no answer in time")))?;
        let frames = opened.map_err(|status| Failure::call(&what, &status))?.into_inner();
        let subscriber = self.command.subscriber.clone().filter(|_| self.command.ack == AckWhen::AfterPrint);
        Ok((frames, PrintedAcks::new(client, self.command.room.clone(), subscriber, timeout)))
    }

    /// The request of this subscription. The service itself knows where a durable subscriber goes on.
    fn request(&self) -> SubscribeRequest {
        let first = self.command.request();
        if !self.was_opened || self.command.subscriber.is_some() {
            return first;
        }
        let at = match &self.cursor {
            Some(cursor) => At::AfterCursor(cursor.clone()),
            None if self.is_ephemeral => At::New(()),
            None => At::AfterSequence(self.position),
        };
        SubscribeRequest { start: Some(Start { at: Some(at) }), ..first }
    }

    /// Prints what the subscription sends.
    async fn frames(
        &mut self,
        mut frames: Streaming<SubscribeResponse>,
        acks: &mut PrintedAcks,
        signals: &mut StopSignals,
    ) -> CliResult<FollowEnd> {
        let what = format!("follow the room {}", self.command.room);
        // before `opened` tells the interval of heartbeats
        let mut silence_max = self.session.connector.timeout();
        let mut is_open = false;
        loop {
            let frame = tokio::select! {
                frame = time::timeout(silence_max, frames.message()) => frame,
                acked = acks.next() => { acked?; continue }
                () = until(self.idle_end()) => return Ok(FollowEnd::Idle),
                signal = signals.next() => return Err(Failure::signal(signal)),
            };
            let mut next = match frame {
                Ok(frame) => Some(frame),
                Err(_) => {
                    return Err(Failure::new(Exit::Unreachable, format!("cannot {what}: the connection is silent")));
                }
            };
            // the messages that are ready are written together
            let (mut ready, mut after, mut ended) = (Vec::new(), AfterFrame::Nothing, None);
            while let Some(frame) = next.take() {
                match frame {
                    Ok(Some(SubscribeResponse { frame: Some(Frame::Opened(opened)) })) => {
                        self.opened(&opened, is_open);
                        acks.at(&opened);
                        is_open = true;
                        silence_max = interval(&opened).map_or(silence_max, |interval| interval.saturating_mul(2));
                    }
                    Ok(Some(SubscribeResponse { frame })) => after = self.frame(frame, &mut ready)?,
                    Ok(None) => ended = Some(None),
                    Err(status) => ended = Some(Some(Failure::call(&what, &status))),
                }
                if ended.is_none() && matches!(after, AfterFrame::Nothing) && ready.len() < WRITE_BYTES {
                    next = frames.message().now_or_never();
                }
            }
            self.write(ready, signals).await?;
            acks.printed(self.position);
            match after {
                AfterFrame::End => return Ok(FollowEnd::Complete),
                AfterFrame::Warn(gap) => self.warn(&gap),
                AfterFrame::Nothing => {}
            }
            match ended {
                Some(None) if self.command.no_follow => return Ok(FollowEnd::Complete),
                Some(None) => return Err(Failure::new(Exit::Unreachable, format!("cannot {what}: the stream ended"))),
                Some(Some(failure)) => return Err(failure),
                None => {}
            }
        }
    }

    /// Notes where a subscription begins. If `is_open`, it was open already, and its subscriber was moved.
    fn opened(&mut self, opened: &Opened, is_open: bool) {
        let is_durable = self.command.subscriber.is_some();
        // the service has less than it confirmed: the subscriber was moved back, or is a new one of the same name
        let was_moved_back = is_durable && opened.position < self.confirmed;
        let was_moved_on = is_durable && opened.position > self.position;
        // also in the log of a room that was created again
        let is_new = is_durable && !opened.resumed;
        if !self.was_opened || is_open || is_new || was_moved_back || was_moved_on {
            (self.position, self.cursor) = (opened.position, some_cursor(opened.cursor.clone()));
        }
        if self.retries.has_failed() {
            self.session.out.notice(&format!("following {} again", self.command.room));
        }
        self.was_opened = true;
        self.is_ephemeral = opened.first_sequence == 0;
        self.expired_since = None;
        self.retries.progress();
    }

    /// Takes a frame other than `opened`. Adds the text of a message to `ready`.
    fn frame(&mut self, frame: Option<Frame>, ready: &mut Vec<u8>) -> CliResult<AfterFrame> {
        match frame {
            Some(Frame::Message(message)) => self.message(message, ready),
            Some(Frame::Gap(gap)) => {
                let is_known = gap.to_sequence != 0 && gap.to_sequence <= self.position;
                // the cursor stays before the gap, which is known when it comes again
                self.position = self.position.max(gap.to_sequence);
                Ok(if is_known { AfterFrame::Nothing } else { AfterFrame::Warn(gap) })
            }
            Some(Frame::CaughtUp(_) | Frame::Heartbeat(_) | Frame::Opened(_)) | None => Ok(AfterFrame::Nothing),
        }
    }

    fn message(&mut self, message: Message, ready: &mut Vec<u8>) -> CliResult<AfterFrame> {
        if message.sequence != 0 && message.sequence <= self.position {
            return Ok(AfterFrame::Nothing);
        }
        ready.extend(self.command.printing.render(&self.session.out, &message)?);
        self.position = message.sequence;
        self.cursor = some_cursor(message.cursor);
        self.printed += 1;
        self.last_message = Instant::now();
        let is_last = self.command.count.is_some_and(|count| self.printed >= count);
        Ok(if is_last { AfterFrame::End } else { AfterFrame::Nothing })
    }

    /// Writes to standard output. A reader that does not read holds this up, but not the end by a signal.
    async fn write(&self, ready: Vec<u8>, signals: &mut StopSignals) -> CliResult {
        if ready.is_empty() {
            return Ok(());
        }
        let out = self.session.out.clone();
        let written = spawn_blocking(move || out.bytes(&ready));
        tokio::select! {
            written = written => written.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?,
            signal = signals.next() => Err(Failure::signal(signal)),
        }
    }

    fn warn(&self, gap: &Gap) {
        let reason = text::gap_reason(gap.reason);
        let text = match gap {
            Gap { from_sequence: 0, dropped: 0, .. } => format!("messages are missing: {reason}"),
            Gap { from_sequence: 0, dropped, .. } => format!("{} missing: {reason}", text::count(*dropped, "message")),
            Gap { from_sequence, to_sequence, .. } if from_sequence == to_sequence => {
                format!("the message {from_sequence} is missing: {reason}")
            }
            Gap { from_sequence, to_sequence, .. } => {
                format!("the messages {from_sequence} to {to_sequence} are missing: {reason}")
            }
        };
        let object = json::of("Gap", gap).unwrap_or_default();
        self.session.out.warning(&text, &json!({ "gap": object }));
    }

    /// When `--idle-timeout` ends the command.
    fn idle_end(&self) -> Option<Instant> {
        self.last_message.checked_add(self.command.idle_timeout?)
    }
}

/// The longest time between two frames.
fn interval(opened: &Opened) -> Option<Duration> {
    Duration::try_from(opened.heartbeat_interval?).ok()
}

/// Empty in an ephemeral room.
fn some_cursor(cursor: String) -> Option<String> {
    Some(cursor).filter(|cursor| !cursor.is_empty())
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
