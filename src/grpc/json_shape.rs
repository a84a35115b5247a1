//! Counts the values of a request in JSON before it is parsed, because a parsed value takes far more memory than its text.

use crate::{
    error::{Error, Reason},
    limits::{JSON_DEPTH_MAX, JSON_OBJECT_BYTES, JSON_OBJECTS_MAX, JSON_VALUE_BYTES, JSON_VALUES_MAX},
};

/// What a JSON text consists of. A text that is not JSON has a shape too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JsonShape {
    /// At least the number of values, names not counted.
    values: usize,
    /// At least the number of objects.
    objects: usize,
}

impl JsonShape {
    /// The shape of this text.
    ///
    /// # Errors
    /// `REQUEST_MALFORMED`, when the text has more values or is nested deeper than any request of the contract.
    pub(crate) fn of(json: &[u8]) -> Result<Self, Error> {
        let mut shape = Self { values: 1, objects: 0 };
        let mut depth = 0_usize;
        let mut rest = json;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'"' => rest = after_string(after),
                b'{' | b'[' => {
                    depth += 1;
                    shape.values += 1;
                    shape.objects += usize::from(*byte == b'{');
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                b',' => shape.values += 1,
                _ => {}
            }
            if depth > JSON_DEPTH_MAX {
                return Err(malformed(format!("the request is nested deeper than {JSON_DEPTH_MAX} levels")));
            }
            if shape.objects > JSON_OBJECTS_MAX || shape.values > JSON_VALUES_MAX {
                return Err(malformed(format!(
                    "the request has more than {JSON_OBJECTS_MAX} objects or {JSON_VALUES_MAX} values; send fewer"
                )));
            }
        }
        Ok(shape)
    }

    /// About the bytes of memory that the parsed values take, beside the bytes of their texts.
    pub(crate) fn cost(self) -> usize {
        self.values * JSON_VALUE_BYTES + self.objects * JSON_OBJECT_BYTES
    }
}

/// The text after a string. `text` begins after the opening quotation mark.
fn after_string(mut text: &[u8]) -> &[u8] {
    while let Some(place) = text.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let (_, at) = text.split_at(place);
        match at {
            // an escaped character
            [b'\\', _, rest @ ..] => text = rest,
            [_, rest @ ..] => return rest,
            [] => return &[],
        }
    }
    &[]
}

fn malformed(message: String) -> Error {
    Error::new(Reason::RequestMalformed, message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn counted(value: &Value) -> (usize, usize) {
        let inner: Vec<_> = match value {
            Value::Array(values) => values.iter().map(counted).collect(),
            Value::Object(entries) => entries.values().map(counted).collect(),
            _ => Vec::new(),
        };
        let (values, objects) = inner.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (values + 1, objects + usize::from(value.is_object()))
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<u32>().prop_map(Value::from),
            "[a\"\\\\{}\\[\\],:]{0,12}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("[a-c\"\\\\{,]{0,4}", inner, 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_value_is_left_out(value in any_json()) {
            let shape = JsonShape::of(value.to_string().as_bytes()).unwrap();
            let (values, objects) = counted(&value);
            prop_assert!(shape.values >= values && shape.values <= 2 * values + 1, "{shape:?} {values}");
            prop_assert_eq!(shape.objects, objects);
        }

        #[test]
        fn any_bytes_have_a_shape(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = JsonShape::of(&bytes);
        }
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_refused() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        JsonShape::of(nested(JSON_DEPTH_MAX).as_bytes()).unwrap();
        let much = |entry: &str, count: usize| format!("[{}]", vec![entry; count].join(","));
        for json in [nested(JSON_DEPTH_MAX + 1), much("0", JSON_VALUES_MAX), much("{}", JSON_OBJECTS_MAX + 1)] {
            assert_eq!(JsonShape::of(json.as_bytes()).unwrap_err().reason(), Reason::RequestMalformed);
        }
        let text = json!({ "payload": "{[,".repeat(JSON_VALUES_MAX) }).to_string();
        assert_eq!(JsonShape::of(text.as_bytes()).unwrap(), JsonShape { values: 2, objects: 1 });
    }
}
