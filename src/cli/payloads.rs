//! The payloads that a command publishes: one, or one for each line of its input.

use std::{io, path::PathBuf, pin::Pin};

use bytes::{Bytes, BytesMut};
use tokio::{
    fs::File,
    io::{AsyncBufRead, AsyncBufReadExt, BufReader, stdin},
};

use super::{
    exit::Exit,
    failure::{CliResult, Failure},
};

/// The largest payload that is read. The service refuses smaller ones already.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of the input that are read at once.
const READ_BYTES: usize = 64 * 1024;

/// Where payloads come from.
#[derive(Debug)]
pub(super) enum PayloadSource {
    /// The command line.
    Text(Bytes),
    /// A file.
    File(PathBuf),
    /// Standard input.
    StandardInput,
}

/// The payloads, one after the other.
pub(super) struct Payloads {
    /// `None`: nothing more comes.
    input: Option<Input>,
    /// What was read of the next payload.
    begun: BytesMut,
    by_line: bool,
}

enum Input {
    Text(Bytes),
    Reader(Pin<Box<dyn AsyncBufRead + Send>>),
}

impl Payloads {
    /// Opens the source. With `by_line` each line of it is a payload, else all of it is one.
    pub(super) async fn open(source: PayloadSource, by_line: bool) -> CliResult<Self> {
        let input = match source {
            PayloadSource::Text(text) => Input::Text(text),
            PayloadSource::File(path) => {
                let file = File::open(&path).await;
                let file = file.map_err(|error| Failure::usage(format!("--file {}: {error}", path.display())))?;
                Input::Reader(Box::pin(BufReader::with_capacity(READ_BYTES, file)))
            }
            PayloadSource::StandardInput => Input::Reader(Box::pin(BufReader::with_capacity(READ_BYTES, stdin()))),
        };
        Ok(Self { input: Some(input), begun: BytesMut::new(), by_line })
    }

    /// The next payload; `None` at the end.
    ///
    /// # Cancel safety
    /// May be dropped at any point: what was read stays for the next call.
    pub(super) async fn next(&mut self) -> CliResult<Option<Bytes>> {
        loop {
            let reader = match &mut self.input {
                None => return Ok(None),
                Some(Input::Text(text)) => {
                    let text = text.clone();
                    self.input = None;
                    return Ok(Some(text));
                }
                Some(Input::Reader(reader)) => reader,
            };
            let read = reader.fill_buf().await.map_err(|error| unreadable(&error))?;
            if read.is_empty() {
                self.input = None;
                let is_whole = !self.by_line || !self.begun.is_empty();
                return Ok(is_whole.then(|| self.begun.split().freeze()));
            }
            let newline = if self.by_line { read.iter().position(|byte| *byte == b'\n') } else { None };
            let taken = newline.unwrap_or(read.len());
            self.begun.extend_from_slice(read.get(..taken).unwrap_or_default());
            reader.as_mut().consume(newline.map_or(taken, |at| at + 1));
            if self.begun.len() > PAYLOAD_BYTES_MAX {
                self.input = None;
                return Err(Failure::new(Exit::Invalid, format!("a payload is larger than {PAYLOAD_BYTES_MAX} bytes")));
            }
            if newline.is_some() {
                return Ok(Some(self.begun.split().freeze()));
            }
        }
    }
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot read the input: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{BytesMut, Input, Payloads};

    async fn all(text: &'static [u8], by_line: bool) -> Vec<Vec<u8>> {
        let mut payloads = Payloads { input: Some(Input::Reader(Box::pin(text))), begun: BytesMut::new(), by_line };
        let mut found = Vec::new();
        while let Some(payload) = payloads.next().await.unwrap() {
            found.push(payload.to_vec());
        }
        found
    }

    #[tokio::test]
    async fn lines_lose_their_newline_and_nothing_else() {
        assert_eq!(all(b"a\n\n\xff\r\nlast", true).await, [&b"a"[..], b"", b"\xff\r", b"last"]);
        assert_eq!(all(b"a\n", true).await, [b"a"]);
        assert!(all(b"", true).await.is_empty());
        assert_eq!(all(b"a\nb\n", false).await, [b"a\nb\n"]);
        assert_eq!(all(b"", false).await, [b""]);
    }
}
