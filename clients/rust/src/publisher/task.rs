//! The stream of a publisher.

use std::time::Duration;

use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::{self, Instant, MissedTickBehavior},
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
    retry::{Backoff, Tokens},
};

/// How often the publisher looks for messages whose time is up.
const TICK: Duration = Duration::from_millis(500);

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
    /// How many messages can be unanswered.
    window: usize,
    queue: Queue<Ticket>,
    facts: Option<RoomFacts>,
    backoff: Backoff,
    tokens: Tokens,
}

impl PublisherTask {
    pub(super) fn new(room: Room, inbox: mpsc::Receiver<Input>, window: usize) -> Self {
        let (queue, facts, backoff, tokens) = (Queue::new(), None, Backoff::default(), Tokens::default());
        Self { room, inbox, window, queue, facts, backoff, tokens }
    }

    /// Runs until the publisher is closed and everything is answered, or its time is up, or it is dropped.
    pub(super) async fn run(
        mut self,
        closing: CancellationToken,
        close_time: Duration,
        dropped: CancellationToken,
        ended: CancellationToken,
    ) {
        let late = async {
            closing.cancelled().await;
            time::sleep(close_time).await;
        };
        let error = tokio::select! {
            () = self.work(&closing) => None,
            () = late => Some(Error::local(Code::DeadlineExceeded, "the publisher was closed before the answer")),
            () = dropped.cancelled() => Some(Error::cancelled("the publisher was dropped before the answer")),
        };
        self.inbox.close();
        if let Some(error) = error {
            self.end(&error);
        }
        ended.cancel();
    }

    /// Ends all messages that the program has given.
    fn end(&mut self, error: &Error) {
        while let Ok(input) = self.inbox.try_recv() {
            self.take(input);
        }
        resolve(self.queue.end(error));
    }

    async fn work(&mut self, closing: &CancellationToken) {
        loop {
            if self.queue.is_empty() {
                let Some(input) = self.receive(closing).await else { return };
                self.take(input);
            }
            let Some(facts) = self.find_facts().await else { continue };
            if let Err(error) = self.exchange(facts, closing).await {
                self.tokens.note(&error);
                resolve(self.queue.broken(&error, Instant::now(), facts));
                if !self.queue.is_empty() {
                    time::sleep(self.backoff.next(&error)).await;
                }
            }
            resolve(self.queue.expire(Instant::now(), facts, self.room.client.times));
        }
    }

    /// The next message of the program; `None` when the publisher is closed.
    ///
    /// # Cancel safety
    /// No message is lost.
    async fn receive(&mut self, closing: &CancellationToken) -> Option<Input> {
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled(), if !self.inbox.is_closed() => self.inbox.close(),
                input = self.inbox.recv() => return input,
            }
        }
    }

    fn take(&mut self, Input { message, deadline, ticket }: Input) {
        // until the room is known, the message has an id
        let persisted = RoomFacts { persist: true, dedupe_window: Duration::ZERO };
        match message.request(&self.room, &self.facts.unwrap_or(persisted)) {
            Ok(request) => self.queue.push(request, message.has_own_id(), deadline, ticket),
            Err(error) => resolve(vec![(ticket, Err(error))]),
        }
    }

    /// Asks what kind of room it is. If that fails, all messages fail that the program gave until then.
    async fn find_facts(&mut self) -> Option<RoomFacts> {
        if self.facts.is_none() {
            match self.room.facts(self.room.client.times.total).await {
                Ok(facts) => self.facts = Some(facts),
                Err(error) => self.end(&error),
            }
            if self.facts.is_some_and(|facts| !facts.persist) {
                self.queue.remove_ids();
            }
        }
        self.facts
    }

    /// Sends and receives on one stream, until it breaks or nothing is left to do.
    async fn exchange(&mut self, facts: RoomFacts, closing: &CancellationToken) -> Result<()> {
        let (connection, attempt) = (self.room.client.connection.clone(), self.room.client.times.attempt);
        let token = self.tokens.next(&connection).await?;
        let (requests, sent) = mpsc::channel(self.window);
        let (number, mut stub) = connection.stub();
        let request = with_token(ReceiverStream::new(sent), token.as_deref())?;
        let late = || {
            connection.renew(number);
            Error::local(Code::DeadlineExceeded, "no answer in time")
        };
        let opened = time::timeout(attempt, stub.publish_stream(request)).await;
        let mut answers = opened.map_err(|_| late())??.into_inner();
        let (mut last_answer, mut resume_at, mut is_doubted, mut is_open) =
            (Instant::now(), Instant::now(), false, true);
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let may_resume = self.queue.holds_back() && !self.queue.is_waiting();
            if !self.queue.is_waiting() {
                last_answer = Instant::now();
            }
            while let Some(request) = self.queue.next(Instant::now()) {
                // there is space in the channel: it is as large as the window
                requests.try_send(request).map_err(|_| Error::local(Code::Unavailable, "the stream has ended"))?;
            }
            let (is_idle, is_waiting) = (self.queue.is_empty(), self.queue.is_waiting());
            if is_idle && !is_open {
                return Ok(());
            }
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => {
                        last_answer = Instant::now();
                        if let Some(error) = self.answered(answer, facts) {
                            is_doubted |= RoomFacts::is_doubted_by(&error);
                            resume_at = Instant::now() + self.backoff.next(&error);
                        }
                    }
                    // the stream is opened again with the next message
                    _ if is_idle => return Ok(()),
                    Ok(None) => return Err(Error::local(Code::Unavailable, "the stream has ended")),
                    Err(status) => return Err(status.into()),
                },
                input = self.receive(closing), if is_open => match input {
                    Some(input) => self.take(input),
                    None => is_open = false,
                },
                () = time::sleep_until(resume_at), if may_resume => {
                    self.queue.go_on();
                    if is_doubted {
                        connection.forget_facts(self.room.id());
                        self.facts = None;
                        return Ok(());
                    }
                }
                () = time::sleep_until(last_answer + attempt), if is_waiting => return Err(late()),
                _ = tick.tick(), if !is_idle => resolve(self.queue.expire(Instant::now(), facts, self.room.client.times)),
            }
        }
    }

    /// Takes an answer. Returns the error after which nothing more is sent before a pause.
    fn answered(&mut self, answer: PublishStreamResponse, facts: RoomFacts) -> Option<Error> {
        let (answer, obstacle) = self.queue.answer(answer, facts);
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
