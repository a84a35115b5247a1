//! The response to History. A page from the ring is put together from encoded messages, without decoding them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::Message;
use tonic::{Response, Status};

use super::{
    chunk::Chunk,
    convert,
    frames::trailers,
    framing::{PREFIX_BYTES, put_prefix},
    prepared::PreparedBody,
};
use crate::{
    delivery::Slice, domain::RoomId, limits::RESPONSE_PIECE_BYTES, rooms::history::HistoryPage,
    subscriptions::reads::ReadPlace, v1,
};

/// The key of `HistoryResponse.messages`: field 1, length-delimited (protocol buffers, "Message Structure").
const MESSAGES_KEY: u8 = 1 << 3 | 2;
/// The bytes of an encoded message before its length: the prefix and the key of `SubscribeResponse.message`.
const BEFORE_LENGTH_BYTES: usize = PREFIX_BYTES + 1;

/// The response with this page. The response holds `place` until the client has taken the page.
pub(super) fn respond(page: HistoryPage, room: &RoomId, place: Option<ReadPlace>) -> Response<v1::HistoryResponse> {
    let (page, slices) = match page {
        HistoryPage::Stored(page) => {
            let mut response = Response::new(convert::page(page, room));
            if let Some(place) = place {
                response.extensions_mut().insert(place);
            }
            return response;
        }
        HistoryPage::Encoded { page, slices } => (page, slices),
    };
    let rest = encoded(&slices, &convert::page(page, room));
    let body = PageBody { rest, trailers: Some(trailers(&Status::ok(""))), _place: place };
    let mut response = Response::new(v1::HistoryResponse::default());
    response.extensions_mut().insert(PreparedBody::new(body));
    response
}

/// The gRPC message that consists of the messages in `slices` and the fields of `page`, which has no messages.
fn encoded(slices: &[Slice], page: &v1::HistoryResponse) -> Bytes {
    let entries = || slices.iter().flat_map(Slice::encoded).filter_map(|message| message.get(BEFORE_LENGTH_BYTES..));
    let length = entries().map(|entry| 1 + entry.len()).sum::<usize>() + page.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    put_prefix(0, length, &mut bytes);
    for entry in entries() {
        bytes.put_u8(MESSAGES_KEY);
        bytes.put_slice(entry);
    }
    page.encode_raw(&mut bytes);
    bytes.freeze()
}

/// Sends the page in pieces, as `server::pieces` does with other pages: the transport holds a whole piece at a time. The
/// part that the client has not taken stays here, together with the place.
struct PageBody {
    rest: Bytes,
    trailers: Option<HeaderMap>,
    _place: Option<ReadPlace>,
}

impl Body for PageBody {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let piece = self.rest.len().min(RESPONSE_PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece).into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;
    use crate::{
        delivery::{BatchBuilder, Sizes},
        domain,
        grpc::encode_message,
    };

    #[test]
    fn encoded_messages_become_the_page_that_the_contract_encodes() {
        // Goal: the page of encoded messages is the page of the messages. Method: messages of every size of a length prefix,
        // some without content, through both ways; what a client decodes is the same.
        let room = RoomId::parse("room_id", "lobby").unwrap();
        let messages: Vec<domain::Message> = [0, 1, 100, 200, 20_000, 3_000_000]
            .into_iter()
            .zip(1..)
            .map(|(bytes, sequence)| domain::Message {
                sequence,
                payload: vec![7; bytes].into(),
                headers: domain::Headers::from_stored([("a", "1"), ("b", "")].into_iter().take(bytes % 3)),
                published_at: SystemTime::UNIX_EPOCH,
                message_id: "id".repeat(bytes % 2),
                sender: "eve".repeat(bytes % 2),
            })
            .collect();
        let mut batch = BatchBuilder::default();
        for message in &messages {
            let encode = |into: &mut BytesMut| encode_message(&room, Some(5), message.clone(), into);
            batch.message(message.sequence, 1, Sizes::default(), encode);
        }
        let batch = batch.finish().unwrap();
        let state =
            domain::RoomState { first_sequence: 1, last_sequence: 9, messages: 9, bytes: 9, epoch: 5, oldest: 5 };
        let page = domain::Page {
            messages,
            has_older: true,
            has_newer: true,
            older_than: 1,
            newer_than: 6,
            state: Some(state),
        };
        let expected = convert::page(page, &room);
        let rest = v1::HistoryResponse { messages: Vec::new(), ..expected.clone() };
        let bytes = encoded(&[Slice::new(&batch, 0..2), Slice::new(&batch, 2..6)], &rest);
        let (prefix, message) = bytes.split_at(PREFIX_BYTES);
        assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
        assert_eq!(v1::HistoryResponse::decode(message).unwrap(), expected);
    }
}
