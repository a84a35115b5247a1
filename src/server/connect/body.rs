//! The bodies of answers: unchanged, one message in pieces, or a stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::stream::StreamAnswer;
use crate::{
    grpc::{AnswerGuard, Chunk, JsonText},
    limits::RESPONSE_PIECE_BYTES,
};

pin_project! {
    /// The body of an answer.
    #[project = ConnectBodyProjection]
    pub(in crate::server) enum ConnectBody<B> {
        // the answer to a call of another protocol
        AsIs { #[pin] body: B },
        Whole { answer: WholeAnswer, replaced: Pin<Box<B>> },
        Stream { answer: StreamAnswer<B> },
    }
}

/// The message of a unary answer. The transport gets it in pieces, because it holds a whole piece at a time.
pub(in crate::server) struct WholeAnswer {
    rest: JsonText,
    guard: Option<AnswerGuard>,
}

impl WholeAnswer {
    pub(super) fn new(rest: JsonText, guard: Option<AnswerGuard>) -> Self {
        Self { rest, guard }
    }

    fn next_piece(&mut self) -> Option<Chunk> {
        let mut piece = Vec::with_capacity(self.rest.len().min(RESPONSE_PIECE_BYTES));
        self.rest.take(RESPONSE_PIECE_BYTES, &mut piece);
        (!piece.is_empty()).then(|| Chunk::from(Bytes::from(piece)).guarded_by(self.guard.clone()))
    }
}

impl<B: Body<Data = Chunk>> Body for ConnectBody<B> {
    type Data = Chunk;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, B::Error>>> {
        match self.project() {
            ConnectBodyProjection::AsIs { body } => body.poll_frame(cx),
            ConnectBodyProjection::Whole { answer, .. } => {
                Poll::Ready(answer.next_piece().map(|piece| Ok(Frame::data(piece))))
            }
            ConnectBodyProjection::Stream { answer } => {
                answer.poll_next(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::AsIs { body } => body.is_end_stream(),
            Self::Whole { answer, .. } => answer.rest.is_empty(),
            Self::Stream { answer } => answer.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::AsIs { body } => body.size_hint(),
            Self::Whole { answer, .. } => SizeHint::with_exact(answer.rest.len() as u64),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}
