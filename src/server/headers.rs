//! Bounds the memory that the header fields of a request keep: a call may wait for long, and its fields would wait with it.

use ::http::{HeaderMap, HeaderName, HeaderValue, Request};

use crate::limits::HEADER_FIELDS_MAX;

/// The fields that the service and its libraries read.
const READ: &[&str] = &[
    "accept",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
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

/// Drops the fields that nobody reads from a request with more than [`HEADER_FIELDS_MAX`].
pub(super) fn drop_unread<B>(request: &mut Request<B>) {
    if request.headers().len() <= HEADER_FIELDS_MAX {
        return;
    }
    let headers = std::mem::take(request.headers_mut());
    let mut kept = HeaderMap::new();
    for name in READ {
        // two, so that a field that must be single is still refused
        for value in headers.get_all(*name).iter().take(2) {
            // a copy: the value itself keeps the whole header block in memory
            if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
                kept.append(HeaderName::from_static(name), copy);
            }
        }
    }
    *request.headers_mut() = kept;
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
