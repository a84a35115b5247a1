//! The names of compressions in the header fields of the protocols.

use ::http::{HeaderMap, HeaderName, HeaderValue};

/// The one compression that the service supports.
const GZIP: &str = "gzip";
/// What an answer lists as supported.
pub(super) const SUPPORTED: HeaderValue = HeaderValue::from_static("gzip,identity");

/// Whether `field` says that the request is compressed with gzip. `None` for a compression that the service does not
/// support.
pub(super) fn is_gzip(headers: &HeaderMap, field: HeaderName) -> Option<bool> {
    named(headers.get(field).map(HeaderValue::as_bytes))
}

/// Whether this is the name of gzip. `None` for a compression that the service does not support.
pub(super) fn named(name: Option<&[u8]>) -> Option<bool> {
    match name {
        None | Some(b"" | b"identity") => Some(false),
        Some(name) => (name == GZIP.as_bytes()).then_some(true),
    }
}

/// Whether gzip is in the list of `field` (RFC 9110, section 12.5.3). A weight of zero excludes it.
pub(super) fn lists_gzip(headers: &HeaderMap, field: HeaderName) -> bool {
    let values = headers.get_all(field).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|entry| {
        let (name, weight) = entry.split_once(';').unwrap_or((entry, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
        name.trim() == GZIP && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// The value of a field that names gzip.
pub(super) fn gzip() -> HeaderValue {
    HeaderValue::from_static(GZIP)
}

#[cfg(test)]
mod tests {
    use ::http::header::ACCEPT_ENCODING;

    use super::*;

    #[test]
    fn gzip_is_found_in_a_list() {
        for (list, expected) in [
            ("gzip", true),
            ("gzip, deflate, br", true),
            ("br ,gzip;q=0.5", true),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; q=0.0, br", false),
            ("x-gzip", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(list))]);
            assert_eq!(lists_gzip(&headers, ACCEPT_ENCODING), expected, "{list}");
        }
        assert!(!lists_gzip(&HeaderMap::new(), ACCEPT_ENCODING));
    }
}
