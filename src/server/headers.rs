//! Bounds the memory that the header fields of a request keep: a call may wait for long, and its fields would wait with it.

use ::http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::limits::HEADER_FIELDS_MAX;

/// The fields that the service and its libraries read.
const READ: &[&str] = &[
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "connect-accept-encoding",
    "connect-content-encoding",
    "connect-protocol-version",
    "connect-timeout-ms",
    "content-encoding",
    "content-length",
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "origin",
    "te",
    "user-agent",
    "x-grpc-web",
    "x-request-id",
    "x-user-agent",
];

/// The fields that health and reflection need. These calls have no time limit, and would keep the others in memory.
const NEEDED_BY_OPEN_CALLS: &[&str] = &["content-type", "accept", "te", "origin", "grpc-encoding", "grpc-timeout"];
/// Maximum bytes of the value of such a field.
const NEEDED_BYTES_MAX: usize = 256;

/// Drops the fields that nobody reads from a request with more than [`HEADER_FIELDS_MAX`].
pub(super) fn drop_unread<B>(request: &mut Request<B>) {
    if request.headers().len() > HEADER_FIELDS_MAX {
        // two, so that a field that must be single is still refused
        *request.headers_mut() = copies(request.headers(), READ, 2, usize::MAX);
    }
}

/// Keeps what a call of health or reflection needs.
pub(super) fn keep_needed<B>(request: &mut Request<B>) {
    *request.headers_mut() = copies(request.headers(), NEEDED_BY_OPEN_CALLS, 1, NEEDED_BYTES_MAX);
    if let Ok(copy) = request.uri().path().parse() {
        *request.uri_mut() = copy;
    }
}

/// Copies of the fields with these names, up to `values_max` values of each. A value itself keeps the whole header block in
/// memory.
fn copies(headers: &HeaderMap, names: &[&'static str], values_max: usize, bytes_max: usize) -> HeaderMap {
    let mut copies = HeaderMap::new();
    for name in names {
        for value in headers.get_all(*name).iter().take(values_max).filter(|value| value.len() <= bytes_max) {
            if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
                copies.append(HeaderName::from_static(name), copy);
            }
        }
    }
    copies
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_of_many_fields_keeps_those_that_are_read() {
        let mut request = Request::new(());
        request.headers_mut().insert("authorization", HeaderValue::from_static("a"));
        request.headers_mut().append("authorization", HeaderValue::from_static("b"));
        for number in 0..HEADER_FIELDS_MAX {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_static(""));
        }
        drop_unread(&mut request);
        let kept: Vec<_> = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(kept, [("authorization", &b"a"[..]), ("authorization", b"b")]);
    }

    #[test]
    fn a_request_of_few_fields_keeps_all() {
        let mut request = Request::new(());
        request.headers_mut().insert("x-own", HeaderValue::from_static("1"));
        drop_unread(&mut request);
        assert_eq!(request.headers().len(), 1);
    }
}
