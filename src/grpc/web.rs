//! The translation of prepared bodies to gRPC-Web: the trailers become the last message, and base64 is optional
//! (protocol of gRPC-Web).

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use http_body::Frame;

use super::{
    chunk::Chunk,
    framing::{PREFIX_BYTES, put_prefix},
};

/// The flag in the first byte of a prefix that marks the message as trailers.
const TRAILERS_FLAG: u8 = 0x80;
/// What base64 makes of the first bits of [`TRAILERS_FLAG`].
const TRAILERS_FIRST_CHARACTER: u8 = b'g';

/// The form of gRPC that the client uses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GrpcProtocol {
    Grpc,
    /// gRPC-Web: the trailers are the last message.
    GrpcWeb,
    /// gRPC-Web in base64.
    GrpcWebText,
}

impl GrpcProtocol {
    /// The protocol that the headers of a response name.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
        if kind.starts_with(b"application/grpc-web-text") {
            Self::GrpcWebText
        } else if kind.starts_with(b"application/grpc-web") {
            Self::GrpcWeb
        } else {
            Self::Grpc
        }
    }

    /// The trailers in these bytes of an answer; `None` when they are something else. In gRPC they are never bytes.
    pub(crate) fn trailers_in(self, bytes: &[u8]) -> Option<HeaderMap> {
        match (self, bytes.first()?) {
            (Self::GrpcWeb, &TRAILERS_FLAG) => parsed_trailers(bytes),
            (Self::GrpcWebText, &TRAILERS_FIRST_CHARACTER) => parsed_trailers(&BASE64_STANDARD.decode(bytes).ok()?),
            _ => None,
        }
    }

    /// Returns the frame as this protocol sends it.
    pub(super) fn translate(self, frame: Frame<Chunk>) -> Frame<Chunk> {
        if matches!(self, Self::Grpc) {
            return frame;
        }
        let chunk = match frame.into_data() {
            Ok(chunk) => chunk,
            Err(frame) => trailers_message(&frame.into_trailers().unwrap_or_default()).into(),
        };
        Frame::data(match self {
            Self::GrpcWebText => chunk.encoded(|bytes| BASE64_STANDARD.encode(bytes).into()),
            Self::Grpc | Self::GrpcWeb => chunk,
        })
    }
}

/// Encodes trailers as a message of gRPC-Web: as header lines of HTTP/1.
fn trailers_message(trailers: &HeaderMap) -> Bytes {
    let length = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 3).sum();
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + length);
    put_prefix(TRAILERS_FLAG, length, &mut message);
    for (name, value) in trailers {
        message.put_slice(name.as_ref());
        message.put_u8(b':');
        message.put_slice(value.as_bytes());
        message.put_slice(b"\r\n");
    }
    message.freeze()
}

/// The reverse of [`trailers_message`].
fn parsed_trailers(message: &[u8]) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    let (prefix, lines) = message.split_at_checked(PREFIX_BYTES)?;
    if *prefix.first()? != TRAILERS_FLAG {
        return None;
    }
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?.trim_ascii());
        trailers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(trailers)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Buf;

    use super::*;

    #[test]
    fn trailers_are_found_in_each_form_of_an_answer() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("5"));
        trailers.insert("grpc-message", HeaderValue::from_static("a: b"));
        for protocol in [GrpcProtocol::GrpcWeb, GrpcProtocol::GrpcWebText] {
            let sent = |frame| {
                let mut chunk = protocol.translate(frame).into_data().ok().unwrap();
                let bytes = chunk.remaining();
                chunk.copy_to_bytes(bytes)
            };
            assert_eq!(protocol.trailers_in(&sent(Frame::trailers(trailers.clone()))), Some(trailers.clone()));
            let message = [0, 0, 0, 0, 2, TRAILERS_FLAG, b'g'];
            assert_eq!(protocol.trailers_in(&sent(Frame::data(Bytes::copy_from_slice(&message).into()))), None);
            assert_eq!(protocol.trailers_in(&[]), None);
            assert_eq!(protocol.trailers_in(&[TRAILERS_FLAG, b'g', 0, 0, 0, 0]), None);
        }
        assert_eq!(GrpcProtocol::Grpc.trailers_in(&trailers_message(&trailers)), None);
    }
}
