//! The answer to a streaming call: each message with a prefix, and a last message that holds the status and the trailers.
//!
//! Messages in JSON are larger than the encoded ones, up to ten times, and not shared. So a chunk is translated in pieces, as
//! the client takes them, and the rest stays encoded.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use tonic::Status;

use super::{
    body::ConnectBody,
    call::{ConnectCall, ConnectCodec, HeadFault},
    deflate, errors,
    head::{STREAM_ACCEPT_ENCODING, STREAM_ENCODING},
};
use crate::{
    error::Error,
    grpc::{
        self, AnswerGuard, Chunk, JsonText, MessageType, ServedTypes,
        framing::{COMPRESSED_FLAG, PREFIX_BYTES, message_length, put_prefix},
    },
    limits::{COMPRESSED_MESSAGE_BYTES_MAX, RESPONSE_PIECE_BYTES},
    server::compression,
};

/// The flag in a prefix that marks the last message of a stream.
const END_FLAG: u8 = 2;

/// The body of an answer.
pub(in crate::server) struct StreamAnswer<B> {
    inner: Pin<Box<B>>,
    served: ServedTypes,
    guard: Option<AnswerGuard>,
    /// What is done with the messages; `None`: they are sent as they are.
    translation: Option<MessageTranslation>,
    /// The part of the current chunk that is not translated yet.
    rest: Bytes,
    /// The current chunk. Its last piece has its notifications.
    chunk: Option<Chunk>,
    /// The part of the current message that is not sent yet.
    writing: JsonText,
    /// The received beginning of a message.
    partial: BytesMut,
    /// The last message, before it is sent.
    end: Option<Bytes>,
    has_ended: bool,
}

/// Translates the gRPC answer to a streaming call.
pub(super) fn answer<B>(response: Response<B>, call: &ConnectCall, served: ServedTypes) -> Response<ConnectBody<B>>
where
    B: Body<Data = Chunk>,
{
    let (mut parts, body) = response.into_parts();
    let guard = parts.extensions.remove::<AnswerGuard>();
    // a status in the head means that there is no body
    let end = Status::from_header_map(&parts.headers).map(|status| last_message(&status, &HeaderMap::new(), &served));
    let of_grpc: Vec<HeaderName> =
        parts.headers.keys().filter(|name| errors::is_of_grpc(name.as_str())).cloned().collect();
    for name in of_grpc {
        parts.headers.remove(name);
    }
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(call.codec.content_type(true)));
    if call.takes_compressed {
        parts.headers.insert(STREAM_ENCODING, compression::gzip());
    }
    if call.fault == Some(HeadFault::Compression) {
        parts.headers.insert(STREAM_ACCEPT_ENCODING, compression::SUPPORTED);
    }
    let json = call.types.as_ref().filter(|_| call.codec == ConnectCodec::Json).map(|types| types.response.clone());
    let translation = (json.is_some() || call.takes_compressed)
        .then_some(MessageTranslation { json, is_compressed: call.takes_compressed });
    let answer = StreamAnswer {
        inner: Box::pin(body),
        served,
        guard,
        translation,
        rest: Bytes::new(),
        chunk: None,
        writing: JsonText::default(),
        partial: BytesMut::new(),
        end,
        has_ended: false,
    };
    Response::from_parts(parts, ConnectBody::Stream { answer })
}

/// How each message is translated.
#[derive(Clone)]
struct MessageTranslation {
    /// The type of the messages, if they are translated to JSON.
    json: Option<MessageType>,
    /// Whether messages are compressed where it pays.
    is_compressed: bool,
}

impl MessageTranslation {
    /// The message as it is sent, and the flags of its prefix.
    fn apply(&self, message: Bytes) -> Result<(JsonText, u8), Error> {
        let text = match &self.json {
            Some(json) => json.to_json(message)?,
            None => message.into(),
        };
        // a compressed message waits for its client as a whole
        let fits = self.is_compressed && text.len() <= COMPRESSED_MESSAGE_BYTES_MAX;
        Ok(match fits.then(|| deflate::gzip(&text)).flatten() {
            Some(compressed) => (compressed.into(), COMPRESSED_FLAG),
            None => (text, 0),
        })
    }
}

impl<B: Body<Data = Chunk>> StreamAnswer<B> {
    /// The next part of the body.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        loop {
            if let Some(piece) = self.piece() {
                return Poll::Ready(Some(piece));
            }
            if self.has_ended {
                return Poll::Ready(None);
            }
            if let Some(end) = self.end.take() {
                self.has_ended = true;
                return Poll::Ready(Some(Chunk::from(end).guarded_by(self.guard.clone())));
            }
            self.end = match ready!(self.inner.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) if self.translation.is_none() => return Poll::Ready(Some(chunk)),
                    Ok(chunk) => {
                        self.rest = chunk.bytes();
                        self.chunk = Some(chunk);
                        None
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let status = Status::from_header_map(&trailers).unwrap_or_else(errors::cut_off);
                        Some(last_message(&status, &trailers, &self.served))
                    }
                },
                Some(Err(_)) | None => Some(last_message(&errors::cut_off(), &HeaderMap::new(), &self.served)),
            };
        }
    }

    /// Translates messages of the current chunk, until a piece is large enough or the chunk ends.
    fn piece(&mut self) -> Option<Chunk> {
        let translation = self.translation.clone()?;
        let chunk = self.chunk.take()?;
        let mut piece = Vec::new();
        while piece.len() < RESPONSE_PIECE_BYTES {
            if !self.writing.is_empty() {
                self.writing.take(RESPONSE_PIECE_BYTES - piece.len(), &mut piece);
                continue;
            }
            let Some(message) = next_message(&mut self.rest, &mut self.partial) else { break };
            match translation.apply(message) {
                Ok((text, flags)) => {
                    put_prefix(flags, text.len(), &mut piece);
                    self.writing = text;
                }
                Err(error) => {
                    (self.rest, self.partial) = (Bytes::new(), BytesMut::new());
                    self.end = Some(last_message(&grpc::status(error), &HeaderMap::new(), &self.served));
                }
            }
        }
        if !self.rest.is_empty() || !self.writing.is_empty() {
            self.chunk = Some(chunk);
            return Some(Chunk::from(Bytes::from(piece)).guarded_by(self.guard.clone()));
        }
        // a chunk that ends within a message has no notifications
        (!piece.is_empty()).then(|| chunk.encoded(|_| piece.into()))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

/// Takes the next complete message, without its prefix. An incomplete one moves from `rest` to `partial`.
fn next_message(rest: &mut Bytes, partial: &mut BytesMut) -> Option<Bytes> {
    if partial.is_empty() {
        if let Some(length) = message_length(rest).filter(|length| rest.len() - PREFIX_BYTES >= *length) {
            let mut message = rest.split_to(PREFIX_BYTES + length);
            message.advance(PREFIX_BYTES);
            return Some(message);
        }
        partial.extend_from_slice(&std::mem::take(rest));
        return None;
    }
    loop {
        let missing = match message_length(partial) {
            Some(length) => PREFIX_BYTES + length - partial.len(),
            None => PREFIX_BYTES - partial.len(),
        };
        if missing == 0 {
            let mut message = std::mem::take(partial).freeze();
            message.advance(PREFIX_BYTES);
            return Some(message);
        }
        if rest.is_empty() {
            return None;
        }
        partial.extend_from_slice(&rest.split_to(missing.min(rest.len())));
    }
}

fn last_message(status: &Status, trailers: &HeaderMap, served: &ServedTypes) -> Bytes {
    let end = errors::end_of_stream(status, trailers, served);
    let mut message = BytesMut::with_capacity(PREFIX_BYTES + end.len());
    put_prefix(END_FLAG, end.len(), &mut message);
    message.put_slice(&end);
    message.freeze()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_are_found_wherever_the_chunks_are_cut(
            lengths in prop::collection::vec(0_usize..300, 0..20),
            cuts in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let framed = lengths.iter().flat_map(|length| {
                let prefix = u32::try_from(*length).unwrap().to_be_bytes();
                [&[0][..], &prefix, &vec![7; *length]].concat()
            });
            let mut bytes: Bytes = framed.collect();
            let (mut partial, mut found) = (BytesMut::new(), Vec::new());
            for cut in cuts.iter().cycle() {
                if bytes.is_empty() {
                    break;
                }
                let mut rest = bytes.split_to((*cut).min(bytes.len()));
                while let Some(message) = next_message(&mut rest, &mut partial) {
                    found.push(message.len());
                }
                prop_assert!(rest.is_empty());
            }
            prop_assert_eq!(found, lengths);
            prop_assert!(partial.is_empty());
        }
    }
}
