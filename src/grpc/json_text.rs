//! A message as JSON whose large parts are written only when they are sent.
//!
//! The payload of a message is shared by all subscribers of a room, and a copy in base64 for each of them would not be. So a
//! large payload stays as it is, and its base64 is made piece by piece.

use std::{collections::VecDeque, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};

/// Bytes from which a field of bytes is written when it is sent.
const LARGE_BYTES: usize = 4096;
/// Bytes of a marker. They fill their base64 without padding.
const MARKER_BYTES: usize = 18;

/// The beginning of all markers. Nobody outside can guess it, so no text of a client contains a marker.
static SECRET: LazyLock<[u8; 16]> = LazyLock::new(|| uuid::Uuid::new_v4().into_bytes());

/// JSON, or any other text, that is written piece by piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsonText(VecDeque<Part>);

#[derive(Clone, Debug)]
enum Part {
    Text(Bytes),
    /// Bytes that are written in base64.
    Base64(Bytes),
}

impl From<Bytes> for JsonText {
    fn from(text: Bytes) -> Self {
        Self(VecDeque::from([Part::Text(text)]))
    }
}

impl JsonText {
    /// The JSON of a message.
    pub(super) fn of(mut message: DynamicMessage) -> Result<Self, serde_json::Error> {
        let mut large = Vec::new();
        take_large(&mut message, &mut large);
        let mut rest = Bytes::from(serde_json::to_vec(&message)?);
        let mut parts = VecDeque::new();
        // the order of the markers in the text is that of the fields, except within a map
        while !large.is_empty() {
            let found = find_marker(&rest).and_then(|(place, number)| Some((place, large.get_mut(number)?)));
            let Some((place, bytes)) = found else { break };
            parts.push_back(Part::Text(rest.split_to(place)));
            parts.push_back(Part::Base64(std::mem::take(bytes)));
            drop(rest.split_to(marker_length()));
        }
        parts.push_back(Part::Text(rest));
        Ok(Self(parts))
    }

    /// Appends another text.
    pub(super) fn append(&mut self, mut more: Self) {
        self.0.append(&mut more.0);
    }

    /// The number of bytes that were not taken yet.
    pub(crate) fn len(&self) -> usize {
        let length = |part: &Part| match part {
            Part::Text(text) => text.len(),
            Part::Base64(bytes) => bytes.len().div_ceil(3) * 4,
        };
        self.0.iter().map(length).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next part and appends it to `into`: about `most` bytes, unless fewer are left.
    pub(crate) fn take(&mut self, most: usize, into: &mut Vec<u8>) {
        let end = into.len().saturating_add(most);
        while into.len() < end {
            let missing = end - into.len();
            match self.0.front_mut() {
                Some(Part::Text(text)) if text.is_empty() => drop(self.0.pop_front()),
                Some(Part::Base64(bytes)) if bytes.is_empty() => drop(self.0.pop_front()),
                Some(Part::Text(text)) => into.extend_from_slice(&text.split_to(missing.min(text.len()))),
                Some(Part::Base64(bytes)) => {
                    // three bytes are four characters
                    let piece = bytes.split_to((missing.div_ceil(4) * 3).min(bytes.len()));
                    into.extend_from_slice(BASE64_STANDARD.encode(piece).as_bytes());
                }
                None => return,
            }
        }
    }
}

/// Takes the large values out of a message, and leaves a marker in the place of each.
fn take_large(message: &mut DynamicMessage, large: &mut Vec<Bytes>) {
    // the JSON of well-known types has another form
    if message.descriptor().full_name().starts_with("google.protobuf.") {
        return;
    }
    for (_, value) in message.fields_mut() {
        take_large_in(value, large);
    }
}

fn take_large_in(value: &mut Value, large: &mut Vec<Bytes>) {
    match value {
        Value::Bytes(bytes) if bytes.len() >= LARGE_BYTES => {
            let marker = marker(large.len());
            large.push(std::mem::replace(bytes, marker));
        }
        Value::Message(message) => take_large(message, large),
        Value::List(values) => values.iter_mut().for_each(|value| take_large_in(value, large)),
        Value::Map(entries) => entries.values_mut().for_each(|value| take_large_in(value, large)),
        _ => {}
    }
}

/// The marker of the large value with this number.
fn marker(number: usize) -> Bytes {
    let [.., high, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let mut marker = Vec::with_capacity(MARKER_BYTES);
    marker.extend_from_slice(&*SECRET);
    marker.extend_from_slice(&[high, low]);
    marker.into()
}

/// The length of a marker in the text.
const fn marker_length() -> usize {
    MARKER_BYTES / 3 * 4
}

/// The place and the number of the first marker in a text.
fn find_marker(text: &[u8]) -> Option<(usize, usize)> {
    // the base64 of 15 bytes ends with a character
    let secret = BASE64_STANDARD.encode(SECRET.get(..15)?);
    let place = text.windows(secret.len()).position(|window| window == secret.as_bytes())?;
    let marker = BASE64_STANDARD.decode(text.get(place..place + marker_length())?).ok()?;
    let [.., high, low] = *marker.as_slice() else { return None };
    Some((place, usize::from(u16::from_be_bytes([high, low]))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::{grpc::ServedTypes, v1};

    static PAGE: LazyLock<super::super::MessageType> =
        LazyLock::new(|| ServedTypes::read(&[]).unwrap().message("unibus.v1.HistoryResponse").unwrap());

    #[test]
    fn a_large_payload_is_shared_and_not_copied() {
        let payload = Bytes::from(vec![7; LARGE_BYTES]);
        let page =
            v1::HistoryResponse { messages: vec![v1::Message { payload, ..Default::default() }], ..Default::default() };
        let encoded = Bytes::from(page.encode_to_vec());
        let text = PAGE.to_json(encoded.clone()).unwrap();
        let shared = text.0.iter().find_map(|part| match part {
            Part::Base64(bytes) => Some(bytes.as_ptr_range()),
            Part::Text(_) => None,
        });
        let (shared, whole) = (shared.unwrap(), encoded.as_ptr_range());
        assert!(whole.start < shared.start && shared.end <= whole.end);
    }

    proptest! {
        #[test]
        fn the_pieces_together_are_the_json(
            sizes in prop::collection::vec(prop_oneof![0_usize..20, LARGE_BYTES - 2..LARGE_BYTES + 9, 9000_usize..20_000], 0..6),
            most in 1_usize..20_000,
        ) {
            let message = |size: &usize| v1::Message { payload: vec![7; *size].into(), sender: "eve".into(), ..Default::default() };
            let page = v1::HistoryResponse { messages: sizes.iter().map(message).collect(), last_sequence: 9, ..Default::default() };
            let mut text = PAGE.to_json(page.encode_to_vec().into()).unwrap();
            let (length, mut json) = (text.len(), Vec::new());
            while !text.is_empty() {
                let (before, left) = (json.len(), text.len());
                text.take(most, &mut json);
                prop_assert!(json.len() - before <= most + 4);
                prop_assert_eq!(json.len() - before, left - text.len());
            }
            prop_assert_eq!(json.len(), length);
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            let found: Vec<_> = json["messages"].as_array().into_iter().flatten().map(|message| {
                message["payload"].as_str().map_or(0, |payload| BASE64_STANDARD.decode(payload).unwrap().len())
            }).collect();
            prop_assert_eq!(found, sizes);
        }
    }
}
