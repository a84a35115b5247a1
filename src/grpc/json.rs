//! Messages as JSON and back, by their descriptors and the rules of proto3: names in lowerCamelCase, 64-bit numbers as
//! strings, bytes in base64, times as in RFC 3339, enum values by their names.
//!
//! Unknown fields and unknown enum values of a request are ignored, as they are in the binary form. So a newer client can
//! call an older service.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde_json::Value;
use tonic::Status;
use tonic_types::pb;

use super::{codec::without_delay, framing::put, json_text::JsonText, types::ServedTypes};
use crate::error::{Error, Reason};

/// How many times as long JSON takes to translate as the same message in protobuf takes to decode, about.
pub(super) const SLOWNESS: usize = 8;
/// Bytes that are enough for the first field of a `PublishStreamRequest` in JSON.
pub(crate) const CORRELATION_JSON_BYTES_MAX: usize = 64;

/// The type of a message, for its translation to and from JSON. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct MessageType(MessageDescriptor);

impl MessageType {
    pub(super) fn new(descriptor: MessageDescriptor) -> Self {
        Self(descriptor)
    }

    /// Encodes a message that is given as JSON, with the prefix of gRPC.
    ///
    /// # Errors
    /// `REQUEST_MALFORMED`, when `json` is not JSON, or is not this message.
    pub(crate) fn framed_from_json(&self, json: &[u8]) -> Result<Bytes, Error> {
        without_delay(json.len().saturating_mul(SLOWNESS), || {
            let message = self.parse(json).map_err(|error| self.malformed(&error))?;
            let mut framed = BytesMut::new();
            put(&message, &mut framed);
            Ok(framed.freeze())
        })
    }

    fn parse(&self, json: &[u8]) -> Result<DynamicMessage, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(json);
        let options = DeserializeOptions::new().deny_unknown_fields(false);
        let message = DynamicMessage::deserialize_with_options(self.0.clone(), &mut reader, &options)?;
        reader.end()?;
        Ok(message)
    }

    /// The error for text that is not this message. It quotes nothing of the text, which may be secret.
    fn malformed(&self, error: &serde_json::Error) -> Error {
        let problem = without_quotes(&error.to_string());
        Error::new(Reason::RequestMalformed, format!("the request is not {} in JSON: {problem}", self.0.name()))
    }

    /// The JSON of an encoded message.
    ///
    /// # Errors
    /// `INTERNAL`, when `message` is not this message.
    pub(crate) fn to_json(&self, message: Bytes) -> Result<JsonText, Error> {
        without_delay(message.len().saturating_mul(SLOWNESS), || {
            let message =
                DynamicMessage::decode(self.0.clone(), message).map_err(|error| untranslatable(error.into()))?;
            JsonText::of(message).map_err(|error| untranslatable(error.into()))
        })
    }
}

fn untranslatable(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::internal().because(error)
}

/// Cuts everything between the first and the last quotation mark out of a message of the JSON library.
fn without_quotes(message: &str) -> String {
    for mark in ['"', '`', '\''] {
        if let (Some(first), Some(last)) = (message.find(mark), message.rfind(mark))
            && first < last
            && let (Some(before), Some(after)) = (message.get(..=first), message.get(last..))
        {
            return format!("{before}...{after}");
        }
    }
    message.to_owned()
}

/// One of the details of an error.
#[derive(Debug)]
pub(crate) struct ErrorDetail {
    /// The name of its message type.
    pub name: String,
    /// The encoded message.
    pub value: Vec<u8>,
    /// The message as JSON; `None` when its type is unknown.
    pub json: Option<Value>,
}

impl ServedTypes {
    /// The details of a status.
    pub(crate) fn details(&self, status: &Status) -> Vec<ErrorDetail> {
        let details = pb::Status::decode(status.details()).unwrap_or_default().details;
        let detail = |any: prost_types::Any| {
            let name = any.type_url.rsplit('/').next().unwrap_or_default().to_owned();
            let json = self.message(&name).and_then(|MessageType(kind)| {
                serde_json::to_value(DynamicMessage::decode(kind, &*any.value).ok()?).ok()
            });
            ErrorDetail { name, value: any.value, json }
        };
        details.into_iter().map(detail).collect()
    }
}

/// The `room_id` of a request in JSON, if it is the first field and complete in `beginning`.
pub(crate) fn room_id_in_json(beginning: &[u8]) -> Option<String> {
    text(after_name(beginning, &["roomId", "room_id"])?)
}

/// The value after the name of the first field, if the field has one of these names.
fn after_name<'a>(beginning: &'a [u8], names: &[&str]) -> Option<&'a [u8]> {
    let first = beginning.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    let value = names.iter().find_map(|name| first.strip_prefix(format!("\"{name}\"").as_bytes()))?;
    Some(value.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

/// The JSON string at the beginning of `bytes`.
fn text(bytes: &[u8]) -> Option<String> {
    serde_json::Deserializer::from_slice(bytes).into_iter::<String>().next()?.ok()
}

/// The replacement in JSON for a dropped message of a `PublishStream`: its `correlation_id`, if that is the first field.
pub(crate) fn stand_in_json(beginning: &[u8]) -> String {
    let digits = after_name(beginning, &["correlationId", "correlation_id"]).map(|value| {
        let digits = value.strip_prefix(b"\"").unwrap_or(value);
        digits.iter().take_while(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect::<String>()
    });
    match digits.and_then(|digits| digits.parse::<u64>().ok()) {
        Some(id) => format!("{{\"correlationId\":\"{id}\"}}"),
        None => "{}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::unwrap_used)]
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        error::Reason,
        grpc::{framing::PREFIX_BYTES, status},
        v1,
    };

    static PUBLISH: LazyLock<MessageType> =
        LazyLock::new(|| ServedTypes::read(&[]).unwrap().message("unibus.v1.PublishRequest").unwrap());

    fn publish(json: &str) -> Result<v1::PublishRequest, Error> {
        let framed = PUBLISH.framed_from_json(json.as_bytes())?;
        Ok(v1::PublishRequest::decode(framed.get(PREFIX_BYTES..).unwrap()).unwrap())
    }

    #[test]
    fn json_is_read_leniently_where_proto3_says_so() {
        for (json, expected) in [
            ("{}", v1::PublishRequest::default()),
            (
                r#"{"roomId":"a","payload":"_-8","messageId":null,"ttl":"1.5s","expectedLastSequence":"18446744073709551615"}"#,
                v1::PublishRequest {
                    room_id: "a".into(),
                    payload: vec![0xff, 0xef].into(),
                    ttl: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                    expected_last_sequence: Some(u64::MAX),
                    ..Default::default()
                },
            ),
            (
                r#" {"room_id":"a","payload":"/+8=","expected_last_sequence":7,"new":[{"x":[1]}]} "#,
                v1::PublishRequest {
                    room_id: "a".into(),
                    payload: vec![0xff, 0xef].into(),
                    expected_last_sequence: Some(7),
                    ..Default::default()
                },
            ),
        ] {
            assert_eq!(publish(json).unwrap(), expected, "{json}");
        }
    }

    #[test]
    fn what_is_no_message_is_malformed_and_not_quoted() {
        for json in [
            "",
            "[]",
            "{",
            "{}{}",
            "\"secret\"",
            r#"{"roomId":5}"#,
            r#"{"payload":"sec ret"}"#,
            r#"{"ttl":"secret"}"#,
            "\u{0}",
        ] {
            let error = publish(json).unwrap_err();
            assert_eq!(error.reason(), Reason::RequestMalformed, "{json}");
            assert!(!error.message().contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_first_field_is_found_in_json_that_is_not_complete() {
        for (json, expected) in [
            (r#"{"roomId":"lobby","payload":"AAA"#, Some("lobby")),
            (" { \"room_id\" :\n \"a\\u0062\" , ", Some("ab")),
            (r#"{"payload":"","roomId":"lobby"}"#, None),
            (r#"{"roomId":"lob"#, None),
            (r#"{"roomId":7}"#, None),
            ("", None),
        ] {
            assert_eq!(room_id_in_json(json.as_bytes()).as_deref(), expected, "{json}");
        }
        assert_eq!(stand_in_json(br#"{"correlationId":"12","publish":{"#), r#"{"correlationId":"12"}"#);
        assert_eq!(stand_in_json(br#"{"correlation_id": 7}"#), r#"{"correlationId":"7"}"#);
        assert_eq!(stand_in_json(br#"{"publish":{}}"#), "{}");
    }

    #[test]
    fn details_are_shown_by_their_names() {
        let types = ServedTypes::read(&[]).unwrap();
        let details = types.details(&status(Error::field("room_id", "is wrong")));
        let info = details.iter().find(|detail| detail.name == "google.rpc.ErrorInfo").unwrap();
        let json = info.json.as_ref().unwrap();
        assert_eq!(json["reason"], "INVALID_FIELD");
        let wrong = details.iter().find(|detail| detail.name == "google.rpc.BadRequest").unwrap();
        assert_eq!(wrong.json.as_ref().unwrap()["fieldViolations"][0]["field"], "room_id");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_message_or_a_documented_error(text in any::<String>(), tail in "[\\[\\]{}\",:a-z0-9\\\\]{0,60}") {
            for json in [text, format!("{{\"roomId\":{tail}")] {
                if let Err(error) = publish(&json) {
                    prop_assert_eq!(error.reason(), Reason::RequestMalformed);
                }
                let _ = room_id_in_json(json.as_bytes());
                let _ = stand_in_json(json.as_bytes());
            }
        }
    }
}
