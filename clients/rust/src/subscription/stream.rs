//! One `Consume` stream with one room.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use unibus::v1::{
    ConsumeCommand, ConsumeCredit, ConsumeOpen, ConsumePing, ConsumeRejected, ConsumeRequest, ConsumeResponse, Gap,
    GapReason, Opened, SubscribeRequest, consume_request::Command, consume_response::Frame,
};

use super::{
    Event,
    engine::{Plan, silent},
    mailbox::Mailbox,
    pulse::{PAUSE_LONG, PAUSE_SHORT, PULSE, Pulse},
};
use crate::{
    connection::{Stub, with_token},
    error::{Class, Error, Result},
    retry::{PAUSE_MIN, Tokens, later},
};

/// How long `opened` may take (U16).
const OPENED_LIMIT: Duration = Duration::from_secs(15);
/// How long the service may take to answer after the client was frozen (U17).
const PONG_LIMIT: Duration = Duration::from_secs(5);
/// How long the client reads once more before it takes silence for true: frames may have come while the process stood still.
const READ_TIME: Duration = Duration::from_millis(250);
/// A subscription that was open for this long was a success (U15).
const SETTLED: Duration = Duration::from_secs(10);
/// Commands that wait for the connection.
const COMMANDS_MAX: usize = 64;

/// An open stream.
pub(super) struct OpenStream<'a> {
    plan: &'a Plan,
    mailbox: &'a Arc<Mailbox>,
    frames: Streaming<ConsumeResponse>,
    /// `None` after the half-close.
    commands: Option<mpsc::Sender<ConsumeRequest>>,
    /// Keeps the connection.
    _stub: Stub,
    connection_number: u64,
    opened_at: Option<Instant>,
    last_frame: Instant,
    silence_limit: Duration,
    pong_by: Option<Instant>,
    pulse: Pulse,
    has_progressed: bool,
    /// The subscription has ended with OK after `caught_up`.
    is_complete: bool,
}

impl<'a> OpenStream<'a> {
    /// Opens the stream, and asks for the subscription.
    pub(super) async fn open(plan: &'a Plan, mailbox: &'a Arc<Mailbox>, tokens: &mut Tokens) -> Result<Self> {
        let connection = &plan.room.client.connection;
        let now = Instant::now();
        // a token takes no longer than an attempt (U9)
        let token_limit = plan.room.client.times.attempt.min(OPENED_LIMIT);
        let token = tokens.next(connection, now + token_limit).await?;
        let (commands, sent) = mpsc::channel(COMMANDS_MAX);
        let open = {
            let mut state = mailbox.state();
            let credit = state.first_credit(plan.read_ahead);
            ConsumeOpen {
                subscribe: Some(SubscribeRequest {
                    room_id: plan.room.room_id(),
                    subscriber: plan.subscriber.clone(),
                    ack_mode: 0,
                    start: state.position.start(plan.start.as_ref()),
                    until_caught_up: plan.until_caught_up,
                }),
                credit_messages: credit.messages,
                credit_bytes: credit.bytes,
            }
        };
        let _ = commands.try_send(ConsumeRequest { command: Some(Command::Open(open)) });
        let request = with_token(ReceiverStream::new(sent), token);
        let (connection_number, mut stub) = connection.stub();
        let answer = time::timeout_at(now + OPENED_LIMIT, stub.consume(request)).await.map_err(|_| {
            connection.renew(connection_number);
            silent("the subscription did not open in time")
        })?;
        let frames = answer?.into_inner();
        Ok(Self {
            plan,
            mailbox,
            frames,
            commands: Some(commands),
            _stub: stub,
            connection_number,
            opened_at: None,
            last_frame: now,
            silence_limit: OPENED_LIMIT,
            pong_by: None,
            pulse: Pulse::new(),
            has_progressed: false,
            is_complete: false,
        })
    }

    /// Whether the subscription was a success, so that the back-off begins again (U15).
    pub(super) fn was_success(&self) -> bool {
        self.has_progressed || self.opened_at.is_some_and(|at| at.elapsed() >= SETTLED)
    }

    /// Receives until the subscription is closed or complete (`Ok`), or the stream breaks.
    pub(super) async fn run(&mut self) -> Result<()> {
        let mailbox = self.mailbox.clone();
        let mut is_closing = false;
        loop {
            let now = Instant::now();
            let pause = self.pulse.feel();
            if pause > PAUSE_SHORT {
                // the watchdog counts only time in which the client could read
                self.last_frame = now;
            }
            if pause > PAUSE_LONG && !self.is_complete {
                self.pong_by = Some(now + PONG_LIMIT);
                self.command(Command::Ping(ConsumePing { nonce: 0 }));
            }
            self.send_due(now);
            if self.is_over(is_closing) {
                return Ok(());
            }
            let silent_at = self.silent_at();
            let ack_at = mailbox.state().position.ack_at().filter(|&at| at > now);
            let wake_at = [silent_at, ack_at].into_iter().flatten().fold(now + PULSE, Instant::min);
            tokio::select! {
                biased;
                frame = self.frames.message() => self.received(frame?)?,
                () = mailbox.work.notified() => {}
                () = mailbox.closing.cancelled(), if !is_closing => {
                    is_closing = true;
                    mailbox.state().close();
                }
                () = time::sleep_until(wake_at) => {
                    let now = Instant::now();
                    let was_reading = self.pulse.pause(now, SystemTime::now()) <= PAUSE_SHORT;
                    if was_reading && silent_at.is_some_and(|at| at <= now) {
                        let Ok(frame) = time::timeout(READ_TIME, self.frames.message()).await else {
                            self.plan.room.client.connection.renew(self.connection_number);
                            return Err(silent("no frame in time"));
                        };
                        self.received(frame?)?;
                    }
                }
            }
        }
    }

    /// Half-closes the stream, and waits for the confirmation of the last acknowledgement (U20).
    pub(super) async fn flush(&mut self, until: Instant) -> Result<()> {
        if !self.mailbox.state().position.has_unconfirmed() {
            return Ok(());
        }
        self.acknowledge();
        self.commands = None;
        let confirmed = async {
            while self.mailbox.state().position.has_unconfirmed() {
                match self.frames.message().await {
                    Ok(Some(ConsumeResponse { frame: Some(Frame::Closed(_)) | None, .. })) => {}
                    Ok(Some(ConsumeResponse { frame: Some(frame), .. })) => self.frame(frame)?,
                    Ok(None) | Err(_) => break,
                }
            }
            Ok(())
        };
        time::timeout_at(until, confirmed).await.unwrap_or(Ok(()))
    }

    /// Whether the subscription ends here.
    fn is_over(&self, is_closing: bool) -> bool {
        let state = self.mailbox.state();
        if is_closing {
            !(self.plan.waits_for_handlers && state.is_busy())
        } else {
            self.is_complete && state.is_empty()
        }
    }

    /// When the watchdog ends the stream.
    fn silent_at(&self) -> Option<Instant> {
        // after the subscription has ended nothing need come
        let silent_at = (!self.is_complete).then(|| later(self.last_frame, self.silence_limit));
        silent_at.into_iter().chain(self.pong_by).min()
    }

    fn received(&mut self, response: Option<ConsumeResponse>) -> Result<()> {
        match response {
            Some(ConsumeResponse { frame: Some(frame), .. }) => self.frame(frame),
            Some(ConsumeResponse { frame: None, .. }) => Ok(()),
            None => Err(silent("the stream has ended")),
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<()> {
        (self.last_frame, self.pong_by) = (Instant::now(), None);
        let mut state = self.mailbox.state();
        match frame {
            Frame::Opened(opened) => {
                drop(state);
                self.opened(&opened);
            }
            Frame::Message(message) => {
                self.has_progressed = true;
                state.message(message);
            }
            Frame::CaughtUp(caught_up) => {
                state.position.reached(caught_up.position);
                state.event(Event::CaughtUp { position: caught_up.position });
            }
            Frame::Heartbeat(heartbeat) => state.position.reached(heartbeat.position),
            Frame::Gap(gap) => {
                if let Some(gap) = state.position.gap(gap) {
                    state.event(gap.into());
                }
            }
            Frame::Acked(acked) => state.position.confirmed(acked.position),
            Frame::Closed(status) if status.code == Code::Ok as i32 => {
                self.is_complete = self.plan.until_caught_up;
                if !self.is_complete {
                    return Err(silent("the service closed the subscription"));
                }
            }
            Frame::Closed(status) => return Err(Error::from_frame(&status)),
            Frame::Rejected(rejected) => {
                drop(state);
                return self.rejected(&rejected);
            }
            Frame::Pong(_) => {}
        }
        Ok(())
    }

    fn opened(&mut self, opened: &Opened) {
        let interval = opened.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok());
        let interval = interval.filter(|interval| !interval.is_zero());
        self.silence_limit = interval.map_or(self.silence_limit, |interval| interval.saturating_mul(2));
        let is_first = self.opened_at.is_none();
        self.opened_at.get_or_insert_with(Instant::now);
        let mut state = self.mailbox.state();
        let was_open = state.position.was_open();
        let was_moved = state.position.opened(opened, is_first, Instant::now());
        if is_first {
            state.event(Event::Opened {
                position: opened.position,
                resumed: opened.resumed || (was_open && !was_moved),
            });
            if was_open && state.position.is_ephemeral() {
                let reason = GapReason::Disconnected.into();
                state.event(Gap { reason, ..Gap::default() }.into());
            }
        }
        if was_moved {
            // they come again, or lie before the new position
            state.take_back();
            state.event(Event::Moved { position: opened.position });
        }
    }

    fn rejected(&mut self, rejected: &ConsumeRejected) -> Result<()> {
        let error = rejected.error.as_ref().map(Error::from_frame);
        let Some(error) = error.filter(|_| rejected.command() == ConsumeCommand::Ack) else { return Ok(()) };
        if error.class() == Class::Again {
            let pause = error.retry_after().unwrap_or_default().max(PAUSE_MIN);
            self.mailbox.state().position.ask_again(later(Instant::now(), pause));
        }
        // otherwise `closed` follows, and says how the subscription goes on
        match error.reason() {
            "TAKEN_OVER" => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends what is due: acknowledgements and credit.
    fn send_due(&mut self, now: Instant) {
        let (ack, credit) = {
            let mut state = self.mailbox.state();
            (state.position.due_ack(now), state.due_credit(self.plan.read_ahead))
        };
        if ack.is_some() && self.opened_at.is_some() {
            self.acknowledge();
        }
        if let Some(credit) = credit.filter(|_| self.opened_at.is_some() && !self.is_complete) {
            let (room_id, messages, bytes) = (self.plan.room.room_id(), credit.messages, credit.bytes);
            if self.command(Command::Credit(ConsumeCredit { room_id, messages, bytes })) {
                self.mailbox.state().credited();
            }
        }
    }

    /// Acknowledges everything that is processed.
    fn acknowledge(&mut self) {
        let ack = self.mailbox.state().position.ack();
        let acknowledge = self.plan.acknowledgement(ack);
        if self.command(Command::Ack(acknowledge)) {
            self.mailbox.state().position.asked(ack);
        }
    }

    /// Whether the command goes out. Otherwise the connection takes nothing at this moment, and the command is sent later.
    fn command(&mut self, command: Command) -> bool {
        let request = ConsumeRequest { command: Some(command) };
        self.commands.as_ref().is_some_and(|commands| commands.try_send(request).is_ok())
    }
}
