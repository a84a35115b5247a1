//! One encoding for each message of the contract, with the fields that this program does not know.
//!
//! The entries of a map have no order in protobuf, so the same message can have several encodings.

use bytes::{Buf, Bytes};
use prost::{
    DecodeError,
    encoding::{DecodeContext, decode_key, skip_field},
};

/// The encoded message with its fields by ascending number, and the entries of the map `map_field` by their bytes.
/// Everything else keeps its order.
pub(super) fn canonical(encoded: &Bytes, map_field: u32) -> Result<Vec<u8>, DecodeError> {
    let mut fields = Vec::new();
    let mut rest = encoded.clone();
    while rest.has_remaining() {
        let field = rest.clone();
        let (number, wire_type) = decode_key(&mut rest)?;
        skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
        fields.push((number, field.slice(..field.len() - rest.len())));
    }
    fields.sort_by(|(one, one_field), (other, other_field)| {
        let by_bytes = || if *one == map_field { one_field.cmp(other_field) } else { std::cmp::Ordering::Equal };
        one.cmp(other).then_with(by_bytes)
    });
    Ok(fields.into_iter().flat_map(|(_, field)| field).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{HashMap, HashSet};

    use bytes::Bytes;
    use prost::Message as _;
    use unibus::v1::Message;

    use super::canonical;

    #[test]
    fn a_message_has_one_encoding_whatever_the_order_of_its_headers() {
        let message = || Message {
            sequence: 7,
            payload: vec![0, 255].into(),
            // each map has an order of its own
            headers: (0..50).map(|number| (number.to_string(), "value".to_owned())).collect::<HashMap<_, _>>(),
            cursor: "cursor".to_owned(),
            ..Message::default()
        };
        let encodings: HashSet<_> = (0..20).map(|_| message().encode_to_vec()).collect();
        assert!(encodings.len() > 1);
        let one: HashSet<_> =
            encodings.iter().map(|bytes| canonical(&Bytes::from(bytes.clone()), 3).unwrap()).collect();
        assert_eq!(one.len(), 1);
        assert_eq!(Message::decode(&**one.iter().next().unwrap()).unwrap(), message());
    }

    #[test]
    fn fields_of_a_later_contract_stay() {
        let mut bytes = Message { sequence: 7, ..Message::default() }.encode_to_vec();
        // field 100, twice, in an order that has a meaning
        bytes.extend([0xa2, 0x06, 1, b'z', 0xa2, 0x06, 1, b'a']);
        assert_eq!(canonical(&Bytes::from(bytes.clone()), 3).unwrap(), bytes);
        assert!(canonical(&Bytes::from_static(&[0x0a, 5, 1]), 3).is_err());
    }
}
