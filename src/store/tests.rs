//! A message keeps its sender from the publisher to the reader: `signatures` signs it, and `log` reads it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use async_nats::{HeaderMap, header};
use bytes::Bytes;
use proptest::{collection::hash_map, prelude::*};

use super::{
    log::{message::StoredMessage, message_id},
    signatures::{
        Signatures,
        tests::{instance, lacks_after_deletion},
    },
};
use crate::{
    domain::{Draft, Headers, MemberId, Message, Room},
    limits::SIGNATURE_TIME_TOLERANCE,
};

fn room(id: &str) -> Room {
    Room::example(id, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
}

fn draft(sender: &str, headers: HashMap<String, String>, payload: &[u8]) -> Draft {
    Draft {
        payload: Bytes::copy_from_slice(payload),
        headers: Headers::parse("headers", headers).unwrap(),
        message_id: Some("id-1".to_owned()),
        expected_last_sequence: None,
        ttl: None,
        sender: Some(MemberId::parse("sender", sender).unwrap()),
    }
}

/// What goes to NATS.
#[derive(Clone, Debug)]
struct Wire {
    room: Room,
    headers: HeaderMap,
    payload: Bytes,
    at: SystemTime,
}

/// What this instance publishes.
fn published(signatures: &Signatures, room: &Room, draft: &Draft) -> Wire {
    let mut headers = HeaderMap::new();
    for (name, value) in draft.headers.iter() {
        headers.insert(name, value);
    }
    if let Some(id) = message_id::of(draft) {
        headers.insert(header::NATS_MESSAGE_ID, &*id);
    }
    if let Some(seal) = signatures.seal(room, draft).unwrap() {
        seal.write(&mut headers);
    }
    Wire { room: room.clone(), headers, payload: draft.payload.clone(), at: SystemTime::now() }
}

/// As it is read by this instance.
async fn read(signatures: &Signatures, wire: &Wire) -> Message {
    let stored = StoredMessage::new(7, wire.at, Some(&wire.headers), wire.payload.clone());
    stored.attributed(signatures, &wire.room).await
}

fn with_header(wire: &Wire, name: &str, value: impl Into<String>) -> Wire {
    let mut wire = wire.clone();
    wire.headers.insert(name, value.into());
    wire
}

fn one_header() -> HashMap<String, String> {
    HashMap::from([("a".to_owned(), "1".to_owned())])
}

#[tokio::test]
async fn every_instance_that_has_the_key_reports_the_sender() {
    let (one, other) = (instance([(1, 1), (2, 2)]), instance([(1, 1), (2, 2), (3, 3)]));
    for sender in ["ann", "spiffe://example.org/ann", "żółw%20🐢", "a:b", "%"] {
        let wire = published(&one, &room("lobby"), &draft(sender, one_header(), b"hello"));
        assert!(wire.headers.get("Unibus-Signature").unwrap().as_str().starts_with("2."), "the newest key signs");
        let message = read(&other, &wire).await;
        assert_eq!(message.sender, sender);
        assert_eq!(message.headers.into_map(), one_header());
    }
}

#[tokio::test]
async fn a_caller_without_an_id_has_no_sender_and_no_signature() {
    let signatures = instance([(1, 1)]);
    let draft = Draft { sender: None, ..draft("ann", HashMap::new(), b"hello") };
    let wire = published(&signatures, &room("lobby"), &draft);
    assert!(wire.headers.get("Unibus-Signature").is_none() && wire.headers.get("Unibus-Sender").is_none());
    assert_eq!(read(&signatures, &wire).await.sender, "");
    let nothing = instance([]);
    assert!(nothing.seal(&room("lobby"), &draft).unwrap().is_none());
    let draft = Draft { sender: Some(MemberId::parse("sender", "ann").unwrap()), ..draft };
    assert!(nothing.seal(&room("lobby"), &draft).is_err(), "nobody publishes unsigned for want of a key");
}

#[tokio::test]
async fn no_forgery_has_a_sender() {
    let signatures = instance([(1, 1), (2, 2)]);
    let genuine = published(&signatures, &room("lobby"), &draft("ann", one_header(), b"hello"));
    let other = published(&signatures, &room("lobby"), &draft("bob", HashMap::new(), b"bye"));
    let signature = genuine.headers.get("Unibus-Signature").unwrap().to_string();
    let parts: Vec<&str> = signature.splitn(3, '.').collect();
    let [key, time, mac] = parts[..] else { unreachable!("{signature}") };
    let without = |name: &str| {
        let mut wire = genuine.clone();
        wire.headers =
            genuine.headers.iter().filter(|(found, _)| found.to_string() != name).fold(HeaderMap::new(), copied);
        wire
    };
    let recreated = Room { created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_001), ..room("lobby") };
    let later = SIGNATURE_TIME_TOLERANCE + Duration::from_secs(1);
    let forged = |signature: String| with_header(&genuine, "Unibus-Signature", signature);
    let forgeries = [
        ("the sender alone", without("Unibus-Signature")),
        ("the signature alone", without("Unibus-Sender")),
        ("another sender", with_header(&genuine, "Unibus-Sender", "bob")),
        ("the sender written otherwise", with_header(&genuine, "Unibus-Sender", "%61nn")),
        ("another payload", Wire { payload: Bytes::from_static(b"hellp"), ..genuine.clone() }),
        ("no payload", Wire { payload: Bytes::new(), ..genuine.clone() }),
        ("another message id", with_header(&genuine, "Nats-Msg-Id", "id-2")),
        ("no message id", without("Nats-Msg-Id")),
        ("another header value", with_header(&genuine, "a", "2")),
        ("one more header", with_header(&genuine, "b", "1")),
        ("no headers", without("a")),
        ("another room", Wire { room: room("lobbx"), ..genuine.clone() }),
        ("the same room in another life", Wire { room: recreated, ..genuine.clone() }),
        ("another message's signature", Wire { headers: other.headers.clone(), ..genuine.clone() }),
        ("another key", forged(format!("1.{time}.{mac}"))),
        ("a key that nobody has", forged(format!("3.{time}.{mac}"))),
        ("another time", forged(format!("{key}.{}.{mac}", time.parse::<u64>().unwrap() + 1))),
        ("another MAC", forged(format!("{key}.{time}.{}", mac.chars().rev().collect::<String>()))),
        ("half of the MAC", forged(format!("{key}.{time}.{}", &mac[..20]))),
        ("no MAC", forged(format!("{key}.{time}."))),
        ("no time", forged(key.to_owned())),
        ("numbers that are none", forged(format!("-1.x.{mac}"))),
        ("nothing", forged(String::new())),
        ("stored long after", Wire { at: genuine.at + later, ..genuine.clone() }),
        ("stored long before", Wire { at: genuine.at - later, ..genuine.clone() }),
    ];
    assert_eq!(read(&signatures, &genuine).await.sender, "ann");
    for (case, wire) in forgeries {
        let message = read(&signatures, &wire).await;
        assert_eq!(message.sender, "", "{case}");
        assert!(message.headers.iter().all(|(name, _)| name.len() == 1), "{case}");
    }
}

fn copied(
    mut headers: HeaderMap,
    (name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>),
) -> HeaderMap {
    for value in values {
        headers.append(name.clone(), value.clone());
    }
    headers
}

#[tokio::test]
async fn a_deleted_key_is_no_longer_valid() {
    let signatures = instance([(1, 1)]);
    let wire = published(&signatures, &room("lobby"), &draft("ann", one_header(), b"hello"));
    assert!(lacks_after_deletion(&signatures, "sender.1", 2), "the last key is replaced");
    assert_eq!(read(&signatures, &wire).await.sender, "");
}

proptest! {
    #[test]
    fn any_message_keeps_its_sender(
        sender in "[!-~à-ÿ一-龥а-я🦀]{1,126}",
        headers in hash_map("[a-z]{1,9}", "[^\\s\\p{Cc}]{0,9}", 0..4),
        payload in any::<Vec<u8>>(),
    ) {
        let signatures = instance([(1, 1)]);
        let wire = published(&signatures, &room("lobby"), &draft(&sender, headers, &payload));
        let added: usize = ["Unibus-Sender", "Unibus-Signature"]
            .iter()
            .map(|name| name.len() + wire.headers.get(*name).unwrap().as_str().len() + 4)
            .sum();
        prop_assert!(added <= crate::limits::SENDER_HEADERS_BYTES_MAX, "{added}");
        let message = futures_util::FutureExt::now_or_never(read(&signatures, &wire)).unwrap();
        prop_assert_eq!(message.sender, sender);
    }

    #[test]
    fn no_headers_break_the_reading(sender in any::<String>(), signature in any::<String>()) {
        let mut headers = HeaderMap::new();
        for (name, value) in [("Unibus-Sender", sender), ("Unibus-Signature", signature)] {
            headers.insert(name, value.replace(['\r', '\n'], ""));
        }
        let wire = Wire { room: room("lobby"), headers, payload: Bytes::new(), at: SystemTime::now() };
        let signatures = instance([(1, 1)]);
        let message = futures_util::FutureExt::now_or_never(read(&signatures, &wire)).unwrap();
        prop_assert_eq!(message.sender, "");
    }
}
