//! Combines small writes to a connection into one system call.
//!
//! With vectored writes, h2 writes and flushes every payload of 256 bytes or more on its own: one system call for each
//! message of each subscriber (h2 0.4, `codec/framed_write.rs`). Without vectored writes, h2 copies payloads below 1
//! KiB into a buffer, and flushes the buffer when nothing more is ready. It writes a larger payload in two steps, the
//! frame head first. So this stream keeps the head until its payload arrives.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes wait for the next write or the flush while they have at most this many bytes in total.
const GATHER_BYTES: usize = 1024;

/// A stream that gathers small writes. A flush writes everything that was gathered.
#[derive(Debug)]
pub(super) struct Coalescing<S> {
    stream: S,
    gathered: BytesMut,
}

impl<S> Coalescing<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, gathered: BytesMut::new() }
    }
}

impl<S: AsyncWrite + Unpin> Coalescing<S> {
    fn poll_write_gathered(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.gathered.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gathered.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalescing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalescing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.gathered.len() + buf.len() <= GATHER_BYTES {
            this.gathered.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        loop {
            if this.gathered.is_empty() {
                return Pin::new(&mut this.stream).poll_write(cx, buf);
            }
            let parts = [IoSlice::new(&this.gathered), IoSlice::new(buf)];
            let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &parts))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            let of_gathered = written.min(this.gathered.len());
            this.gathered.advance(of_gathered);
            if written > of_gathered {
                return Poll::Ready(Ok(written - of_gathered));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_gathered(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_gathered(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Accepts at most the next number of `takes` with each write; `0` makes the write wait once.
    #[derive(Debug, Default)]
    struct Sink {
        takes: VecDeque<usize>,
        written: Vec<u8>,
        writes: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let Some(most) = self.takes.pop_front() else {
                return self.take(bufs, usize::MAX);
            };
            if most == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.take(bufs, most)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Sink {
        fn take(&mut self, bufs: &[IoSlice<'_>], most: usize) -> Poll<io::Result<usize>> {
            let before = self.written.len();
            self.written.extend(bufs.iter().flat_map(|buf| buf.iter()).take(most));
            self.writes += 1;
            Poll::Ready(Ok(self.written.len() - before))
        }
    }

    async fn write(stream: &mut Coalescing<Sink>, parts: &[Vec<u8>]) {
        for part in parts {
            stream.write_all(part).await.unwrap();
        }
    }

    proptest! {
        #[test]
        fn every_byte_arrives_once_and_in_order(
            sizes in prop::collection::vec(0_usize..3000, 0..20),
            takes in prop::collection::vec(0_usize..2000, 0..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut bytes = (0_u8..251).cycle();
            let parts: Vec<Vec<u8>> = sizes.iter().map(|size| bytes.by_ref().take(*size).collect()).collect();
            let mut stream = Coalescing::new(Sink { takes: takes.into(), ..Sink::default() });
            runtime.block_on(async {
                write(&mut stream, &parts).await;
                stream.flush().await.unwrap();
            });
            prop_assert_eq!(&stream.stream.written, &parts.concat());
        }
    }

    #[tokio::test]
    async fn a_head_goes_out_with_what_it_belongs_to_and_small_writes_together() {
        let mut stream = Coalescing::new(Sink::default());
        write(&mut stream, &[vec![1; 9], vec![2; 16_384]]).await;
        assert_eq!(stream.stream.writes, 1);
        write(&mut stream, &[vec![1; 9], vec![2; 300], vec![1; 9], vec![2; 300]]).await;
        assert_eq!(stream.stream.writes, 1);
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.writes, 2);
        write(&mut stream, &[vec![3; 5]]).await;
        stream.shutdown().await.unwrap();
        assert_eq!((stream.stream.writes, stream.stream.written.last()), (3, Some(&3)));
    }
}
