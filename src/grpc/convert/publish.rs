//! Converts the messages that clients publish (alone, in batches and in streams), and their results.

use super::{duration, room_id};
use crate::{
    domain::{Acknowledged, Draft, Durability, Headers, PublishAcks, RoomId},
    error::{Error, Result, Violations},
    grpc::status,
    v1,
};

/// Checks one message. Violations name its fields with `prefix` before them.
fn draft(message: v1::BatchMessage, prefix: &str, violations: &mut Violations) -> Draft {
    let headers = violations.check(Headers::parse(&format!("{prefix}headers"), message.headers));
    let ttl = message.ttl.and_then(|ttl| violations.check(duration(&format!("{prefix}ttl"), ttl)));
    let draft = Draft {
        payload: message.payload,
        headers: headers.unwrap_or_default(),
        message_id: Some(message.message_id).filter(|id| !id.is_empty()),
        expected_last_sequence: message.expected_last_sequence,
        ttl,
        sender: None,
    };
    draft.check(prefix, violations);
    draft
}

pub(in crate::grpc) fn publish(request: v1::PublishRequest) -> Result<(RoomId, Draft)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let message = v1::BatchMessage {
        payload: request.payload,
        headers: request.headers,
        message_id: request.message_id,
        expected_last_sequence: request.expected_last_sequence,
        ttl: request.ttl,
    };
    let draft = draft(message, "", &mut violations);
    match room_id {
        Some(room_id) => violations.finish().map(|()| (room_id, draft)),
        None => Err(violations.into_error()),
    }
}

/// The messages of a batch that is not atomic: an invalid message does not affect the others.
pub(in crate::grpc) fn batch(request: v1::PublishBatchRequest) -> Result<(RoomId, Vec<Result<Draft>>)> {
    let room_id = room_id(request.room_id)?;
    let drafts = request.messages.into_iter().map(|message| {
        let mut violations = Violations::default();
        let draft = draft(message, "", &mut violations);
        violations.finish().map(|()| draft)
    });
    Ok((room_id, drafts.collect()))
}

/// The messages of an atomic batch.
///
/// # Errors
/// When one message is invalid.
pub(in crate::grpc) fn atomic_batch(request: v1::PublishBatchRequest) -> Result<(RoomId, Vec<Draft>)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let messages = request.messages.into_iter().enumerate();
    let drafts =
        messages.map(|(index, message)| draft(message, &format!("messages[{index}]."), &mut violations)).collect();
    match room_id {
        Some(room_id) => violations.finish().map(|()| (room_id, drafts)),
        None => Err(violations.into_error()),
    }
}

fn durability(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Unknown => v1::Durability::Unspecified,
        Durability::None => v1::Durability::None,
        Durability::Buffered => v1::Durability::Buffered,
        Durability::Synced => v1::Durability::Synced,
        Durability::Quorum => v1::Durability::Quorum,
        Durability::QuorumSynced => v1::Durability::QuorumSynced,
    }
}

pub(in crate::grpc) fn acknowledged(acknowledged: Acknowledged) -> v1::PublishResponse {
    v1::PublishResponse {
        sequence: acknowledged.sequence,
        duplicate: acknowledged.duplicate,
        published_at: Some(acknowledged.published_at.into()),
        durability: durability(acknowledged.durability).into(),
    }
}

pub(in crate::grpc) fn batch_outcomes(
    outcomes: impl IntoIterator<Item = Result<Acknowledged>>,
) -> v1::PublishBatchResponse {
    use v1::publish_outcome::Outcome;
    let results = outcomes.into_iter().enumerate().map(|(index, outcome)| v1::PublishOutcome {
        outcome: Some(match outcome {
            Ok(stored) => Outcome::Result(acknowledged(stored)),
            Err(error) => Outcome::Error(status::as_message(error.within(&format!("messages[{index}]")))),
        }),
    });
    v1::PublishBatchResponse { results: results.collect() }
}

pub(in crate::grpc) fn stream_request(request: Option<v1::PublishRequest>) -> Result<(RoomId, Draft)> {
    publish(request.ok_or_else(|| Error::field("publish", "is required"))?).map_err(|error| error.within("publish"))
}

pub(in crate::grpc) fn stream_response(
    correlation_id: u64,
    outcome: Result<Acknowledged>,
) -> v1::PublishStreamResponse {
    use v1::publish_stream_response::Outcome;
    let outcome = match outcome {
        Ok(stored) => Outcome::Result(acknowledged(stored)),
        Err(error) => Outcome::Error(status::as_message(error)),
    };
    v1::PublishStreamResponse { correlation_id, outcome: Some(outcome) }
}

/// The answer for all messages up to `correlation_id`.
pub(in crate::grpc) fn stream_through(
    correlation_id: u64,
    messages: u32,
    last_sequence: u64,
    of_all: Durability,
) -> v1::PublishStreamResponse {
    let through = v1::PublishedThrough { messages, last_sequence, durability: durability(of_all).into() };
    v1::PublishStreamResponse { correlation_id, outcome: Some(v1::publish_stream_response::Outcome::Through(through)) }
}

/// The way in which a request wants the stream to answer. `None`: it does not say.
pub(in crate::grpc) fn publish_acks(acks: i32) -> Result<Option<PublishAcks>> {
    match v1::PublishAcks::try_from(acks) {
        Ok(v1::PublishAcks::Unspecified) => Ok(None),
        Ok(v1::PublishAcks::Each) => Ok(Some(PublishAcks::Each)),
        Ok(v1::PublishAcks::Cumulative) => Ok(Some(PublishAcks::Cumulative)),
        Err(_) => Err(Error::field("acks", "must be PUBLISH_ACKS_EACH or PUBLISH_ACKS_CUMULATIVE")),
    }
}
