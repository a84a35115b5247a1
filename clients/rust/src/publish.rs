//! One message, published once (U11, U12).

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prost_types::Timestamp;
use tokio::time::Instant;
use unibus::v1::{Durability, GetRoomRequest, PublishRequest, PublishResponse};

use crate::{
    Room,
    connection::Connection,
    error::{Class, Error, Result},
    ids::random_id,
    retry::{Backoff, Times, Tokens, call, later},
    room::duration,
};

/// The window of a room whose service does not tell it.
const WINDOW_DEFAULT: Duration = Duration::from_secs(120);
/// The rooms that a client remembers.
const FACTS_MAX: usize = 4096;

/// A message to publish. Text and bytes are messages too: `room.publish("hello")`.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct NewMessage {
    pub(crate) request: PublishRequest,
    pub(crate) within: Option<Duration>,
}

impl NewMessage {
    /// A message with this payload.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        let mut message = Self::default();
        message.request.payload = payload.into();
        message
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.headers.insert(name.into(), value.into());
        self
    }

    /// The id by which the room knows the message: of several messages with this id, the room stores the first one in its
    /// [`dedupe_window`](crate::NewRoom::dedupe_window). Without an id the client makes one (U11).
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.request.message_id = id.into();
        self
    }

    /// Stores the message only if this is the last sequence of the room. 0: only if nothing was ever stored.
    pub fn expected_last_sequence(mut self, sequence: u64) -> Self {
        self.request.expected_last_sequence = Some(sequence);
        self
    }

    /// How long the message stays stored: whole seconds. The room must allow it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.request.ttl = Some(duration(ttl));
        self
    }

    /// Gives up after this time. By default the client tries as long as the room's `dedupe_window` allows, less one attempt
    /// (U11).
    pub fn within(mut self, time: Duration) -> Self {
        self.within = Some(time);
        self
    }

    /// The request, with an id if it needs one.
    pub(crate) fn request(&self, room: &Room, needs_id: bool) -> Result<PublishRequest> {
        let mut request = PublishRequest { room_id: room.room_id(), ..self.request.clone() };
        if needs_id && !self.has_own_id() {
            request.message_id = random_id()?;
        }
        Ok(request)
    }

    pub(crate) fn has_own_id(&self) -> bool {
        !self.request.message_id.is_empty()
    }

    /// The bytes of the payload, the headers and the id.
    pub(crate) fn size(&self) -> usize {
        let PublishRequest { payload, headers, message_id, .. } = &self.request;
        let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        payload.len() + headers + message_id.len()
    }
}

impl<T: Into<Bytes>> From<T> for NewMessage {
    fn from(payload: T) -> Self {
        Self::new(payload)
    }
}

/// A message that is stored, or in an ephemeral room sent.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Published {
    /// The sequence of the message. 0 in an ephemeral room.
    pub sequence: u64,
    /// Whether a message with this id was stored earlier. After a repeated attempt that is success (U11).
    pub duplicate: bool,
    /// The id of the message. Empty in an ephemeral room.
    pub message_id: String,
    /// When the service learned that the message is stored.
    pub published_at: Option<Timestamp>,
    /// What the stored message survives.
    pub durability: Durability,
}

impl Published {
    pub(crate) fn new(answer: PublishResponse, message_id: String) -> Self {
        let durability = answer.durability();
        let PublishResponse { sequence, duplicate, published_at, .. } = answer;
        Self { sequence, duplicate, message_id, published_at, durability }
    }
}

/// What a publisher must know of a room (U12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoomFacts {
    pub(crate) persist: bool,
    pub(crate) dedupe_window: Duration,
}

impl RoomFacts {
    /// Whether the message may be published again after this error (U11, U12).
    pub(crate) fn may_repeat(&self, error: &Error) -> bool {
        let (may_succeed, is_unknown) = (error.class() != Class::Final, error.is_outcome_unknown());
        let is_harmless = if self.persist { may_succeed || is_unknown } else { may_succeed && !is_unknown };
        is_harmless && !error.is_cancelled()
    }

    /// The last moment at which an attempt may begin, if the first one began at `first` (U11).
    pub(crate) fn last_begin(&self, first: Instant, times: Times) -> Instant {
        later(first, if self.persist { self.dedupe_window.saturating_sub(times.attempt) } else { times.total })
    }

    /// Whether this error says that the room is another one than these facts say.
    pub(crate) fn is_doubted_by(error: &Error) -> bool {
        // ROOM_NOT_PERSISTED is the service's answer to a `message_id` in an ephemeral room
        matches!(error.reason(), "ROOM_NOT_FOUND" | "ROOM_NOT_PERSISTED")
    }
}

impl Connection {
    fn known_rooms(&self) -> MutexGuard<'_, HashMap<String, RoomFacts>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next publish asks again.
    pub(crate) fn forget_facts(&self, room_id: &str) {
        self.known_rooms().remove(room_id);
    }
}

impl Room {
    /// Asks once what kind of room it is (U12).
    pub(crate) async fn facts(&self, total: Duration) -> Result<RoomFacts> {
        let client = self.client.with_times(self.client.times.attempt, total);
        if let Some(&facts) = client.connection.known_rooms().get(self.id()) {
            return Ok(facts);
        }
        let request = GetRoomRequest { room_id: self.room_id() };
        let found = call!(client, Always, get_room, request).map_err(Error::undone)?.room.unwrap_or_default();
        let time = |duration: prost_types::Duration| Duration::try_from(duration).ok();
        let max_age = found.retention.and_then(|retention| retention.max_age).and_then(time);
        let default = WINDOW_DEFAULT.min(max_age.filter(|age| !age.is_zero()).unwrap_or(Duration::MAX));
        let dedupe_window = found.dedupe_window.and_then(time).unwrap_or(default);
        let facts = RoomFacts { persist: found.persist, dedupe_window };
        let mut known = client.connection.known_rooms();
        if known.len() >= FACTS_MAX {
            known.clear();
        }
        known.insert(found.room_id, facts);
        Ok(facts)
    }

    /// Publishes a message once, however often the connection breaks (U11).
    ///
    /// For many messages a [`Publisher`](crate::Publisher) is faster, and keeps their order.
    ///
    /// # Errors
    /// [`Error::is_outcome_unknown`] tells whether the message may be stored all the same, under
    /// [`Error::message_id`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the message may be stored.
    pub async fn publish(&self, message: impl Into<NewMessage>) -> Result<Published> {
        let (connection, times, message) = (&self.client.connection, self.client.times, message.into());
        let deadline = message.within.map(|within| later(Instant::now(), within));
        let remaining = || deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
        let mut facts = self.facts(times.total.min(remaining())).await?;
        let mut request = message.request(self, facts.persist)?;
        let first = Instant::now();
        let (mut backoff, mut tokens, mut was_unknown) = (Backoff::default(), Tokens::default(), false);
        let mut last_error = None;
        loop {
            let limit = times.attempt.min(remaining());
            let attempt = connection.attempt(limit, &mut tokens, request.clone(), &|mut stub, request| async move {
                stub.publish(request).await
            });
            let error = match attempt.await {
                Ok(answer) => return Ok(Published::new(answer, request.message_id)),
                Err(error) => error,
            };
            was_unknown |= error.is_outcome_unknown();
            let of_message = |error: Error| error.of_message(&request.message_id, was_unknown);
            if RoomFacts::is_doubted_by(&error) {
                connection.forget_facts(self.id());
                if facts.persist && !message.has_own_id() && error.reason() != "ROOM_NOT_FOUND" {
                    facts = self.facts(times.total.min(remaining())).await.map_err(of_message)?;
                    if !facts.persist {
                        request.message_id.clear();
                        continue;
                    }
                }
            }
            let next = later(Instant::now(), backoff.next(&error));
            let is_late = next > facts.last_begin(first, times) || deadline.is_some_and(|end| next >= end);
            if is_late || !facts.may_repeat(&error) {
                return Err(of_message(error.unless_cut_short(limit < times.attempt, last_error)));
            }
            last_error = Some(error);
            connection.sleep_until(next).await.map_err(of_message)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const TIMES: Times = Times { attempt: Duration::from_secs(10), total: Duration::from_secs(60) };

    #[test]
    fn only_a_persisted_room_repeats_an_unknown_outcome() {
        let persisted = RoomFacts { persist: true, dedupe_window: WINDOW_DEFAULT };
        let ephemeral = RoomFacts { persist: false, ..persisted };
        for (error, stored, sent) in [
            (Error::local(Code::Unavailable, "broken"), true, false),
            (Error::unsent(Code::Unavailable, "no token"), true, true),
            (Error::local(Code::PermissionDenied, "no"), false, false),
            (Error::cancelled("closed"), false, false),
            (Error::cancelled("closed").after(true), false, false),
        ] {
            assert_eq!((persisted.may_repeat(&error), ephemeral.may_repeat(&error)), (stored, sent), "{error}");
        }
    }

    #[test]
    fn an_attempt_begins_only_if_it_ends_within_the_window() {
        let first = Instant::now();
        let persisted = RoomFacts { persist: true, dedupe_window: WINDOW_DEFAULT };
        assert_eq!(persisted.last_begin(first, TIMES) - first, Duration::from_secs(110));
        let small = RoomFacts { dedupe_window: Duration::from_secs(1), ..persisted };
        assert_eq!(small.last_begin(first, TIMES), first);
        let ephemeral = RoomFacts { persist: false, ..persisted };
        assert_eq!(ephemeral.last_begin(first, TIMES) - first, Duration::from_secs(60));
    }
}
