//! The signed content of a message, and the two headers that carry the signature.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use async_nats::HeaderMap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use ring::{digest, hmac};

use super::key::SigningKey;
use crate::{
    domain::{Headers, Room},
    store::names::{SENDER_HEADER, SIGNATURE_HEADER},
};

/// The prefix of the signed bytes. Other uses of these keys have other prefixes.
const PURPOSE: &[u8] = b"unibus sender 1";
/// The characters to encode. A percent sign starts an encoded byte. Non-ASCII characters are always encoded.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// A message's claim about its sender, with its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Seal {
    /// The sender, percent-encoded.
    sender: String,
    pub(super) key: u64,
    signed_ms: u64,
    mac: Vec<u8>,
}

/// The signed content.
#[derive(Clone, Copy)]
pub(super) struct Content<'a> {
    pub room: &'a Room,
    /// Empty if the message has no id.
    pub message_id: &'a str,
    pub headers: &'a Headers,
    pub payload: &'a [u8],
}

impl Seal {
    pub(super) fn new(id: u64, key: &SigningKey, sender: &str, at: SystemTime, content: Content<'_>) -> Self {
        let sender: Cow<'_, str> = utf8_percent_encode(sender, ENCODED).into();
        let signed_ms = unix_ms(at);
        let mac = hmac::sign(&key.hmac, &signed(&sender, signed_ms, content)).as_ref().to_vec();
        Self { sender: sender.into_owned(), key: id, signed_ms, mac }
    }

    /// The claimed sender. It is not proven.
    pub(in crate::store) fn claimed_sender(&self) -> Option<Cow<'_, str>> {
        percent_decode_str(&self.sender).decode_utf8().ok()
    }

    /// The sender, if the signature matches `content`.
    pub(super) fn open(&self, key: &SigningKey, content: Content<'_>) -> Option<String> {
        hmac::verify(&key.hmac, &signed(&self.sender, self.signed_ms, content), &self.mac).ok()?;
        self.claimed_sender().map(Cow::into_owned)
    }

    /// The difference between the signing time and `time`.
    pub(super) fn distance(&self, time: SystemTime) -> Duration {
        Duration::from_millis(self.signed_ms.abs_diff(unix_ms(time)))
    }

    /// Adds the two headers.
    pub(in crate::store) fn write(&self, headers: &mut HeaderMap) {
        headers.insert(SENDER_HEADER, self.sender.as_str());
        let mac = URL_SAFE_NO_PAD.encode(&self.mac);
        headers.insert(SIGNATURE_HEADER, format!("{}.{}.{mac}", self.key, self.signed_ms));
    }

    /// Reads a seal from the headers. It is not proven.
    pub(in crate::store) fn read(headers: &HeaderMap) -> Option<Self> {
        let signature = headers.get(SIGNATURE_HEADER)?.as_str();
        let sender = headers.get(SENDER_HEADER)?.as_str().to_owned();
        let mut parts = signature.splitn(3, '.');
        let (key, signed_ms, mac) = (parts.next()?, parts.next()?, parts.next()?);
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        Some(Self { sender, key: key.parse().ok()?, signed_ms: signed_ms.parse().ok()?, mac })
    }
}

/// The signed bytes. Each part is preceded by its length, so that no two contents have the same bytes. The payload is
/// included as its digest, so that a large one is not copied.
fn signed(sender: &str, signed_ms: u64, content: Content<'_>) -> Vec<u8> {
    let Content { room, message_id, headers, payload } = content;
    let created_at = room.created_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut pairs: Vec<_> = headers.iter().collect();
    pairs.sort_unstable();
    let mut bytes = Vec::with_capacity(256);
    let mut add = |part: &[u8]| {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    };
    add(PURPOSE);
    add(room.room_id.as_str().as_bytes());
    add(&created_at.as_nanos().to_be_bytes());
    add(sender.as_bytes());
    add(message_id.as_bytes());
    add(&signed_ms.to_be_bytes());
    for (name, value) in pairs {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(digest::digest(&digest::SHA256, payload).as_ref());
    bytes
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
