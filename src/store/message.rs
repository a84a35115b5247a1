//! A message as it came out of NATS.

use std::{collections::HashMap, time::SystemTime};

use async_nats::{HeaderMap, HeaderValue, header};
use bytes::Bytes;

use super::signatures::{Seal, Signatures};
use crate::domain::{Headers, Message, Room};

/// A message, and what it says of its sender; nothing of that is proven.
#[derive(Debug)]
pub(super) struct Stored {
    pub message: Message,
    pub seal: Option<Seal>,
}

impl Stored {
    pub(super) fn new(sequence: u64, published_at: SystemTime, headers: Option<&HeaderMap>, payload: Bytes) -> Self {
        let mut message = Message {
            sequence,
            payload,
            headers: Headers::default(),
            published_at,
            message_id: String::new(),
            sender: String::new(),
        };
        let Some(headers) = headers.filter(|headers| !headers.is_empty()) else { return Self { message, seal: None } };
        let pairs: HashMap<&str, &[HeaderValue]> =
            headers.iter().map(|(name, values)| (name.as_ref(), values.as_slice())).collect();
        message.message_id = headers.get(header::NATS_MESSAGE_ID).map(ToString::to_string).unwrap_or_default();
        message.headers = Headers::from_stored(
            pairs.iter().flat_map(|(name, values)| values.iter().map(|value| (*name, value.as_str()))),
        );
        Self { message, seal: Seal::read(headers) }
    }

    /// The message, with its sender if that is proven.
    pub(super) async fn attributed(self, signatures: &Signatures, room: &Room) -> Message {
        let Self { mut message, seal } = self;
        if let Some(seal) = seal {
            signatures.attribute_surely(room, &mut message, &seal).await;
        }
        message
    }
}
