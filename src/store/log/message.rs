//! A message as NATS delivered it.

use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, header};
use bytes::Bytes;

use super::message_id;
use crate::{
    domain::{Headers, Message, Room},
    store::signatures::{Signatures, seal::Seal},
};

/// A message, and its claims about its sender, which are not proven.
#[derive(Debug)]
pub(in crate::store) struct StoredMessage {
    pub message: Message,
    /// The message id in NATS.
    pub nats_id: Option<String>,
    pub seal: Option<Seal>,
    /// When the message's own lifetime ends, if it has one.
    pub expires_at: Option<SystemTime>,
}

impl StoredMessage {
    pub(in crate::store) fn new(
        sequence: u64,
        published_at: SystemTime,
        headers: Option<&HeaderMap>,
        payload: Bytes,
    ) -> Self {
        let mut message = Message {
            sequence,
            payload,
            headers: Headers::default(),
            published_at,
            message_id: String::new(),
            sender: String::new(),
        };
        let Some(headers) = headers.filter(|headers| !headers.is_empty()) else {
            return Self { message, nats_id: None, seal: None, expires_at: None };
        };
        let nats_id = headers.get(header::NATS_MESSAGE_ID).map(ToString::to_string);
        let mut seal = Seal::read(headers);
        if let Some(id) = &nats_id {
            let given =
                seal.as_ref().and_then(|seal| message_id::given(id, &seal.claimed_sender()?).map(ToOwned::to_owned));
            if given.is_none() {
                // another program has stored a copy under an id that does not belong to the claimed sender
                seal = None;
            }
            message.message_id = given.unwrap_or_else(|| id.clone());
        }
        let pairs = headers.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        });
        message.headers = Headers::from_stored(pairs);
        let lifetime = headers.get_last(header::NATS_MESSAGE_TTL).and_then(|ttl| lifetime(ttl.as_str()));
        let expires_at = lifetime.and_then(|lifetime| published_at.checked_add(lifetime));
        Self { message, nats_id, seal, expires_at }
    }

    /// The message. Its sender is set if it is proven.
    pub(in crate::store) async fn attributed(self, signatures: &Signatures, room: &Room) -> Message {
        let Self { mut message, seal, .. } = self;
        if let Some(seal) = seal {
            signatures.attribute_surely(room, &mut message, &seal).await;
        }
        message
    }
}

/// Parses a `Nats-TTL` (ADR-43): seconds, a duration in Go's notation, or `never`. An unparsable value is read as the
/// shortest lifetime. A subscription then reads the message from the log, where it still is.
fn lifetime(ttl: &str) -> Option<Duration> {
    if ttl.eq_ignore_ascii_case("never") {
        return None;
    }
    let seconds = ttl.parse().map(Duration::from_secs);
    Some(seconds.ok().or_else(|| humantime::parse_duration(ttl).ok()).unwrap_or(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_read_as_nats_writes_them() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (ttl, expected) in [
            ("5", seconds(5)),
            ("5s", seconds(5)),
            ("1h30m", seconds(5400)),
            ("never", None),
            ("soon", seconds(1)),
            ("", seconds(1)),
        ] {
            assert_eq!(lifetime(ttl), expected, "{ttl:?}");
        }
    }
}
