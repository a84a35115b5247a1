//! Message ids in NATS.
//!
//! A message id belongs to its sender. In NATS, a hash of the sender precedes the id that the sender gave, so
//! messages of two senders with the same id are different messages. Readers see the id as it was given. Without a
//! known sender (authorisation is off, or a native program published the message) NATS has the id as it was given.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

use crate::{
    domain::{Draft, MemberId},
    limits::MESSAGE_ID_SCOPE_BYTES,
};

/// Bytes of the hash. Enough to make a collision of two senders practically impossible.
const HASH_BYTES: usize = 16;

/// The message's id in NATS. `None` if it has none.
pub(in crate::store) fn of(draft: &Draft) -> Option<Cow<'_, str>> {
    let id = draft.message_id.as_deref()?;
    let sender = draft.sender.as_ref().map(MemberId::as_str);
    Some(sender.map_or(Cow::Borrowed(id), |sender| Cow::Owned(scope(sender) + id)))
}

/// The id as its sender gave it. `None` if it does not belong to this sender.
pub(in crate::store) fn given<'a>(id: &'a str, sender: &str) -> Option<&'a str> {
    id.strip_prefix(&scope(sender))
}

fn scope(sender: &str) -> String {
    let digest = digest(&SHA256, sender.as_bytes());
    let mut scope = String::with_capacity(MESSAGE_ID_SCOPE_BYTES);
    URL_SAFE_NO_PAD.encode_string(digest.as_ref().get(..HASH_BYTES).unwrap_or_default(), &mut scope);
    scope.push('.');
    scope
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_id_is_its_senders_alone_and_comes_back() {
        let by = |sender: Option<&str>| Draft {
            message_id: Some("order-77".to_owned()),
            sender: sender.map(|sender| MemberId::parse("sender", sender).unwrap()),
            ..Draft::default()
        };
        let (anyone, ann, bob) = (by(None), by(Some("ann")), by(Some("bob")));
        assert_eq!(of(&anyone).unwrap(), "order-77");
        let (anns, bobs) = (of(&ann).unwrap(), of(&bob).unwrap());
        assert_ne!(anns, bobs);
        assert_eq!(anns.len(), MESSAGE_ID_SCOPE_BYTES + "order-77".len());
        assert_eq!(
            (given(&anns, "ann"), given(&anns, "bob"), given("order-77", "ann")),
            (Some("order-77"), None, None)
        );
        assert_eq!(of(&Draft::default()), None);
    }
}
