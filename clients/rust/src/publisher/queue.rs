//! The messages of a publisher that are not answered yet, without I/O (U13, U14).

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;
use unibus::v1::{
    PublishAcks, PublishRequest, PublishStreamRequest, PublishStreamResponse, publish_stream_response::Outcome,
};

use crate::{
    Published,
    error::{Class, Error, Result},
    publish::RoomFacts,
    retry::{Times, later},
};

/// What a message came to: its ticket, and the outcome.
pub(super) type Answer<T> = (T, Result<Published>);

/// Until the room is known, its messages have ids, and no end but the program's own.
const UNKNOWN: RoomFacts = RoomFacts { persist: true, dedupe_window: Duration::MAX };

/// Unanswered messages, in the order in which the program gave them.
#[derive(Debug)]
pub(super) struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    next_number: u64,
    facts: RoomFacts,
    times: Times,
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    /// With an id, which is not sent to an ephemeral room unless it is the program's own (U12).
    request: PublishRequest,
    has_own_id: bool,
    ticket: T,
    /// Whether the message is on the present stream.
    is_sent: bool,
    /// When its first attempt began.
    began: Option<Instant>,
    /// The program's own deadline.
    deadline: Option<Instant>,
    /// Whether the message was on a stream, and may be stored.
    was_unknown: bool,
    last_error: Option<Error>,
}

impl<T> Queue<T> {
    pub(super) fn new(times: Times) -> Self {
        Self { entries: VecDeque::new(), next_number: 1, facts: UNKNOWN, times }
    }

    /// What kind of room it is. `None`: that is not known.
    pub(super) fn set_facts(&mut self, facts: Option<RoomFacts>) {
        self.facts = facts.unwrap_or(UNKNOWN);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the stream owes an answer.
    pub(super) fn is_waiting(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_sent)
    }

    /// Whether a message must be repeated.
    pub(super) fn has_failed(&self) -> bool {
        self.entries.iter().any(|entry| entry.last_error.is_some())
    }

    /// Whether a message that may be stored waits on the stream although its window has ended: the stream must not send it.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let began =
            self.entries.front().filter(|entry| entry.is_sent && entry.was_unknown).and_then(|entry| entry.began);
        began.is_some_and(|began| now > later(self.facts.last_begin(began, self.times), self.times.attempt))
    }

    /// Takes a message, whose request has an id.
    pub(super) fn push(&mut self, request: PublishRequest, has_own_id: bool, deadline: Option<Instant>, ticket: T) {
        let (number, is_sent, began, was_unknown, last_error) = (self.next_number, false, None, false, None);
        self.next_number += 1;
        let entry = Entry { number, request, has_own_id, ticket, is_sent, began, deadline, was_unknown, last_error };
        self.entries.push_back(entry);
    }

    /// The next message for the stream.
    pub(super) fn next(&mut self, now: Instant) -> Option<PublishStreamRequest> {
        // the messages of a stream are sent in their order, so those that are not sent are at the end
        let at = self.entries.partition_point(|entry| entry.is_sent);
        let entry = self.entries.get_mut(at)?;
        entry.is_sent = true;
        entry.began.get_or_insert(now);
        let publish = PublishRequest { message_id: entry.message_id(self.facts), ..entry.request.clone() };
        let acks = PublishAcks::Each.into();
        Some(PublishStreamRequest { correlation_id: entry.number, publish: Some(publish), acks })
    }

    /// Takes an answer of the stream. With an error, nothing more may be sent on this stream, so that the message is repeated
    /// before later ones: it must be repeated, or the room is another one than the facts say.
    pub(super) fn answer(&mut self, answer: PublishStreamResponse) -> (Option<Answer<T>>, Option<Error>) {
        let facts = self.facts;
        let found = self.entries.iter_mut().enumerate().find(|(_, entry)| entry.number == answer.correlation_id);
        let Some((at, entry)) = found else { return (None, None) };
        let error = match answer.outcome {
            Some(Outcome::Result(stored)) => {
                let published = Published::new(stored, entry.message_id(facts));
                return (self.entries.remove(at).map(|entry| (entry.ticket, Ok(published))), None);
            }
            Some(Outcome::Error(status)) => Error::from_frame(&status),
            Some(Outcome::Through(_)) | None => return (None, None),
        };
        entry.was_unknown |= error.is_outcome_unknown();
        let is_doubted = RoomFacts::is_doubted_by(&error);
        let is_misnamed = is_doubted && facts.persist && !entry.has_own_id && error.reason() != "ROOM_NOT_FOUND";
        let may_repeat = facts.may_repeat(&error) || is_misnamed;
        let obstacle = (may_repeat || is_doubted).then(|| error.clone());
        if may_repeat {
            (entry.is_sent, entry.last_error) = (false, Some(error));
            return (None, obstacle);
        }
        (self.entries.remove(at).map(|entry| entry.fail(error, facts)), obstacle)
    }

    /// The stream broke, or could not be opened. Returns the messages that cannot be repeated.
    pub(super) fn broken(&mut self, error: &Error, now: Instant) -> Vec<Answer<T>> {
        let facts = self.facts;
        let may_repeat = facts.may_repeat(error);
        self.remove(|entry| {
            let was_on_stream = std::mem::take(&mut entry.is_sent);
            entry.began.get_or_insert(now);
            entry.was_unknown |= was_on_stream && error.is_outcome_unknown();
            entry.last_error = Some(error.clone());
            // without an id only what was on the stream can be stored already
            let is_safe = facts.persist || !was_on_stream || !error.is_outcome_unknown();
            (error.class() == Class::Final && !may_repeat) || !is_safe
        })
    }

    /// Ends the messages whose time is up (U11). A message on the stream may still be answered.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Answer<T>> {
        let (facts, times) = (self.facts, self.times);
        self.remove(|entry| {
            let is_over = entry.deadline.is_some_and(|deadline| now >= deadline);
            entry.was_unknown |= is_over && entry.is_sent;
            is_over || (!entry.is_sent && entry.is_late(now, facts, times))
        })
    }

    /// Ends the messages that have failed, and of which no attempt may begin at `next` or later (U11).
    pub(super) fn give_up(&mut self, next: Instant) -> Vec<Answer<T>> {
        let (facts, times) = (self.facts, self.times);
        self.remove(|entry| {
            let is_over = entry.deadline.is_some_and(|deadline| next >= deadline);
            entry.last_error.is_some() && (is_over || entry.is_late(next, facts, times))
        })
    }

    /// Ends all messages.
    pub(super) fn end(&mut self, error: &Error) -> Vec<Answer<T>> {
        self.remove(|entry| {
            entry.was_unknown |= entry.is_sent;
            entry.last_error = Some(error.clone());
            true
        })
    }

    fn remove(&mut self, mut is_over: impl FnMut(&mut Entry<T>) -> bool) -> Vec<Answer<T>> {
        let (mut kept, mut removed) = (VecDeque::with_capacity(self.entries.len()), Vec::new());
        for mut entry in self.entries.drain(..) {
            if is_over(&mut entry) {
                let late = || Error::unsent(tonic::Code::DeadlineExceeded, "the time of the message is up");
                let error = entry.last_error.take().unwrap_or_else(late);
                removed.push(entry.fail(error, self.facts));
            } else {
                kept.push_back(entry);
            }
        }
        self.entries = kept;
        removed
    }
}

impl<T> Entry<T> {
    /// The id as the room knows it.
    fn message_id(&self, facts: RoomFacts) -> String {
        if facts.persist || self.has_own_id { self.request.message_id.clone() } else { String::new() }
    }

    /// Whether no attempt may begin now (U11).
    fn is_late(&self, now: Instant, facts: RoomFacts, times: Times) -> bool {
        self.began.is_some_and(|began| now > facts.last_begin(began, times))
    }

    /// The error says what happened to the stream. Whether the message may be stored is a question of its own.
    fn fail(self, error: Error, facts: RoomFacts) -> Answer<T> {
        let error = error.undone().of_message(&self.message_id(facts), self.was_unknown);
        (self.ticket, Err(error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt};
    use unibus::v1::PublishResponse;

    use super::*;

    const STORED: RoomFacts = RoomFacts { persist: true, dedupe_window: Duration::from_secs(120) };
    const EPHEMERAL: RoomFacts = RoomFacts { persist: false, ..STORED };
    const TIMES: Times = Times { attempt: Duration::from_secs(10), total: Duration::from_secs(60) };

    fn queue_of(ids: &[&'static str]) -> Queue<&'static str> {
        let mut queue = Queue::new(TIMES);
        queue.set_facts(Some(STORED));
        for &id in ids {
            let request = PublishRequest { message_id: id.to_owned(), ..PublishRequest::default() };
            queue.push(request, false, None, id);
        }
        queue
    }

    fn send_all(queue: &mut Queue<&'static str>, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| queue.next(now)).map(|request| request.correlation_id).collect()
    }

    fn stored(correlation_id: u64) -> PublishStreamResponse {
        let result = PublishResponse { sequence: correlation_id, ..PublishResponse::default() };
        PublishStreamResponse { correlation_id, outcome: Some(Outcome::Result(result)) }
    }

    fn refused(correlation_id: u64, code: Code, reason: &str, retry: bool) -> PublishStreamResponse {
        use prost::Message as _;
        let mut details = ErrorDetails::with_error_info(reason, "unibus.v1", HashMap::new());
        if retry {
            details.set_retry_info(Some(Duration::from_millis(100)));
        }
        let status = Status::with_error_details(code, "text", details);
        let status = tonic_types::Status::decode(status.details()).unwrap_or_default();
        PublishStreamResponse { correlation_id, outcome: Some(Outcome::Error(status)) }
    }

    #[test]
    fn after_a_break_all_unanswered_messages_go_again_in_their_order_before_later_ones() {
        let (mut queue, now) = (queue_of(&["a", "b", "c"]), Instant::now());
        assert_eq!(send_all(&mut queue, now), [1, 2, 3]);
        assert!(queue.answer(stored(1)).0.is_some_and(|(ticket, outcome)| ticket == "a" && outcome.is_ok()));
        assert!(queue.broken(&Error::local(Code::Unavailable, "broken"), now).is_empty());
        queue.push(PublishRequest::default(), false, None, "d");
        assert_eq!(send_all(&mut queue, now), [2, 3, 4]);
    }

    #[test]
    fn a_message_to_repeat_goes_before_later_ones() {
        let (mut queue, now) = (queue_of(&["a", "b"]), Instant::now());
        assert_eq!(send_all(&mut queue, now), [1, 2]);
        let (answer, obstacle) = queue.answer(refused(1, Code::Unavailable, "NATS_UNAVAILABLE", true));
        assert!(answer.is_none() && obstacle.is_some() && queue.is_waiting());
        queue.push(PublishRequest::default(), false, None, "c");
        assert!(queue.answer(stored(2)).0.is_some() && !queue.is_waiting() && queue.has_failed());
        assert_eq!(send_all(&mut queue, now), [1, 3]);
    }

    #[test]
    fn a_message_that_fails_ends_no_other() {
        let (mut queue, now) = (queue_of(&["a", "b"]), Instant::now());
        send_all(&mut queue, now);
        let (answer, obstacle) = queue.answer(refused(1, Code::InvalidArgument, "PAYLOAD_TOO_LARGE", false));
        let Some(("a", Err(error))) = answer else { unreachable!() };
        assert_eq!((error.reason(), error.message_id(), error.is_outcome_unknown()), ("PAYLOAD_TOO_LARGE", "a", false));
        assert!(obstacle.is_none() && queue.answer(stored(2)).0.is_some() && queue.is_empty());
    }

    #[test]
    fn in_an_ephemeral_room_an_unknown_outcome_is_final() {
        let (mut queue, now) = (queue_of(&["a", "b"]), Instant::now());
        queue.set_facts(Some(EPHEMERAL));
        assert!(
            queue.next(now).and_then(|request| request.publish).is_some_and(|publish| publish.message_id.is_empty())
        );
        let ended = queue.broken(&Error::local(Code::Unavailable, "broken"), now);
        let [("a", Err(error))] = ended.as_slice() else { unreachable!() };
        assert!(error.is_outcome_unknown());
        assert_eq!(send_all(&mut queue, now), [2]);
    }

    #[test]
    fn a_deadline_of_the_program_ends_a_message_on_the_stream() {
        let (mut queue, now) = (queue_of(&[]), Instant::now());
        queue.push(PublishRequest::default(), false, Some(now), "sent");
        queue.push(PublishRequest::default(), false, Some(now + Duration::from_secs(1)), "later");
        queue.next(now);
        let ended = queue.expire(now);
        let [("sent", Err(error))] = ended.as_slice() else { unreachable!() };
        assert!(error.is_outcome_unknown() && queue.answer(stored(1)).0.is_none());
        let ended = queue.expire(now + Duration::from_secs(1));
        let [("later", Err(error))] = ended.as_slice() else { unreachable!() };
        assert!(!error.is_outcome_unknown());
    }

    #[test]
    fn a_message_that_was_never_on_a_stream_is_not_stored() {
        let (mut queue, now) = (queue_of(&["a", "b"]), Instant::now());
        let refused = Error::local(Code::Unavailable, "connection refused");
        assert!(queue.broken(&refused, now).is_empty());
        queue.next(now);
        let ended = queue.end(&Error::local(Code::DeadlineExceeded, "closed"));
        let unknown = ended.iter().map(|(_, outcome)| outcome.as_ref().is_err_and(Error::is_outcome_unknown));
        assert_eq!(unknown.collect::<Vec<_>>(), [true, false]);
        let mut queue = queue_of(&["a"]);
        queue.broken(&refused, now);
        let ended = queue.expire(now + Duration::from_secs(111));
        assert!(matches!(ended.as_slice(), [("a", Err(error))] if !error.is_outcome_unknown()));
    }

    #[test]
    fn a_pause_beyond_the_window_ends_a_message_at_once() {
        let (mut queue, now) = (queue_of(&["a", "b"]), Instant::now());
        send_all(&mut queue, now);
        queue.answer(refused(1, Code::ResourceExhausted, "RATE_LIMITED", true));
        assert!(queue.give_up(now + Duration::from_secs(110)).is_empty());
        let ended = queue.give_up(now + Duration::from_secs(3600));
        assert!(matches!(ended.as_slice(), [("a", Err(error))] if error.reason() == "RATE_LIMITED"));
        assert!(!queue.has_failed() && !queue.is_empty());
    }

    #[test]
    fn a_message_that_may_be_stored_is_not_sent_after_its_window() {
        let (mut queue, now) = (queue_of(&["a"]), Instant::now());
        send_all(&mut queue, now);
        assert!(!queue.is_overdue(now + Duration::from_secs(121)), "it was sent once");
        queue.broken(&Error::local(Code::Unavailable, "broken"), now);
        send_all(&mut queue, now + Duration::from_secs(100));
        assert!(!queue.is_overdue(now + Duration::from_secs(120)) && queue.is_overdue(now + Duration::from_secs(121)));
    }

    #[test]
    fn a_message_keeps_its_id_while_the_room_changes_its_kind() {
        let (mut queue, now) = (queue_of(&["a"]), Instant::now());
        let id = |queue: &mut Queue<_>| queue.next(now).and_then(|request| request.publish).map(|one| one.message_id);
        queue.set_facts(Some(EPHEMERAL));
        assert_eq!(id(&mut queue).as_deref(), Some(""));
        queue.broken(&Error::unsent(Code::Unavailable, "not sent"), now);
        queue.set_facts(None);
        assert_eq!(id(&mut queue).as_deref(), Some("a"));
    }

    #[test]
    fn after_its_window_a_message_fails_with_an_unknown_outcome() {
        let (mut queue, now) = (queue_of(&["a"]), Instant::now());
        queue.next(now);
        queue.broken(&Error::local(Code::Unavailable, "broken"), now);
        assert!(queue.expire(now + Duration::from_secs(110)).is_empty());
        let ended = queue.expire(now + Duration::from_secs(111));
        let [("a", Err(error))] = ended.as_slice() else { unreachable!() };
        assert!(error.is_outcome_unknown() && error.message_id() == "a");
    }
}
