//! The encoding of a message for NATS, and the meaning of JetStream's refusals.

use async_nats::{
    HeaderMap, header,
    jetstream::{self, ErrorCode},
};

use super::acks::AtomicBatch;
use crate::{
    domain::{Draft, Room},
    error::{Error, Reason, Result, Violations},
    limits::{HEADER_FRAMING_BYTES, HEADROOM_BYTES, STORED_OVERHEAD_BYTES},
    nats::error::{ApiError, unavailable},
    store::{log::message_id, signatures::seal::Seal},
};

const HEADERS_BEGIN_AND_END: &str = "NATS/1.0\r\n\r\n";
/// Has the length of every batch id.
const BATCH_ID_PATTERN: &str = "00000000000000000000000000000000";

/// A message to send, with its seal.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub draft: Draft,
    /// Present if the sender is known.
    pub seal: Option<Seal>,
}

/// The headers of a message, including those that the service adds.
pub(super) fn headers(Outgoing { draft, seal }: &Outgoing) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in draft.headers.iter() {
        headers.insert(name, value);
    }
    if let Some(id) = message_id::of(draft) {
        headers.insert(header::NATS_MESSAGE_ID, &*id);
    }
    if let Some(sequence) = draft.expected_last_sequence {
        headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, sequence.to_string());
    }
    if let Some(ttl) = draft.ttl {
        headers.insert(header::NATS_MESSAGE_TTL, format!("{}s", ttl.as_secs()));
    }
    if let Some(seal) = seal {
        seal.write(&mut headers);
    }
    headers
}

/// The headers of the message at `place`, from 1, in an atomic batch (ADR-50).
pub(super) fn batch_headers(outgoing: &Outgoing, batch: &AtomicBatch, place: u64) -> HeaderMap {
    let mut headers = headers(outgoing);
    headers.insert(header::NATS_BATCH_ID, &*batch.id);
    headers.insert(header::NATS_BATCH_SEQUENCE, place.to_string());
    if place == batch.messages {
        headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
    }
    headers
}

/// Headers of a message that is never stored. If its message id is known, JetStream answers that it is a duplicate.
/// Otherwise JetStream refuses its rollup, which it checks later.
pub(super) fn probe_headers(message_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::NATS_MESSAGE_ID, message_id);
    headers.insert(header::NATS_ROLLUP, "none");
    headers
}

/// The bytes of the headers in NATS's encoding.
pub(super) fn encoded_bytes(headers: &HeaderMap) -> usize {
    if headers.is_empty() {
        return 0;
    }
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| name.len() + value.as_str().len() + HEADER_FRAMING_BYTES)
    });
    HEADERS_BEGIN_AND_END.len() + lines.sum::<usize>()
}

/// Refuses a message that the room could not keep. It would push out all other messages, and then be removed itself.
pub(super) fn check_kept(room: &Room, outgoing: &Outgoing, field: &str) -> Result<()> {
    let Some(max) = room.content_bytes_max() else { return Ok(()) };
    let bytes = outgoing.draft.payload.len() as u64;
    if bytes.saturating_add(HEADROOM_BYTES as u64) <= max {
        return Ok(());
    }
    let bytes = bytes.saturating_add(encoded_bytes(&headers(outgoing)) as u64);
    if bytes <= max { Ok(()) } else { Err(never_kept(field, bytes, max)) }
}

/// Refuses an atomic batch that the room could not keep as a whole.
pub(super) fn check_kept_together(room: &Room, messages: &[Outgoing]) -> Result<()> {
    let count = messages.len() as u64;
    if let Some(max) = room.retention.max_messages.and_then(|max| u64::try_from(max).ok())
        && count > max
    {
        return Err(Error::field(
            "messages",
            format!("has {count} messages; the room keeps at most {max} (`max_messages`)"),
        ));
    }
    let Some(max) = room.retention.max_bytes.and_then(|max| u64::try_from(max).ok()) else { return Ok(()) };
    let batch = AtomicBatch { id: BATCH_ID_PATTERN.into(), messages: count };
    let sizes = messages.iter().zip(1..).map(|(outgoing, place)| {
        let headers = encoded_bytes(&batch_headers(outgoing, &batch, place));
        (STORED_OVERHEAD_BYTES + room.subject.as_str().len() + headers + outgoing.draft.payload.len()) as u64
    });
    let bytes = sizes.sum();
    if bytes <= max { Ok(()) } else { Err(never_kept("messages", bytes, max)) }
}

fn never_kept(field: &str, bytes: u64, max: u64) -> Error {
    let mut violations = Violations::default();
    let description = format!("needs {bytes} bytes with all headers; `max_bytes` of the room allows at most {max}");
    violations.add(field, description);
    violations.because(Reason::PayloadTooLarge).into_error()
}

pub(super) fn is_mismatch(error: &jetstream::Error) -> bool {
    matches!(error.error_code(), ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// Returns true if a batch was refused because one of its message ids is known.
pub(super) fn is_duplicate(error: &jetstream::Error) -> bool {
    error.error_code() == ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE
}

/// Returns true if a batch was refused for a temporary reason: another program's change of the stream, or a lost
/// part.
pub(super) fn may_pass(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::ATOMIC_PUBLISH_DISABLED
            | ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH
            | ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT
            | ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
    )
}

/// Converts JetStream's refusal of a message. Codes: nats-server `errors.json`.
pub(super) fn refused(error: &jetstream::Error) -> Error {
    const MAXIMUM_MESSAGES_EXCEEDED: &str = "maximum messages exceeded";
    const MAXIMUM_BYTES_EXCEEDED: &str = "maximum bytes exceeded";
    let text = error.to_string();
    match error.error_code() {
        _ if is_mismatch(error) => {
            let actual = text.split("sequence: ").nth(1).map_or("", |rest| {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                rest.get(..digits).unwrap_or_default()
            });
            let error = Error::new(
                Reason::SequenceMismatch,
                format!("`expected_last_sequence`: the last sequence of the room is {actual}; nothing was stored"),
            );
            if actual.is_empty() { error } else { error.with("last_sequence", actual) }
        }
        ErrorCode::MESSAGE_TTL_DISABLED => ttl_not_allowed(),
        ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT => Error::new(
            Reason::Conflict,
            "`message_id`: another message with this id is being stored at this moment; nothing was stored, publish it again",
        ),
        ErrorCode::STREAM_SEALED => Error::new(
            Reason::StorageFull,
            "another program has sealed the NATS stream of the room; nothing was stored, use another room",
        ),
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => Error::new(
            Reason::PayloadTooLarge,
            "`payload`: is larger than the NATS stream of the room allows; nothing was stored, split the message",
        ),
        _ if error.code() == 429
            || text.contains(MAXIMUM_MESSAGES_EXCEEDED)
            || text.contains(MAXIMUM_BYTES_EXCEEDED) =>
        {
            Error::new(
                Reason::StorageFull,
                "the room or the NATS server accepts no more messages now; nothing was stored, remove messages",
            )
        }
        _ => ApiError::Refused(error.clone()).into(),
    }
}

pub(crate) fn ttl_not_allowed() -> Error {
    Error::new(
        Reason::TtlNotAllowed,
        "`ttl`: the room was created without `allow_message_ttl`; nothing was stored, leave `ttl` out",
    )
}

pub(super) fn outcome_unknown() -> Error {
    Error::new(
        Reason::OutcomeUnknown,
        "the acknowledgement was lost; the message may or may not be stored, publish it again with the same `message_id`",
    )
}

/// Copies the error for another caller whose message was certainly not stored.
pub(super) fn for_another_caller(error: &Error) -> Error {
    match error.reason() {
        Reason::NatsUnavailable | Reason::Timeout => unavailable(),
        _ => error.without_cause(),
    }
}
