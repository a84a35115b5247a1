//! A message of a file, as it is published again.

use std::collections::HashMap;

use unibus::v1::{BatchMessage, Message};

/// The headers that tell where a message comes from.
pub(super) const ORIGIN_SEQUENCE: &str = "Origin-Sequence";
pub(super) const ORIGIN_TIME: &str = "Origin-Time";
pub(super) const ORIGIN_SENDER: &str = "Origin-Sender";
pub(super) const ORIGIN_MESSAGE_ID: &str = "Origin-Message-Id";

/// Characters of a message id that the service accepts.
const MESSAGE_ID_CHARS_MAX: usize = 255;

/// A message that is to be stored.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Its number in the file, from 1.
    pub(super) number: u64,
    /// Its sequence where it comes from.
    pub(super) origin_sequence: u64,
    message: BatchMessage,
    /// The message id in the file, also if the message is published without it.
    message_id: String,
    /// Bytes of the file up to its end.
    pub(super) file_bytes: u64,
}

impl Record {
    /// The message with this number. With `keeps_origin` it gets headers that tell where it comes from.
    pub(super) fn new(message: Message, number: u64, file_bytes: u64, keeps_origin: bool) -> Self {
        let origin_sequence = message.sequence;
        let mut headers = message.headers;
        if keeps_origin {
            add(&mut headers, ORIGIN_SEQUENCE, origin_sequence.to_string());
            add(&mut headers, ORIGIN_TIME, message.published_at.map(|time| time.to_string()).unwrap_or_default());
            add(&mut headers, ORIGIN_SENDER, message.sender);
            add(&mut headers, ORIGIN_MESSAGE_ID, message.message_id.clone());
        }
        // a native program can use ids that the service does not accept
        let id = &message.message_id;
        let is_accepted = id.len() <= MESSAGE_ID_CHARS_MAX && id.bytes().all(|byte| byte.is_ascii_graphic());
        let message_id = if is_accepted { id.clone() } else { String::new() };
        let message_of = BatchMessage { payload: message.payload, headers, message_id, ..BatchMessage::default() };
        Self { number, origin_sequence, message: message_of, message_id: message.message_id, file_bytes }
    }

    /// What is published.
    pub(super) fn message(&self) -> &BatchMessage {
        &self.message
    }

    /// Publishes the message without its id, since the room knows the id from another message.
    pub(super) fn forget_id(&mut self) {
        self.message.message_id.clear();
    }

    /// Whether the message lost its id.
    pub(super) fn has_lost_id(&self) -> bool {
        self.message.message_id != self.message_id
    }

    /// Bytes of a publish with the message.
    pub(super) fn bytes(&self) -> usize {
        let headers = self.message.headers.iter().map(|(name, value)| name.len() + value.len());
        self.message.payload.len() + self.message.message_id.len() + headers.sum::<usize>()
    }

    /// Whether a stored message is this one. It may have lost its id in an earlier run.
    pub(super) fn is(&self, stored: &Message) -> bool {
        let has_id = stored.message_id == self.message_id || stored.message_id.is_empty();
        has_id && stored.payload == self.message.payload && stored.headers == self.message.headers
    }
}

/// Adds a header, unless it has no value, or the message has it from an earlier import.
fn add(headers: &mut HashMap<String, String>, name: &str, value: String) {
    let is_there = headers.keys().any(|known| known.eq_ignore_ascii_case(name));
    // the service accepts no space at the ends
    if !value.is_empty() && !is_there && value.trim() == value {
        headers.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use unibus::v1::Message;

    use super::Record;

    fn message(id: &str) -> Message {
        Message {
            sequence: 9,
            payload: vec![1, 2].into(),
            headers: [("kind".to_owned(), "x".to_owned()), ("origin-sender".to_owned(), "first".to_owned())].into(),
            published_at: Some(prost_types::Timestamp { seconds: 1, nanos: 5 }),
            message_id: id.to_owned(),
            sender: "alice".to_owned(),
            ..Message::default()
        }
    }

    #[test]
    fn origin_headers_are_added_once_and_only_if_asked_for() {
        assert_eq!(Record::new(message("a"), 1, 0, false).message().headers, message("a").headers);
        let record = Record::new(message("a"), 1, 0, true);
        let header = |name: &str| record.message().headers.get(name).map(String::as_str);
        assert_eq!(header("Origin-Sequence"), Some("9"));
        assert_eq!(header("Origin-Time"), Some("1970-01-01T00:00:01.000000005Z"));
        assert_eq!(header("Origin-Message-Id"), Some("a"));
        assert_eq!((header("Origin-Sender"), header("origin-sender")), (None, Some("first")));
    }

    #[test]
    fn a_record_knows_its_stored_message_with_and_without_its_id() {
        let mut record = Record::new(message("a"), 1, 0, false);
        assert!(record.is(&message("a")) && record.is(&message("")) && !record.is(&message("b")));
        record.forget_id();
        assert!(record.is(&message("a")) && record.is(&message("")) && record.has_lost_id());
        assert!(!record.is(&Message { payload: vec![1].into(), ..message("a") }));
        assert!(!record.is(&Message { headers: [].into(), ..message("a") }));
        // the service would refuse this id
        assert!(Record::new(message("two words"), 1, 0, false).message().message_id.is_empty());
    }
}
