//! Publishes many messages without waiting for each answer, and loses and doubles none of them.
//!
//! Each message has a message id. A message whose outcome is open is published again with the same id, so it is stored
//! once. Without ids, in an ephemeral room, only a message that was certainly not sent is published again.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use unibus::{
    StopSignals,
    v1::{
        PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, publish_stream_response::Outcome,
    },
};

use super::{
    backoff::Retries,
    exit::Exit,
    failure::{CliResult, Failure, status_of},
    payloads::Payloads,
    session::Session,
};

/// Messages that wait for their answers; the service reads no more.
const WAITING_MESSAGES_MAX: usize = 1024;
/// Payload bytes that wait for their answers; the service reads no more.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Requests between this command and its connection.
const REQUESTS_AHEAD: usize = 64;
/// How long a message is tried again without any progress. Shorter than the 2 minutes for which a room knows an id.
const RETRY_TIME_MAX: Duration = Duration::from_secs(30);

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PublishProgress {
    /// Messages that are stored, or in an ephemeral room sent.
    pub(super) stored: u64,
    /// Those of them that were stored earlier, by a former run.
    pub(super) duplicates: u64,
    /// The highest sequence; 0 in an ephemeral room.
    pub(super) last_sequence: u64,
}

/// A failure, with the number of the message that it is about.
pub(super) type NumberedFailure = (Option<u64>, Failure);

/// A message without an answer.
struct WithoutAnswer {
    request: PublishRequest,
    /// How often it was sent. A copy of an earlier attempt of this run is no duplicate.
    attempts: u32,
}

/// How a connection ended.
enum RoundEnd {
    /// Everything has an answer, and no more is to be sent.
    Done,
    /// What has no answer is to be sent again.
    Again(Failure),
}

/// Publishes the payloads of one command.
pub(super) struct Pipeline<'a, M> {
    session: &'a Session,
    payloads: Payloads,
    /// Makes the request of the message with this number.
    make: M,
    unanswered: BTreeMap<u64, WithoutAnswer>,
    waiting_bytes: usize,
    /// The number of the last message that was read.
    last_number: u64,
    input_ended: bool,
    was_connected: bool,
    /// The first failure that trying again does not mend.
    failure: Option<NumberedFailure>,
    progress: PublishProgress,
    retries: Retries,
}

impl<'a, M: FnMut(u64, Bytes) -> PublishRequest> Pipeline<'a, M> {
    /// Publishes nothing yet.
    pub(super) fn new(session: &'a Session, payloads: Payloads, make: M) -> Self {
        Self {
            session,
            payloads,
            make,
            unanswered: BTreeMap::new(),
            waiting_bytes: 0,
            last_number: 0,
            input_ended: false,
            was_connected: false,
            failure: None,
            progress: PublishProgress::default(),
            retries: Retries::new(Some(RETRY_TIME_MAX)),
        }
    }

    /// Publishes everything. `stored` learns of each message that is stored. After a failure no further message is sent.
    pub(super) async fn run(
        mut self,
        mut stored: impl FnMut(u64, &PublishResponse) -> CliResult,
    ) -> (PublishProgress, Result<(), NumberedFailure>) {
        let done = self.rounds(&mut stored).await;
        let done = match self.failure {
            Some(first) => Err(first),
            None => done.map_err(|failure| {
                let first = self.unanswered.first_key_value().map(|(number, _)| *number);
                (first.filter(|_| !failure.is_silent()), failure)
            }),
        };
        (self.progress, done)
    }

    async fn rounds(&mut self, stored: &mut impl FnMut(u64, &PublishResponse) -> CliResult) -> CliResult {
        let mut signals = StopSignals::listen().map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        loop {
            let end = tokio::select! {
                end = self.round(stored) => end?,
                signal = signals.next() => return Err(Failure::signal(signal)),
            };
            let RoundEnd::Again(failure) = end else { return Ok(()) };
            let Some(wait) = self.retries.next_wait(&failure) else { return Err(failure) };
            if self.retries.is_first() {
                self.session.out.notice(&format!("{}; trying again", failure.summary()));
            }
            tokio::select! {
                () = time::sleep(wait) => {}
                signal = signals.next() => return Err(Failure::signal(signal)),
            }
        }
    }

    /// Sends what has no answer, and then new messages, over a new connection.
    async fn round(&mut self, stored: &mut impl FnMut(u64, &PublishResponse) -> CliResult) -> CliResult<RoundEnd> {
        let (requests, mut responses) = match self.connect().await {
            Ok(streams) => streams,
            // the first connection shows whether the command is right at all
            Err(failure) if !self.was_connected => return Err(failure),
            Err(failure) => return self.again(failure),
        };
        self.was_connected = true;
        let mut takes_requests = true;
        let mut to_send: VecDeque<u64> = self.unanswered.keys().copied().collect();
        let (mut in_flight, mut refused) = (0_usize, None);
        let timeout = self.session.connector.timeout();
        loop {
            if self.failure.is_some() || refused.is_some() {
                to_send.clear();
            }
            let reads = !self.input_ended && refused.is_none() && self.has_room();
            if !reads && to_send.is_empty() && in_flight == 0 {
                return match refused {
                    Some(failure) if self.failure.is_none() => self.again(failure),
                    _ => Ok(RoundEnd::Done),
                };
            }
            let next = to_send.front().copied();
            tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        in_flight = in_flight.saturating_sub(1);
                        if let Some(failure) = self.answer(response, stored)? {
                            refused.get_or_insert(failure);
                        }
                    }
                    Ok(None) => return self.again(Failure::new(Exit::Unreachable, "the service ended the stream")),
                    Err(status) => return self.again(Failure::call("publish", &status)),
                },
                permit = requests.reserve(), if takes_requests && next.is_some() => {
                    let Ok(permit) = permit else {
                        // the connection is gone, and the responses say why
                        takes_requests = false;
                        continue;
                    };
                    if let Some((number, message)) =
                        next.and_then(|number| Some((number, self.unanswered.get_mut(&number)?)))
                    {
                        message.attempts += 1;
                        let publish = Some(message.request.clone());
                        permit.send(PublishStreamRequest { correlation_id: number, publish, acks: 0 });
                        in_flight += 1;
                    }
                    to_send.pop_front();
                },
                payload = self.payloads.next(), if reads && to_send.len() < REQUESTS_AHEAD => match payload {
                    Ok(Some(payload)) => to_send.push_back(self.take(payload)),
                    Ok(None) => self.input_ended = true,
                    Err(failure) => self.fail(self.last_number + 1, failure),
                },
                () = time::sleep(timeout), if in_flight > 0 => {
                    return self.again(Failure::new(Exit::Timeout, "cannot publish: no answer within --timeout"));
                }
            }
        }
    }

    async fn connect(&self) -> CliResult<(mpsc::Sender<PublishStreamRequest>, Streaming<PublishStreamResponse>)> {
        let mut client = self.session.client().await?;
        let (requests, receiver) = mpsc::channel(REQUESTS_AHEAD);
        let opened = client.publish_stream(ReceiverStream::new(receiver));
        let opened = time::timeout(self.session.connector.timeout(), opened).await;
        let opened = opened.map_err(|_| Failure::new(Exit::Timeout, "cannot publish: no answer within --timeout"))?;
        let responses = opened.map_err(|status| Failure::call("publish", &status))?.into_inner();
        Ok((requests, responses))
    }

    fn has_room(&self) -> bool {
        self.unanswered.len() < WAITING_MESSAGES_MAX && self.waiting_bytes < WAITING_BYTES_MAX
    }

    /// Takes a payload that was read, and returns the number of its message.
    fn take(&mut self, payload: Bytes) -> u64 {
        self.last_number += 1;
        self.waiting_bytes += payload.len();
        let request = (self.make)(self.last_number, payload);
        self.unanswered.insert(self.last_number, WithoutAnswer { request, attempts: 0 });
        self.last_number
    }

    /// Notes the answer to a message. Returns the failure if the message is to be sent again.
    fn answer(
        &mut self,
        response: PublishStreamResponse,
        stored: &mut impl FnMut(u64, &PublishResponse) -> CliResult,
    ) -> CliResult<Option<Failure>> {
        let number = response.correlation_id;
        match response.outcome {
            Some(Outcome::Result(mut result)) => {
                let attempts = self.remove(number);
                result.duplicate &= attempts <= 1;
                self.progress.stored += 1;
                self.progress.duplicates += u64::from(result.duplicate);
                self.progress.last_sequence = self.progress.last_sequence.max(result.sequence);
                self.retries.progress();
                stored(number, &result)?;
                Ok(None)
            }
            Some(Outcome::Error(error)) => {
                let failure = Failure::call("publish", &status_of(&error));
                if self.may_be_sent_again(&failure) {
                    return Ok(Some(failure));
                }
                self.remove(number);
                self.fail(number, failure);
                Ok(None)
            }
            Some(Outcome::Through(_)) | None => Ok(None),
        }
    }

    /// Forgets a message that has an answer, and returns how often it was sent.
    fn remove(&mut self, number: u64) -> u32 {
        let Some(message) = self.unanswered.remove(&number) else { return 0 };
        self.waiting_bytes = self.waiting_bytes.saturating_sub(message.request.payload.len());
        message.attempts
    }

    /// Notes a failure. Nothing further is read or sent.
    fn fail(&mut self, number: u64, failure: Failure) {
        self.input_ended = true;
        self.failure.get_or_insert((Some(number), failure));
    }

    /// Decides whether what has no answer is sent again.
    fn again(&mut self, failure: Failure) -> CliResult<RoundEnd> {
        let mut open = self.unanswered.values().filter(|message| message.attempts > 0);
        let has_ids = open.all(|message| !message.request.message_id.is_empty());
        let nothing_was_done = failure.reason().is_some() && !failure.is_open();
        if self.failure.is_some() || !(has_ids || nothing_was_done) || !self.session.may_pass(&failure) {
            return Err(failure);
        }
        Ok(RoundEnd::Again(failure))
    }

    fn may_be_sent_again(&self, failure: &Failure) -> bool {
        let has_ids = self.unanswered.values().all(|message| !message.request.message_id.is_empty());
        failure.retry_after().is_some() && (has_ids || !failure.is_open())
    }
}
