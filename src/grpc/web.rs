//! The translation of prepared bodies to gRPC-Web: the trailers become the last message, and base64 is optional
//! (protocol of gRPC-Web).

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::Frame;

use super::{
    chunk::Chunk,
    framing::{PREFIX_BYTES, put_prefix},
};

/// The flag in the first byte of a prefix that marks the message as trailers.
const TRAILERS_FLAG: u8 = 0x80;

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
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).map_or(&[][..], |kind| kind.as_bytes());
        if kind.starts_with(b"application/grpc-web-text") {
            Self::GrpcWebText
        } else if kind.starts_with(b"application/grpc-web") {
            Self::GrpcWeb
        } else {
            Self::Grpc
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
