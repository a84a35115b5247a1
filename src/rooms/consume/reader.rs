//! Reads the commands of a Consume stream, and acknowledges.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::{Pin, pin},
    sync::Arc,
};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

use super::{
    CommandKind, ConsumeCommand, ConsumeEvent,
    flow::{Credit, Flow},
    queues::ConsumeQueues,
};
use crate::{
    domain::{Acknowledgement, Caller, RoomId, SubscriberId},
    error::{Error, Reason, Result},
    limits::CONSUME_ANSWERS_MAX,
    rooms::{Rooms, access::expires_at, subscribe::SubscribeOptions},
    subscriptions::{ending::draining, standing::expired},
};

type AckKey = (RoomId, SubscriberId);

/// The result of an acknowledgement.
struct AckOutcome {
    key: AckKey,
    sequence: u64,
    position: Result<u64>,
}

/// The side of a Consume stream that reads commands.
pub(super) struct CommandReader {
    rooms: Rooms,
    caller: Caller,
    queues: Arc<ConsumeQueues>,
    /// Cancelled when the client has gone.
    gone: CancellationToken,
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = AckOutcome> + Send>>>,
    /// Waiting acknowledgements. Those of one subscriber run one after the other.
    waiting: HashMap<AckKey, VecDeque<Acknowledgement>>,
    waiting_count: usize,
    /// Rooms to close when their acknowledgements have finished.
    closing: HashSet<RoomId>,
}

impl CommandReader {
    pub(super) fn new(rooms: Rooms, caller: Caller, queues: Arc<ConsumeQueues>, gone: CancellationToken) -> Self {
        let (under_way, waiting, closing) = (FuturesUnordered::new(), HashMap::new(), HashSet::new());
        Self { rooms, caller, queues, gone, under_way, waiting, waiting_count: 0, closing }
    }

    /// Runs the commands until they end, the client has gone, its credentials expire or the service drains. Then
    /// waits for the last acknowledgement.
    pub(super) async fn run<S: Stream<Item = Result<ConsumeCommand>>>(mut self, commands: S) {
        let queues = Arc::clone(&self.queues);
        let (gone, draining_begins) = (self.gone.clone(), self.rooms.draining.clone());
        let mut commands = pin!(commands);
        let mut expired = pin!(expired(expires_at(&self.caller)));
        let (end, when_closed) = loop {
            let may_read = self.under_way.len() + self.waiting_count < CONSUME_ANSWERS_MAX && queues.has_space();
            tokio::select! {
                biased;
                () = gone.cancelled() => break (Ok(()), false),
                () = draining_begins.cancelled() => break (Err(draining()), true),
                error = &mut expired => break (Err(error), true),
                Some(acknowledged) = self.under_way.next(), if !self.under_way.is_empty() => self.through(acknowledged),
                command = commands.next(), if may_read => match command {
                    Some(Ok(command)) => self.carry_out(command),
                    Some(Err(error)) => break (Err(error), false),
                    None => {
                        self.close_all();
                        break (Ok(()), true);
                    }
                },
                () = queues.wait_for_space(), if !may_read => {}
            }
        };
        while let Some(acknowledged) = self.under_way.next().await {
            self.through(acknowledged);
        }
        queues.end(end, when_closed);
    }

    fn carry_out(&mut self, command: ConsumeCommand) {
        match command {
            ConsumeCommand::Open { room_id, options, credit } => self.open(room_id, options, credit),
            ConsumeCommand::Acknowledge { room_id, subscriber, acknowledgement } => {
                match subscriber.and_then(|subscriber| self.subscriber(&room_id, subscriber)) {
                    Ok(subscriber) => self.acknowledge((room_id, subscriber), acknowledgement),
                    Err(error) => self.reject(room_id, CommandKind::Acknowledge, acknowledgement.sequence, error),
                }
            }
            ConsumeCommand::Credit { room_id, messages, bytes } => match self.queues.find(&room_id) {
                Some(flow) if !flow.is_closing() => flow.add(messages, bytes),
                Some(_) | None => self.reject(room_id, CommandKind::Credit, 0, not_open()),
            },
            ConsumeCommand::Close { room_id } => match self.queues.find(&room_id) {
                Some(flow) => self.close(room_id, &flow),
                None => self.reject(room_id, CommandKind::Close, 0, not_open()),
            },
            ConsumeCommand::Ping { nonce } => self.queues.pong(nonce),
        }
    }

    fn open(&mut self, room_id: RoomId, options: Result<SubscribeOptions>, credit: Credit) {
        if self.queues.find(&room_id).is_some() {
            let error = Error::new(
                Reason::SubscriptionOpen,
                "`room_id`: the room is open on this stream; close it and wait for `closed`, or use another stream",
            );
            return self.reject(room_id, CommandKind::Open, 0, error);
        }
        self.closing.remove(&room_id);
        let opened = options.and_then(|options| {
            let flow = Flow::new(&options, credit);
            self.queues.open(options, flow)
        });
        if let Err(error) = opened {
            self.queues.answer(room_id, ConsumeEvent::Closed(Err(error)));
        }
    }

    fn subscriber(&self, room_id: &RoomId, given: Option<SubscriberId>) -> Result<SubscriberId> {
        match (self.queues.find(room_id), given) {
            (None, None) => Err(not_open()),
            (None, Some(given)) => Ok(given),
            (Some(flow), _) if flow.is_closing() => Err(not_open()),
            (Some(flow), given) => match (&flow.subscriber, given) {
                (None, _) => Err(Error::field(
                    "subscriber",
                    "the open subscription of the room is not durable, so it has no position; open it with `subscriber`",
                )),
                (Some(open), Some(given)) if given != *open => {
                    Err(Error::field("subscriber", "is not the subscriber of the open subscription; leave it empty"))
                }
                (Some(open), _) => Ok(open.clone()),
            },
        }
    }

    fn acknowledge(&mut self, key: AckKey, given: Acknowledgement) {
        let Some(waiting) = self.waiting.get_mut(&key) else {
            self.waiting.insert(key.clone(), VecDeque::new());
            return self.begin(key, given);
        };
        // only acknowledgements that cannot fail by themselves are merged, and only with those that have the same fate
        let flow = self.queues.find(&key.0);
        let sure = |sequence| flow.as_ref().is_some_and(|flow| flow.was_reported(sequence));
        match waiting.back_mut() {
            Some(last) if last.generation == given.generation && sure(last.sequence) && sure(given.sequence) => {
                last.sequence = given.sequence.max(last.sequence);
            }
            Some(_) | None => {
                waiting.push_back(given);
                self.waiting_count += 1;
            }
        }
    }

    fn begin(&mut self, key: AckKey, given: Acknowledgement) {
        let (rooms, caller) = (self.rooms.clone(), self.caller.clone());
        self.under_way.push(Box::pin(async move {
            let position = rooms.acknowledge(&caller, &key.0, &key.1, given).await;
            AckOutcome { key, sequence: given.sequence, position }
        }));
    }

    fn through(&mut self, acknowledged: AckOutcome) {
        let AckOutcome { key, sequence, position } = acknowledged;
        match position {
            Ok(position) => self.queues.answer(key.0.clone(), ConsumeEvent::Acknowledged(position)),
            Err(error) => self.reject(key.0.clone(), CommandKind::Acknowledge, sequence, error),
        }
        let next = self.waiting.get_mut(&key).and_then(VecDeque::pop_front);
        if let Some(next) = next.filter(|_| !self.gone.is_cancelled()) {
            self.waiting_count -= 1;
            return self.begin(key, next);
        }
        self.waiting.remove(&key);
        if self.closing.contains(&key.0)
            && let Some(flow) = self.queues.find(&key.0)
        {
            self.close(key.0, &flow);
        }
    }

    /// Stops sending messages of the room, and closes it when its acknowledgements have finished.
    fn close(&mut self, room_id: RoomId, flow: &Flow) {
        flow.stop();
        if self.waiting.keys().any(|(acknowledging, _)| *acknowledging == room_id) {
            self.closing.insert(room_id);
        } else {
            self.closing.remove(&room_id);
            flow.close();
        }
    }

    /// Closes all rooms after the client's last command.
    fn close_all(&mut self) {
        for (room_id, flow) in self.queues.all() {
            if flow.until_caught_up {
                flow.no_more_credit();
            } else {
                self.close(room_id, &flow);
            }
        }
    }

    fn reject(&self, room_id: RoomId, kind: CommandKind, sequence: u64, error: Error) {
        self.queues.answer(room_id, ConsumeEvent::Rejected { kind, sequence, error });
    }
}

fn not_open() -> Error {
    Error::new(
        Reason::SubscriptionNotOpen,
        "`room_id`: the room is not open on this stream, or is being closed; open it first",
    )
}
