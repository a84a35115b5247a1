//! A Consume stream or a session, as a test drives and reads it.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use unibus::v1::{
    AcknowledgeRequest, ConsumeClose, ConsumeCommand, ConsumeCredit, ConsumeOpen, ConsumePing, ConsumeRejected,
    ConsumeRequest, ConsumeResponse, Message, OpenSessionRequest, OpenSessionResponse, Opened, Session,
    SessionCommandRequest, SubscribeRequest, consume_request::Command, consume_response::Frame, open_session_response,
};

use super::{Client, errors::status};

/// How long a frame may take before the test gives up.
const FRAME_WAIT: Duration = Duration::from_secs(20);

/// How commands reach the service.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CommandsBy {
    /// On the request stream of Consume.
    Stream,
    /// By calls of `SessionCommand`.
    Session,
}

impl CommandsBy {
    pub(crate) const ALL: [Self; 2] = [Self::Stream, Self::Session];
}

enum Commands {
    Stream(mpsc::Sender<ConsumeRequest>),
    Session { client: Box<Client>, id: String, number: AtomicU64 },
}

/// An open call of Consume or `OpenSession`. Dropping it cancels the call.
pub(crate) struct Consuming {
    commands: Option<Commands>,
    frames: BoxStream<'static, Result<ConsumeResponse, Status>>,
    /// What was read while another room's frame was wanted.
    passed: HashMap<String, VecDeque<Frame>>,
}

impl Consuming {
    /// A stream on which nothing is open.
    pub(crate) async fn start(client: &Client) -> Self {
        let (commands, requests) = mpsc::channel(64);
        let frames = client.clone().consume(ReceiverStream::new(requests)).await.expect("a stream").into_inner();
        Self { commands: Some(Commands::Stream(commands)), frames: frames.boxed(), passed: HashMap::new() }
    }

    /// A session on which nothing is open, whose commands are sent by `commander`.
    pub(crate) async fn session(client: &Client, commander: &Client) -> Self {
        let mut frames =
            client.clone().open_session(OpenSessionRequest::default()).await.expect("a session").into_inner();
        let first = timeout(FRAME_WAIT, frames.message()).await.expect("in time").expect("a frame").expect("a frame");
        let Some(Session { id }) = session_of(&first) else { panic!("the first frame is {first:?}") };
        let frames = frames.map(|response| {
            response.map(|response| match response.frame {
                Some(open_session_response::Frame::Consume(response)) => response,
                other => panic!("a frame of a session is {other:?}"),
            })
        });
        let commands = Commands::Session { client: Box::new(commander.clone()), id, number: AtomicU64::new(1) };
        Self { commands: Some(commands), frames: frames.boxed(), passed: HashMap::new() }
    }

    /// A stream or session on which nothing is open.
    pub(crate) async fn start_by(by: CommandsBy, client: &Client) -> Self {
        match by {
            CommandsBy::Stream => Self::start(client).await,
            CommandsBy::Session => Self::session(client, client).await,
        }
    }

    /// The id of the session.
    pub(crate) fn session_id(&self) -> &str {
        match &self.commands {
            Some(Commands::Session { id, .. }) => id,
            _ => panic!("this is no session"),
        }
    }

    /// Sends what may be no proper command.
    pub(crate) async fn send(&self, command: Option<Command>) {
        match self.commands.as_ref().expect("not half-closed") {
            Commands::Stream(commands) => {
                let sent = timeout(FRAME_WAIT, commands.send(ConsumeRequest { command })).await;
                sent.expect("in time").expect("an open stream");
            }
            Commands::Session { client, id, number } => {
                let request = SessionCommandRequest {
                    session_id: id.clone(),
                    commands: vec![ConsumeRequest { command }],
                    number: number.fetch_add(1, Ordering::Relaxed),
                };
                let taken = timeout(FRAME_WAIT, Client::clone(client).session_command(request)).await;
                taken.expect("in time").expect("an open session");
            }
        }
    }

    /// Asks for a subscription without bounds.
    pub(crate) async fn ask(&self, subscribe: SubscribeRequest) {
        self.ask_within(subscribe, 0, 0).await;
    }

    /// Asks for a subscription with this credit.
    pub(crate) async fn ask_within(&self, subscribe: SubscribeRequest, credit_messages: u32, credit_bytes: u64) {
        let open = ConsumeOpen { subscribe: Some(subscribe), credit_messages, credit_bytes };
        self.send(Some(Command::Open(open))).await;
    }

    /// Opens a subscription without bounds.
    pub(crate) async fn open(&mut self, subscribe: SubscribeRequest) -> Opened {
        self.open_within(subscribe, 0, 0).await
    }

    /// Opens a subscription with this credit.
    pub(crate) async fn open_within(&mut self, subscribe: SubscribeRequest, messages: u32, bytes: u64) -> Opened {
        let room_id = subscribe.room_id.clone();
        self.ask_within(subscribe, messages, bytes).await;
        match self.next_of(&room_id).await {
            Frame::Opened(opened) => opened,
            other => panic!("the first frame of {room_id} is {other:?}"),
        }
    }

    pub(crate) async fn acknowledge(&self, room_id: &str, sequence: u64) {
        self.acknowledge_as(room_id, "", sequence).await;
    }

    pub(crate) async fn acknowledge_as(&self, room_id: &str, subscriber: &str, sequence: u64) {
        self.acknowledge_of(room_id, subscriber, sequence, None).await;
    }

    /// Acknowledges what the subscription with this generation delivered.
    pub(crate) async fn acknowledge_of(&self, room_id: &str, subscriber: &str, sequence: u64, generation: Option<u64>) {
        let (room_id, subscriber) = (room_id.into(), subscriber.into());
        self.send(Some(Command::Ack(AcknowledgeRequest { room_id, subscriber, sequence, generation }))).await;
    }

    /// Sends a ping.
    pub(crate) async fn ping(&self, nonce: u64) {
        self.send(Some(Command::Ping(ConsumePing { nonce }))).await;
    }

    /// The answer to a ping: the next frame that belongs to no room.
    pub(crate) async fn pong(&mut self) -> u64 {
        match self.next_of("").await {
            Frame::Pong(pong) => pong.nonce,
            other => panic!("instead of a pong: {other:?}"),
        }
    }

    pub(crate) async fn credit(&self, room_id: &str, messages: u32, bytes: u64) {
        self.send(Some(Command::Credit(ConsumeCredit { room_id: room_id.into(), messages, bytes }))).await;
    }

    pub(crate) async fn close(&self, room_id: &str) {
        self.send(Some(Command::Close(ConsumeClose { room_id: room_id.into() }))).await;
    }

    /// No more commands.
    pub(crate) fn half_close(&mut self) {
        self.commands = None;
    }

    /// The next frame of whatever room, with its room; `None` when the stream ended with OK.
    pub(crate) async fn next(&mut self) -> Result<Option<(String, Frame)>, Status> {
        let next = timeout(FRAME_WAIT, self.frames.try_next()).await.expect("a frame in time")?;
        Ok(next.map(|response| (response.room_id, response.frame.expect("a response holds a frame"))))
    }

    /// The next frame of this room; those of others are kept for when they are wanted.
    pub(crate) async fn next_of(&mut self, room_id: &str) -> Frame {
        if let Some(frame) = self.passed.get_mut(room_id).and_then(VecDeque::pop_front) {
            return frame;
        }
        loop {
            match self.next().await {
                Ok(Some((of, frame))) if of == room_id => return frame,
                Ok(Some((of, frame))) => self.passed.entry(of).or_default().push_back(frame),
                end => panic!("the stream ended before a frame of {room_id}: {end:?}"),
            }
        }
    }

    /// The next frame of this room that is no heartbeat.
    pub(crate) async fn next_told(&mut self, room_id: &str) -> Frame {
        loop {
            match self.next_of(room_id).await {
                Frame::Heartbeat(_) => {}
                frame => return frame,
            }
        }
    }

    /// The next `count` messages of this room; `caught_up` and heartbeats are passed over.
    pub(crate) async fn messages(&mut self, room_id: &str, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        while messages.len() < count {
            match self.next_told(room_id).await {
                Frame::Message(message) => messages.push(message),
                Frame::CaughtUp(_) => {}
                other => panic!("{} of {count} messages, then {other:?}", messages.len()),
            }
        }
        messages
    }

    /// The sequences of the next `count` messages of this room; confirmations too are passed over.
    pub(crate) async fn messages_and_acks(&mut self, room_id: &str, count: usize) -> Vec<u64> {
        let mut sequences = Vec::with_capacity(count);
        while sequences.len() < count {
            match self.next_told(room_id).await {
                Frame::Message(message) => sequences.push(message.sequence),
                Frame::CaughtUp(_) | Frame::Acked(_) => {}
                other => panic!("{} of {count} messages, then {other:?}", sequences.len()),
            }
        }
        sequences
    }

    /// The answer to an ack: the next frame that is neither message nor sign of life.
    pub(crate) async fn acked(&mut self, room_id: &str) -> u64 {
        loop {
            match self.next_told(room_id).await {
                Frame::Acked(acked) => return acked.position,
                Frame::Message(_) | Frame::CaughtUp(_) => {}
                other => panic!("instead of acked: {other:?}"),
            }
        }
    }

    /// The refusal of a command: which, its sequence, and why.
    pub(crate) async fn rejected(&mut self, room_id: &str) -> (ConsumeCommand, u64, Status) {
        loop {
            match self.next_told(room_id).await {
                Frame::Rejected(ConsumeRejected { command, sequence, error }) => {
                    let command = ConsumeCommand::try_from(command).expect("a known command");
                    return (command, sequence, status(&error.expect("an error")));
                }
                Frame::Message(_) | Frame::CaughtUp(_) => {}
                other => panic!("instead of rejected: {other:?}"),
            }
        }
    }

    /// What this room's subscription ended with; the frames before are passed over.
    pub(crate) async fn closed(&mut self, room_id: &str) -> Status {
        loop {
            if let Frame::Closed(closed) = self.next_of(room_id).await {
                return status(&closed);
            }
        }
    }

    /// Reads to the end, and gives the status that the stream ended with.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some((room_id, frame))) => self.passed.entry(room_id).or_default().push_back(frame),
                Ok(None) => return Status::new(Code::Ok, ""),
                Err(status) => return status,
            }
        }
    }
}

/// The session of the first frame.
pub(crate) fn session_of(response: &OpenSessionResponse) -> Option<Session> {
    match &response.frame {
        Some(open_session_response::Frame::Session(session)) => Some(session.clone()),
        _ => None,
    }
}
