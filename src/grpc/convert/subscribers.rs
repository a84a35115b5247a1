//! Converts the requests about durable subscribers, and their responses.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{room_id, start};
use crate::{
    domain::SubscriberToken,
    domain::{RoomId, Start, SubscriberId},
    error::{Error, Result, Violations},
    subscriptions::subscribers::list::SubscriberPage,
    v1,
};

/// Maximum characters of a page token: the longest NATS name and the offset, encoded.
const TOKEN_CHARS_MAX: usize = 1024;

/// The room, the token at which the page begins, and the size of the page.
pub(in crate::grpc) fn subscriber_page(
    request: v1::ListSubscribersRequest,
) -> Result<(RoomId, Option<SubscriberToken>, usize)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let size = usize::try_from(request.page_size);
    if size.is_err() {
        violations.add("page_size", "must not be negative; 0 means 100");
    }
    let after = (!request.page_token.is_empty()).then(|| read_token(&request.page_token));
    if after == Some(None) {
        violations
            .add("page_token", "is not a page token; give `next_page_token` of the previous page, or leave it empty");
    }
    match room_id {
        Some(room_id) => violations.finish().map(|()| (room_id, after.flatten(), size.unwrap_or_default())),
        None => Err(violations.into_error()),
    }
}

fn read_token(text: &str) -> Option<SubscriberToken> {
    let text = Some(text).filter(|text| text.len() <= TOKEN_CHARS_MAX)?;
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (offset, nats_name) = text.split_once(' ')?;
    Some(SubscriberToken { offset: offset.parse().ok()?, nats_name: nats_name.to_owned() })
}

fn write_token(token: &SubscriberToken) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", token.offset, token.nats_name))
}

pub(in crate::grpc) fn subscribers(page: SubscriberPage) -> v1::ListSubscribersResponse {
    let subscribers = page.subscribers.into_iter().map(|found| v1::Subscriber {
        subscriber: found.name,
        position: found.position,
        lag: found.lag,
        last_active_at: found.last_active_at.map(Into::into),
        open: found.open,
        consumer: found.consumer,
    });
    v1::ListSubscribersResponse {
        subscribers: subscribers.collect(),
        next_page_token: page.next.as_ref().map(write_token).unwrap_or_default(),
    }
}

pub(in crate::grpc) fn delete_subscriber(request: v1::DeleteSubscriberRequest) -> Result<(RoomId, SubscriberId)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let subscriber = violations.check(SubscriberId::parse("subscriber", request.subscriber));
    match (room_id, subscriber) {
        (Some(room_id), Some(subscriber)) => Ok((room_id, subscriber)),
        _ => Err(violations.into_error()),
    }
}

pub(in crate::grpc) fn seek_subscriber(request: v1::SeekSubscriberRequest) -> Result<(RoomId, SubscriberId, Start)> {
    let mut violations = Violations::default();
    let room_id = violations.check(room_id(request.room_id));
    let subscriber = violations.check(SubscriberId::parse("subscriber", request.subscriber));
    let to = violations.check(match start("position", request.position) {
        // required here, although Subscribe has a default: the default position would send every message again
        Ok(Start::Default) => Err(Error::field("position", "is required: set one of its fields")),
        to => to,
    });
    match (room_id, subscriber, to) {
        (Some(room_id), Some(subscriber), Some(to)) => Ok((room_id, subscriber, to)),
        _ => Err(violations.into_error()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tokens_round_trip(offset in any::<usize>(), nats_name in "\\PC{0,255}") {
            let token = SubscriberToken { offset, nats_name };
            let text = write_token(&token);
            prop_assume!(text.len() <= TOKEN_CHARS_MAX);
            prop_assert_eq!(read_token(&text), Some(token));
        }

        #[test]
        fn garbage_is_refused_without_panic(text in any::<String>()) {
            let _ = read_token(&text);
        }
    }
}
