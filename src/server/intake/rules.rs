//! The bounds and checks that apply to the requests of each RPC.

use crate::{
    error::{Error, Limit, Reason, Violations},
    grpc::{self, framing::PREFIX_BYTES},
    limits::{
        JSON_BASE_BYTES, OPEN_REQUEST_BYTES_MAX, PUBLISH_BATCH_BYTES_MAX, REQUEST_SLACK_BYTES,
        SKIPPED_MESSAGE_BYTES_MAX, SMALL_REQUEST_BYTES_MAX,
    },
    server::refusal::{is_always_served, is_reflection},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one flag for each rule")]
pub(super) struct RequestRules {
    /// Maximum bytes of a message.
    pub bytes_max: usize,
    /// The field that an error names for a larger message; `None` when no single field makes a message large.
    pub large_field: Option<&'static str>,
    /// Whether the request is a stream of messages.
    pub is_stream: bool,
    /// Whether a message that is too large is dropped and answered in its place, instead of ending the call.
    pub drops_large: bool,
    /// Whether the right to publish is checked before a large message is received.
    pub checks_right: bool,
    /// Whether the bytes are charged to the budgets.
    pub is_charged: bool,
    /// Whether the messages are JSON.
    pub is_json: bool,
    /// Whether the end of the body ends the message, because its length was not known.
    pub may_end_early: bool,
}

impl RequestRules {
    /// The rules for the RPC at `path`, in a service that accepts payloads of at most `payload_bytes_max` bytes.
    pub(super) fn of(path: &str, payload_bytes_max: usize) -> Self {
        let small = Self {
            bytes_max: SMALL_REQUEST_BYTES_MAX,
            large_field: None,
            is_stream: grpc::has_request_stream(path),
            drops_large: false,
            checks_right: false,
            is_charged: true,
            is_json: false,
            may_end_early: false,
        };
        if is_always_served(path) {
            let is_stream = is_reflection(path);
            return Self { bytes_max: OPEN_REQUEST_BYTES_MAX, is_charged: false, is_stream, ..small };
        }
        let payload =
            Self { bytes_max: payload_bytes_max + REQUEST_SLACK_BYTES, large_field: Some("payload"), ..small };
        match path.strip_prefix("/unibus.v1.RoomService/") {
            Some("Publish") => Self { checks_right: true, ..payload },
            Some("PublishBatch") => Self {
                bytes_max: payload_bytes_max.max(PUBLISH_BATCH_BYTES_MAX) + REQUEST_SLACK_BYTES,
                large_field: Some("messages"),
                checks_right: true,
                ..small
            },
            Some("PublishStream") => Self { large_field: Some("publish.payload"), drops_large: true, ..payload },
            _ => small,
        }
    }

    /// The rules for the same messages in JSON, where a payload takes a third more.
    pub(super) fn in_json(self) -> Self {
        Self { bytes_max: self.bytes_max + self.bytes_max / 2, is_json: true, ..self }
    }

    /// The bytes that are charged for a message of `length` bytes. A message in JSON is held beside its translation.
    pub(super) fn cost(self, length: usize) -> usize {
        let length = PREFIX_BYTES.saturating_add(length);
        if self.is_json { length.saturating_mul(2).saturating_add(JSON_BASE_BYTES) } else { length }
    }

    /// The error for a message with more than `bytes_max` bytes.
    pub(super) fn too_large(self) -> Error {
        let message = format!("the request message has more than {} bytes, which is the limit", self.bytes_max);
        match self.large_field {
            Some(field) => {
                let mut violations = Violations::default();
                violations.add(field, message);
                violations.because(Reason::PayloadTooLarge).into_error()
            }
            None => Error::limit_reached(Limit::RequestBytes, message),
        }
    }

    /// Whether a message of `bytes` bytes is dropped and answered in its place. Longer messages end the call.
    pub(super) fn drops(&self, bytes: usize) -> bool {
        self.drops_large && bytes <= SKIPPED_MESSAGE_BYTES_MAX
    }
}
