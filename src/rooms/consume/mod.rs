//! Subscriptions of several rooms on one stream, with acknowledgements and credit.
//!
//! Two sides share a [`ConsumeQueues`]. The reader is a task that reads the client's commands, so that acknowledgements
//! become durable even while the client reads nothing. The sending side is part of the response stream: it polls the
//! streams of the rooms in turn. Answers to commands are sent before messages. No queue grows while the client is slow:
//! waiting acknowledgements of a subscriber are merged, and so are their confirmations, and beyond a number of waiting
//! answers no command is read.

pub(crate) mod flow;
mod queues;
mod reader;
mod room;

use std::sync::Arc;

use async_stream::stream;
use futures_util::{Stream, StreamExt, stream::SelectAll};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{
    flow::Credit,
    queues::{ConsumeQueues, NextStep},
    reader::CommandReader,
};
use super::{Rooms, subscribe::SubscribeOptions};
use crate::{
    domain::{Acknowledgement, Caller, RoomId, SubscriberId},
    error::{Error, Result},
    subscriptions::{frame::Frame, subscribers::session::SubscriberSession},
    traces,
};

/// Maximum number of subscriptions of one stream that are opened concurrently.
const OPENS_AT_ONCE: usize = 32;

/// A command of the client. An error in any field but the room is kept, so that the answer to this command reports
/// it.
#[derive(Debug)]
pub(crate) enum ConsumeCommand {
    Open {
        room_id: RoomId,
        options: Result<SubscribeOptions>,
        credit: Credit,
    },
    /// Acknowledges for `subscriber`, or for the open subscription's subscriber.
    Acknowledge {
        room_id: RoomId,
        subscriber: Result<Option<SubscriberId>>,
        acknowledgement: Acknowledgement,
    },
    Credit {
        room_id: RoomId,
        messages: u32,
        bytes: u64,
    },
    Close {
        room_id: RoomId,
    },
    /// Asks for a [`ConsumeEvent::Pong`].
    Ping {
        nonce: u64,
    },
}

/// The kind of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Open,
    Acknowledge,
    Credit,
    Close,
}

/// An event of one of the client's rooms, or of the stream itself.
#[derive(Debug)]
pub(crate) struct Consumed {
    /// `None` for [`ConsumeEvent::Pong`].
    pub room_id: Option<RoomId>,
    pub event: ConsumeEvent,
}

#[derive(Debug)]
pub(crate) enum ConsumeEvent {
    /// A frame. With a session in `ACK_MODE_AUTO`, which receives what the client's stream has taken.
    Frame(Frame, Option<Arc<SubscriberSession>>),
    /// Everything up to this position is acknowledged and durable.
    Acknowledged(u64),
    /// A command was not carried out. Open subscriptions stay open.
    Rejected {
        kind: CommandKind,
        /// The sequence of an acknowledgement; 0 for other commands.
        sequence: u64,
        error: Error,
    },
    /// The room's subscription ended, or could not be opened.
    Closed(Result<()>),
    /// The answer to a ping.
    Pong(u64),
}

impl Rooms {
    /// Runs the commands of one stream. Returns the frames of the rooms in turn, each room's in order, and the
    /// answers to commands. After the last command, closes the rooms that do not end by themselves, waits for the
    /// others, and ends without an error. If the service drains or the credentials expire, ends with an error after
    /// every room's `Closed`. If a command cannot be read, ends with an error. Dropping the stream closes everything.
    pub(crate) fn consume<S>(
        &self,
        caller: &Caller,
        commands: S,
    ) -> impl Stream<Item = Result<Consumed>> + Send + 'static
    where
        S: Stream<Item = Result<ConsumeCommand>> + Send + 'static,
    {
        let queues = Arc::new(ConsumeQueues::default());
        let gone = CancellationToken::new();
        // ends soon after the stream, when its running acknowledgements have finished
        self.tasks
            .spawn(CommandReader::new(self.clone(), caller.clone(), Arc::clone(&queues), gone.clone()).run(commands));
        let gone = gone.drop_guard();
        let (rooms, caller, span) = (self.clone(), caller.clone(), traces::current());
        stream! {
            let _gone = gone;
            let opens = Arc::new(Semaphore::new(OPENS_AT_ONCE));
            let mut open = SelectAll::new();
            loop {
                // a room waits for its turn in the queue, where it takes less memory
                let mut turn = Arc::clone(&opens).try_acquire_owned().ok();
                match queues.next_step(&mut turn) {
                    Some(NextStep::Answer(answer)) => yield Ok(answer),
                    Some(NextStep::Open(options, flow, turn)) => {
                        let (queues, span) = (Arc::clone(&queues), span.clone());
                        let frames = room::consumed(rooms.clone(), caller.clone(), options, flow, turn, queues, span);
                        open.push(Box::pin(frames));
                    }
                    Some(NextStep::End(end)) => {
                        if let Err(error) = end {
                            yield Err(error);
                        }
                        return;
                    }
                    None => tokio::select! {
                        biased;
                        () = queues.wait_for_step() => {}
                        _ = opens.acquire(), if turn.is_none() => {}
                        Some(consumed) = open.next(), if !open.is_empty() => yield Ok(consumed),
                    },
                }
            }
        }
    }
}
