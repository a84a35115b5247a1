//! HTTP/2 frame by frame (RFC 9113), for clients that no library would make.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const END_STREAM: u8 = 1;

const ACK: u8 = 1;
/// A GET of `/` in the static table of HPACK: method, scheme and path.
const GET_ROOT: &[u8] = &[0x82, 0x86, 0x84];
const END_STREAM_AND_HEADERS: u8 = 5;

/// A frame of this type, with these flags, on this stream.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header field that is written out, without an index (RFC 7541, section 6.2.2).
pub(crate) fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        if let Some(length) = u8::try_from(text.len()).ok().filter(|length| *length < 127) {
            field.push(length);
        } else {
            field.push(127);
            prost::encoding::encode_varint(text.len() as u64 - 127, &mut field);
        }
        field.extend(text.as_bytes());
    }
    field
}

/// A request for `/` that is complete.
pub(crate) fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM_AND_HEADERS, stream, GET_ROOT)
}

/// A connection past the settings of its client, which answers the signs of life that it is asked for.
pub(crate) struct Http2(TcpStream);

impl Http2 {
    /// Connects, and says what a client says first.
    pub(crate) async fn connect(address: std::net::SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.expect("a preface");
        Self(stream)
    }

    /// Sends bytes; `false` when the connection is closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// Reads frames until one of this type, whose payload it gives, or until the end, which is `None`. Panics after `within`.
    pub(crate) async fn until(&mut self, kind: u8, within: Duration) -> Option<Vec<u8>> {
        let found = timeout(within, async {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await.ok()?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                self.0.read_exact(&mut payload).await.ok()?;
                match (head[3], head[4]) {
                    (found, _) if found == kind => return Some(payload),
                    (SETTINGS, 0) => drop(self.send(&frame(SETTINGS, ACK, 0, &[])).await),
                    (PING, 0) => drop(self.send(&frame(PING, ACK, 0, &payload)).await),
                    _ => {}
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no frame {kind} and no end within {within:?}"))
    }
}
