//! Messages of the contract as JSON, by the rules of proto3: names in lowerCamelCase, 64-bit numbers as strings, bytes in
//! base64, times as in RFC 3339, enum values by their names.

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;
use unibus::v1::FILE_DESCRIPTOR_SET;

use super::{
    exit::Exit,
    failure::{CliResult, Failure},
};

/// The types of the contract. `None` is impossible: the build compiled the same descriptors.
static TYPES: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).ok());

/// The message as JSON. `name` is its type in the package `unibus.v1`. Every field is present, except unset messages.
/// The entries of maps are sorted, so equal messages have equal texts.
pub(crate) fn of(name: &str, message: &impl Message) -> CliResult<Value> {
    let broken = |problem: String| Failure::new(Exit::Failed, format!("cannot write {name} as JSON: {problem}"));
    let descriptor = TYPES.as_ref().and_then(|types| types.get_message_by_name(&format!("unibus.v1.{name}")));
    let descriptor = descriptor.ok_or_else(|| broken("the contract has no such message".to_owned()))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
    let dynamic = dynamic.map_err(|error| broken(error.to_string()))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;
    use unibus::v1::{GetRoomResponse, Message};

    #[test]
    fn a_message_follows_the_rules_of_proto3() {
        let message = Message {
            sequence: 7,
            payload: vec![0xff, 0].into(),
            headers: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            published_at: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
            ..Message::default()
        };
        let expected = json!({
            "sequence": "7",
            "payload": "/wA=",
            "headers": { "a": "1", "b": "2" },
            "publishedAt": "1970-01-01T00:00:01.500Z",
            "messageId": "",
            "sender": "",
            "cursor": "",
        });
        assert_eq!(super::of("Message", &message).unwrap(), expected);
        assert_eq!(super::of("GetRoomResponse", &GetRoomResponse::default()).unwrap(), json!({}));
        assert!(super::of("Nothing", &message).is_err());
    }
}
