//! Decodes requests within bounds, and encodes answers into buffers of their size.
//!
//! The decoder first counts the entries of a request's lists and maps in its encoded bytes, because a decoded entry
//! takes far more memory.

use std::{any::type_name, collections::HashMap, marker::PhantomData, sync::LazyLock};

use bytes::Buf;
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};
use tonic::{
    Status,
    codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::status::status;
use crate::{
    error::Error,
    limits::{LARGE_REQUEST_BYTES, PUBLISH_BATCH_HEADERS_MAX, PUBLISH_BATCH_MESSAGES_MAX, REQUEST_ENTRIES_MAX},
    v1,
};

/// Bytes of the shortest encoded entry.
const ENTRY_BYTES_MIN: usize = 2;
/// The prefix of the names of the contract's messages.
const PACKAGE: &str = ".unibus.v1.";

/// The codec of the contract's service and client.
#[derive(Clone, Debug)]
pub(crate) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SizedEncoder<T>;
    type Decoder = Bounded<U>;

    fn encoder(&mut self) -> Self::Encoder {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        Bounded { inner: ProstCodec::<T, U>::new().decoder() }
    }
}

/// Bytes that the buffer of an answer has at first, and from which a stream of answers is written out.
const ANSWER_BUFFER_BYTES: usize = 256;
const ANSWER_YIELD_BYTES: usize = 32 * 1024;

/// Encodes a message into a buffer that has its size from the beginning. A buffer that doubles while a page of history
/// is written takes up to three times the memory.
#[derive(Clone, Debug)]
pub(crate) struct SizedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SizedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(ANSWER_BUFFER_BYTES, ANSWER_YIELD_BYTES)
    }
}

/// Refuses a request with too many entries, and decodes every other request.
#[derive(Clone, Debug)]
pub(crate) struct Bounded<U> {
    inner: ProstDecoder<U>,
}

impl<U: Message + Default> Decoder for Bounded<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // a shorter request cannot have too many entries
        if buffer.remaining() > ENTRY_BYTES_MIN * REQUEST_ENTRIES_MAX {
            SHAPES.check(type_name::<U>(), buffer.chunk()).map_err(status)?;
        }
        without_delay(buffer.remaining(), || self.inner.decode(buffer))
    }
}

/// Translates a message that costs as much as one of `bytes` bytes in protobuf. A large message does not delay other calls meanwhile.
pub(crate) fn without_delay<T>(bytes: usize, translate: impl FnOnce() -> T) -> T {
    if bytes >= LARGE_REQUEST_BYTES && may_block() {
        #[expect(clippy::disallowed_methods, reason = "the runtime has several threads, as was just asked")]
        return block_in_place(translate);
    }
    translate()
}

/// Whether another worker thread can run the tasks of this one meanwhile.
fn may_block() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(Shapes::of_the_contract);

/// The lists in the contract's requests, and the messages that contain them.
#[derive(Debug, Default)]
struct Shapes {
    messages: Vec<Shape>,
    requests: HashMap<String, usize>,
    lists: Vec<List>,
}

/// The fields of a message, by number.
#[derive(Debug, Default)]
struct Shape(HashMap<u32, Field>);

#[derive(Clone, Copy, Debug)]
struct Field {
    /// The index in [`Shapes::lists`], if the field is a list or map.
    list: Option<usize>,
    /// The index in [`Shapes::messages`] of the message type, if the field holds messages.
    message: Option<usize>,
    /// Whether the list can be packed. Its shortest entries are then one byte long.
    is_packable: bool,
}

/// A list or map.
#[derive(Debug)]
struct List {
    name: String,
    max: usize,
}

impl Shapes {
    fn of_the_contract() -> Self {
        let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap_or_default();
        let mut declared = HashMap::new();
        for file in &set.file {
            for message in &file.message_type {
                declare(&format!(".{}", file.package()), message, &mut declared);
            }
        }
        let mut shapes = Self::default();
        let mut known = HashMap::new();
        let mut names: Vec<_> = declared.keys().filter(|name| name.ends_with("Request")).cloned().collect();
        names.sort_unstable();
        for name in names {
            let place = shapes.shape(&name, &declared, &mut known);
            if let Some(short) = name.strip_prefix(PACKAGE) {
                shapes.requests.insert(short.to_owned(), place);
            }
        }
        shapes
    }

    fn shape(
        &mut self,
        name: &str,
        declared: &HashMap<String, &DescriptorProto>,
        known: &mut HashMap<String, usize>,
    ) -> usize {
        if let Some(place) = known.get(name) {
            return *place;
        }
        let place = self.messages.len();
        self.messages.push(Shape::default());
        known.insert(name.to_owned(), place);
        let mut fields = HashMap::new();
        for field in declared.get(name).into_iter().flat_map(|message| &message.field) {
            let list = (field.label() == Label::Repeated).then(|| {
                self.lists.push(List { name: field.name().to_owned(), max: entries_max(name, field.name()) });
                self.lists.len() - 1
            });
            let message = (field.r#type() == Type::Message).then(|| self.shape(field.type_name(), declared, known));
            let is_packable = !matches!(field.r#type(), Type::Message | Type::String | Type::Bytes);
            let number = u32::try_from(field.number()).unwrap_or_default();
            fields.insert(number, Field { list, message, is_packable });
        }
        if let Some(shape) = self.messages.get_mut(place) {
            *shape = Shape(fields);
        }
        place
    }

    /// Checks the encoded request of the type `type_name`. Accepts types that are no requests, and bytes that cannot be
    /// parsed: the decoder refuses those.
    ///
    /// # Errors
    /// `INVALID_FIELD`, when a list has too many entries.
    fn check(&self, type_name: &str, bytes: &[u8]) -> Result<(), Error> {
        let short = type_name.rsplit("::").next().unwrap_or(type_name);
        let Some(place) = self.requests.get(short) else { return Ok(()) };
        let mut counts = vec![0; self.lists.len()];
        self.count(*place, bytes, &mut counts)
    }

    fn count(&self, place: usize, mut bytes: &[u8], counts: &mut [usize]) -> Result<(), Error> {
        let Some(Shape(fields)) = self.messages.get(place) else { return Ok(()) };
        while !bytes.is_empty() {
            let Ok((number, wire_type)) = decode_key(&mut bytes) else { return Ok(()) };
            let field = fields.get(&number).copied();
            let mut entries = 1;
            if wire_type == WireType::LengthDelimited {
                let length = decode_varint(&mut bytes).ok().and_then(|length| usize::try_from(length).ok());
                let Some((inner, rest)) = length.and_then(|length| bytes.split_at_checked(length)) else {
                    return Ok(());
                };
                bytes = rest;
                if let Some(message) = field.and_then(|field| field.message) {
                    self.count(message, inner, counts)?;
                }
                if field.is_some_and(|field| field.is_packable) {
                    entries = inner.len();
                }
            } else if skip_field(wire_type, number, &mut bytes, DecodeContext::default()).is_err() {
                return Ok(());
            }
            let Some(list) = field.and_then(|field| field.list) else { continue };
            if let (Some(count), Some(List { name, max })) = (counts.get_mut(list), self.lists.get(list)) {
                *count += entries;
                if *count > *max {
                    return Err(Error::field(
                        name,
                        format!("has more than {max} entries in the whole request; send fewer"),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The maximum number of entries that a list may have in a whole request.
fn entries_max(message: &str, field: &str) -> usize {
    match (message.strip_prefix(PACKAGE), field) {
        (Some("PublishBatchRequest"), "messages") => PUBLISH_BATCH_MESSAGES_MAX,
        (Some("BatchMessage"), "headers") => PUBLISH_BATCH_HEADERS_MAX,
        _ => REQUEST_ENTRIES_MAX,
    }
}

fn declare<'a>(scope: &str, message: &'a DescriptorProto, declared: &mut HashMap<String, &'a DescriptorProto>) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        declare(&name, nested, declared);
    }
    declared.insert(name, message);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::Reason;

    fn check<T: Message>(request: &T) -> Result<(), Error> {
        SHAPES.check(type_name::<T>(), &request.encode_to_vec())
    }

    fn headers(count: usize) -> HashMap<String, String> {
        (0..count).map(|number| (number.to_string(), String::new())).collect()
    }

    fn batch(messages: usize, headers_each: usize) -> v1::PublishBatchRequest {
        let message = v1::BatchMessage { headers: headers(headers_each), ..Default::default() };
        v1::PublishBatchRequest { messages: vec![message; messages], ..Default::default() }
    }

    #[test]
    fn lists_and_maps_are_counted_wherever_they_are() {
        check(&batch(PUBLISH_BATCH_MESSAGES_MAX, 65)).unwrap();
        for (request, field) in [(batch(PUBLISH_BATCH_MESSAGES_MAX + 1, 0), "messages"), (batch(1000, 66), "headers")] {
            let error = check(&request).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidField);
            assert_eq!(error.violations().first().unwrap().field, field);
        }
        let publish = |count| v1::PublishRequest { headers: headers(count), ..Default::default() };
        check(&publish(1000)).unwrap();
        check(&publish(1001)).unwrap_err();
        let streamed = |count| v1::PublishStreamRequest {
            publish: Some(publish(count)),
            correlation_id: 1,
            ..v1::PublishStreamRequest::default()
        };
        check(&streamed(1000)).unwrap();
        check(&streamed(1001)).unwrap_err();
        // a message field that occurs twice is merged into one message
        let parts = [streamed(600).encode_to_vec(), streamed(600).encode_to_vec()].concat();
        SHAPES.check(type_name::<v1::PublishStreamRequest>(), &parts).unwrap_err();
        let room = v1::CreateRoomRequest { labels: headers(1001), ..Default::default() };
        check(&room).unwrap_err();
        let paths = vec![String::new(); 1001];
        let update = v1::UpdateRoomRequest { update_mask: Some(prost_types::FieldMask { paths }), room: None };
        check(&update).unwrap_err();
    }

    #[test]
    fn every_request_of_the_contract_is_known() {
        let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
        let methods = set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
        let mut found = 0;
        for method in methods {
            let name = method.input_type().strip_prefix(PACKAGE).unwrap();
            assert!(SHAPES.requests.contains_key(name), "{name}");
            found += 1;
        }
        assert!(found >= 19);
    }

    #[test]
    fn what_is_no_request_is_not_counted() {
        let answer = v1::HistoryResponse { messages: vec![v1::Message::default(); 2000], ..Default::default() };
        check(&answer).unwrap();
    }
}
