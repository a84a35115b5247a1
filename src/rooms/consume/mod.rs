//! Subscriptions of several rooms on one stream, with acknowledgements and credit.
//!
//! Two sides share a [`Stage`]. The one that reads the client's commands is a task, so that what was acknowledged becomes
//! durable also while the client reads nothing. The one that sends belongs to the client's stream: it polls the rooms' own
//! streams, each when it has something, in turn. Neither has a queue that grows with the client's slowness:
//! acknowledgements of a subscriber that wait are merged, and so are their confirmations.

pub(crate) mod flow;
mod reader;
mod room;
mod stage;

use std::sync::Arc;

use async_stream::stream;
use futures_util::{Stream, StreamExt, stream::SelectAll};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::{
    flow::Credit,
    reader::Reader,
    stage::{Stage, Turn},
};
use super::{Rooms, subscribe::SubscribeOptions};
use crate::{
    domain::{Caller, RoomId, SubscriberId},
    error::{Error, Result},
    subscriptions::{frame::Frame, subscribers::session::SubscriberSession},
};

/// Subscriptions of one stream that are being opened at the same time.
const OPENS_AT_ONCE: usize = 32;

/// What the client asks for. What is wrong beside the room is kept, to be answered where the command belongs.
#[derive(Debug)]
pub(crate) enum ConsumeCommand {
    Open {
        room_id: RoomId,
        options: Result<SubscribeOptions>,
        credit: Credit,
    },
    /// Of the open subscription's subscriber, unless one is given.
    Acknowledge {
        room_id: RoomId,
        subscriber: Result<Option<SubscriberId>>,
        sequence: u64,
    },
    Credit {
        room_id: RoomId,
        messages: u32,
        bytes: u64,
    },
    Close {
        room_id: RoomId,
    },
}

/// Which command it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Open,
    Acknowledge,
    Credit,
    Close,
}

/// What the client is told of one of its rooms.
#[derive(Debug)]
pub(crate) struct Consumed {
    pub room_id: RoomId,
    pub event: ConsumeEvent,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum ConsumeEvent {
    /// With whom to tell what the client's stream has taken, if the position moves by itself.
    Frame(Frame, Option<Arc<SubscriberSession>>),
    /// Everything up to this position is acknowledged, and durable.
    Acknowledged(u64),
    /// A command was not carried out. What is open stays so.
    Rejected {
        kind: CommandKind,
        /// Of an acknowledgement.
        sequence: u64,
        error: Error,
    },
    /// The room's subscription ended, or could not be opened.
    Closed(Result<()>),
}

impl Rooms {
    /// Obeys the commands of one stream. The rooms' frames in turn, each room's in their order, and answers to commands.
    /// Ends without an error after the last command, when the rooms that do not end by themselves are closed and the others
    /// have ended; with one when the service drains or the credentials expire, after every room's `Closed`, or when a command could not be read.
    /// Dropping the stream closes everything.
    pub(crate) fn consume<S>(
        &self,
        caller: &Caller,
        commands: S,
    ) -> impl Stream<Item = Result<Consumed>> + Send + 'static
    where
        S: Stream<Item = Result<ConsumeCommand>> + Send + 'static,
    {
        let stage = Arc::new(Stage::default());
        let gone = CancellationToken::new();
        // ends soon after the stream: what it had begun to acknowledge is still carried out
        self.tasks.spawn(Reader::new(self.clone(), caller.clone(), Arc::clone(&stage), gone.clone()).run(commands));
        let gone = gone.drop_guard();
        let (rooms, caller) = (self.clone(), caller.clone());
        stream! {
            let _gone = gone;
            let opens = Arc::new(Semaphore::new(OPENS_AT_ONCE));
            let mut open = SelectAll::new();
            loop {
                match stage.turn() {
                    Some(Turn::Answer(answer)) => yield Ok(answer),
                    Some(Turn::Open(options, flow)) => {
                        let (opens, stage) = (Arc::clone(&opens), Arc::clone(&stage));
                        let frames = room::consumed(rooms.clone(), caller.clone(), options, flow, opens, stage);
                        open.push(Box::pin(frames));
                    }
                    Some(Turn::End(end)) => {
                        if let Err(error) = end {
                            yield Err(error);
                        }
                        return;
                    }
                    None => tokio::select! {
                        biased;
                        () = stage.wait_for_turn() => {}
                        Some(consumed) = open.next(), if !open.is_empty() => yield Ok(consumed),
                    },
                }
            }
        }
    }
}
