//! The stream of a publisher.

use std::{future, mem, pin::pin, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{self, Instant, Interval, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use unibus::v1::PublishStreamResponse;

use super::queue::{Answer, Queue};
use crate::{
    NewMessage, Published, Room,
    connection::with_token,
    error::{Error, Result},
    publish::RoomFacts,
    retry::{Backoff, Tokens, later},
};

/// How often the publisher looks for messages whose time is up.
const TICK: Duration = Duration::from_millis(100);

/// A message of the program.
pub(super) struct Input {
    pub(super) message: NewMessage,
    pub(super) deadline: Option<Instant>,
    pub(super) ticket: Ticket,
}

/// Who waits for a message, and the space that it takes in the window.
pub(super) struct Ticket {
    pub(super) answer: oneshot::Sender<Result<Published>>,
    pub(super) _space: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Sends the messages of one publisher.
pub(super) struct PublisherTask {
    room: Room,
    inbox: mpsc::Receiver<Input>,
    /// Whether the program may give more messages.
    is_open: bool,
    closing: CancellationToken,
    /// How many messages can be unanswered.
    window: usize,
    queue: Queue<Ticket>,
    /// Whether it is known what kind of room it is.
    has_facts: bool,
    backoff: Backoff,
    tokens: Tokens,
    tick: Interval,
}

impl PublisherTask {
    pub(super) fn new(room: Room, inbox: mpsc::Receiver<Input>, window: usize, closing: CancellationToken) -> Self {
        let (queue, backoff, tokens) = (Queue::new(room.client.times), Backoff::default(), Tokens::default());
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { room, inbox, is_open: true, closing, window, queue, has_facts: false, backoff, tokens, tick }
    }

    /// Runs until the publisher is closed and everything is answered, or its time is up, or it is dropped.
    pub(super) async fn run(mut self, close_time: Duration, dropped: CancellationToken) {
        let closing = self.closing.clone();
        let late = async {
            closing.cancelled().await;
            time::sleep(close_time).await;
        };
        let error = tokio::select! {
            () = self.work() => return,
            () = late => Error::local(Code::DeadlineExceeded, "the publisher was closed before the answer"),
            () = dropped.cancelled() => Error::cancelled("the publisher was dropped before the answer"),
        };
        self.inbox.close();
        self.end(&error);
    }

    /// Ends all messages that the program has given.
    fn end(&mut self, error: &Error) {
        while let Ok(input) = self.inbox.try_recv() {
            self.take(input);
        }
        resolve(self.queue.end(error));
    }

    async fn work(&mut self) {
        while self.is_open || !self.queue.is_empty() {
            if self.queue.is_empty() {
                self.meanwhile(future::pending::<()>()).await;
                continue;
            }
            if !self.has_facts {
                self.find_facts().await;
                continue;
            }
            let obstacle = match self.exchange().await {
                Ok(obstacle) => obstacle,
                Err(error) => {
                    resolve(self.queue.broken(&error, Instant::now()));
                    Some(error)
                }
            };
            let Some(error) = obstacle else { continue };
            self.tokens.note(&error);
            if RoomFacts::is_doubted_by(&error) {
                self.room.client.connection.forget_facts(self.room.id());
                self.has_facts = false;
                self.queue.set_facts(None);
            }
            let next = later(Instant::now(), self.backoff.next(&error));
            resolve(self.queue.give_up(next));
            let mut pause = pin!(time::sleep_until(next));
            while self.queue.has_failed() && self.meanwhile(pause.as_mut()).await.is_none() {}
        }
    }

    /// Waits for `step`. `None`: meanwhile the program gave a message, or messages have ended since their time is up.
    ///
    /// # Cancel safety
    /// No message is lost. `step` begins again with the next call, unless it is pinned.
    async fn meanwhile<T>(&mut self, step: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = step => return Some(done),
            () = self.closing.cancelled(), if !self.inbox.is_closed() => self.inbox.close(),
            input = self.inbox.recv(), if self.is_open => match input {
                Some(input) => self.take(input),
                None => self.is_open = false,
            },
            _ = self.tick.tick(), if !self.queue.is_empty() => self.expire(),
        }
        None
    }

    /// Waits for `step`, whatever happens meanwhile.
    async fn finish<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        loop {
            if let Some(done) = self.meanwhile(step.as_mut()).await {
                return done;
            }
        }
    }

    fn take(&mut self, Input { message, deadline, ticket }: Input) {
        match message.request(&self.room, true) {
            Ok(request) => self.queue.push(request, message.has_own_id(), deadline, ticket),
            Err(error) => resolve(vec![(ticket, Err(error))]),
        }
    }

    fn expire(&mut self) {
        resolve(self.queue.expire(Instant::now()));
    }

    /// Asks what kind of room it is. If that fails, all messages fail that the program gave until then.
    async fn find_facts(&mut self) {
        let room = self.room.clone();
        match self.finish(room.facts(room.client.times.total)).await {
            Ok(facts) => {
                self.has_facts = true;
                self.queue.set_facts(Some(facts));
            }
            Err(error) => self.end(&error),
        }
    }

    /// Sends and receives on one stream, until it breaks, or must be opened again before more is sent, or nothing is left to
    /// do.
    async fn exchange(&mut self) -> Result<Option<Error>> {
        let (connection, attempt) = (self.room.client.connection.clone(), self.room.client.times.attempt);
        let (number, mut stub) = connection.stub();
        let late = || {
            connection.renew(number);
            Error::local(Code::DeadlineExceeded, "no answer in time")
        };
        let (requests, sent) = mpsc::channel(self.window);
        let deadline = later(Instant::now(), attempt);
        let mut tokens = mem::take(&mut self.tokens);
        let token = self.finish(tokens.next(&connection, deadline)).await;
        self.tokens = tokens;
        let request = with_token(ReceiverStream::new(sent), token?);
        let opened = self.finish(time::timeout_at(deadline, stub.publish_stream(request))).await;
        let mut answers = opened.map_err(|_| late())??.into_inner();
        // the time of a message may have ended meanwhile
        self.expire();
        let (mut last_answer, mut obstacle) = (Instant::now(), None);
        loop {
            while obstacle.is_none()
                && let Some(request) = self.queue.next(Instant::now())
            {
                // there is space in the channel: it is as large as the window
                requests.try_send(request).map_err(|_| Error::local(Code::Unavailable, "the stream has ended"))?;
            }
            if self.queue.is_overdue(Instant::now()) {
                return Err(late());
            }
            let is_idle = self.queue.is_empty();
            let is_waiting = self.queue.is_waiting();
            if (is_idle && !self.is_open) || (obstacle.is_some() && !is_waiting) {
                return Ok(obstacle);
            }
            if !is_waiting {
                last_answer = Instant::now();
            }
            let silent_at = later(last_answer, if is_waiting { attempt } else { Duration::MAX });
            match self.meanwhile(time::timeout_at(silent_at, answers.message())).await {
                None => {}
                Some(Ok(Ok(Some(answer)))) => {
                    last_answer = Instant::now();
                    obstacle = self.answered(answer).or(obstacle);
                }
                // the stream is opened again with the next message
                Some(_) if is_idle => return Ok(None),
                Some(Ok(Ok(None))) => return Err(Error::local(Code::Unavailable, "the stream has ended")),
                Some(Ok(Err(status))) => return Err(status.into()),
                Some(Err(_)) => return Err(late()),
            }
        }
    }

    /// Takes an answer. Returns the error after which nothing more may be sent on this stream.
    fn answered(&mut self, answer: PublishStreamResponse) -> Option<Error> {
        let (answer, obstacle) = self.queue.answer(answer);
        if let Some((_, Ok(_))) = &answer {
            self.backoff.reset();
        }
        resolve(answer.into_iter().collect());
        obstacle
    }
}

/// Tells the program. It may have dropped the receipt.
fn resolve(answers: Vec<Answer<Ticket>>) {
    for (Ticket { answer, _space }, outcome) in answers {
        let _ = answer.send(outcome);
    }
}
