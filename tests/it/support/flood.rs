//! Clients that attack, and an innocent one beside them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    Client, Process, grows_by,
    http2::{DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, literal},
    publish,
};

/// What one stranger may cost the process, whatever it does.
pub(crate) const STRANGER_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of a segment to a client that reads nothing.
const SEGMENT_BYTES: u32 = 536;

/// The frames of a call of this method without its body, with these headers beside those of gRPC.
pub(crate) fn call(stream: u32, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    .iter()
    .chain(headers)
    {
        block.extend(literal(name, value));
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// The frames of a call that is complete, with this message.
pub(crate) fn complete_call(stream: u32, path: &str, headers: &[(&str, &str)], message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    let body = [&announcing(length), message].concat();
    [call(stream, path, headers), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// The beginning of a message that announces so many bytes.
pub(crate) fn announcing(bytes: u32) -> Vec<u8> {
    [&[0][..], &bytes.to_be_bytes()].concat()
}

/// A connection of HTTP/2 that sends these bytes after its preface and reads whatever comes, until it is dropped.
pub(crate) struct Attacker(JoinHandle<()>);

impl Attacker {
    /// Sends all at once, and goes on reading.
    pub(crate) async fn send(address: SocketAddr, bytes: Vec<u8>) -> Self {
        // the windows are wide once the service has read the first, and its settings are acknowledged
        let first = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        Self::parts(address, first, [frame(SETTINGS, 1, 0, &[]), bytes].concat()).await
    }

    async fn parts(address: SocketAddr, first: Vec<u8>, then: Vec<u8>) -> Self {
        let stream = TcpStream::connect(address).await;
        let task = tokio::spawn(async move {
            let Ok(stream) = stream else { return };
            let (mut reading, mut writing) = stream.into_split();
            let write = async {
                // the service may close before it has read everything
                let _ = writing.write_all(&first).await;
                sleep(Duration::from_millis(200)).await;
                let _ = writing.write_all(&then).await;
                std::future::pending::<()>().await;
            };
            let read = async {
                let mut read = vec![0; 16 * 1024];
                while reading.read(&mut read).await.is_ok_and(|length| length > 0) {}
            };
            tokio::select! { () = write => {}, () = read => {} }
        });
        Self(task)
    }

    /// Sends all at once, and reads nothing at all.
    pub(crate) async fn deaf(address: SocketAddr, bytes: Vec<u8>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // what the kernel keeps for the client is no memory of the service: it keeps few bytes, because it sizes the buffer of
        // the service's socket by the length of segments, which the client decides
        socket.set_recv_buffer_size(2048).expect("a small buffer");
        socket2::SockRef::from(&socket).set_tcp_mss(SEGMENT_BYTES).expect("short segments");
        let stream = socket.connect(address).await;
        let task = tokio::spawn(async move {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes].concat()).await;
            std::future::pending::<()>().await;
        });
        Self(task)
    }

    /// Whether the service has ended the connection.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Publishes one message after the other.
pub(crate) struct Innocent {
    stop: CancellationToken,
    published: Arc<AtomicU64>,
    publishing: JoinHandle<(Vec<Duration>, Vec<Status>)>,
}

impl Innocent {
    /// Begins, to this room.
    pub(crate) fn publishing(client: Client, room: &'static str) -> Self {
        let stop = CancellationToken::new();
        let published = Arc::<AtomicU64>::default();
        let (stopped, count) = (stop.clone(), Arc::clone(&published));
        let publishing = tokio::spawn(async move {
            let (mut took, mut failed) = (Vec::new(), Vec::new());
            while !stopped.is_cancelled() {
                let begun = Instant::now();
                match publish(&client, room, "innocent").await {
                    Ok(_) => {
                        took.push(begun.elapsed());
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(status) => failed.push(status),
                }
                sleep(Duration::from_millis(10)).await;
            }
            (took, failed)
        });
        Self { stop, published, publishing }
    }

    /// Waits until so many more messages were published.
    pub(crate) async fn until_published(&self, more: u64) {
        grows_by(Duration::from_secs(60), &self.published, more).await;
    }

    /// Ends it: nothing failed, and nothing but few took long.
    pub(crate) async fn assert_unharmed(self) {
        self.stop.cancel();
        let ended = timeout(Duration::from_secs(10), self.publishing).await.expect("an end");
        let (mut took, failed) = ended.expect("no panic");
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed[0]);
        took.sort_unstable();
        assert!(!took.is_empty(), "nothing was published");
        // the flood and other tests use the same cores: the slowest of a few dozen publishes says little
        let (median, most) = (took[took.len() / 2], took[took.len() * 9 / 10]);
        super::note(format_args!("innocent: {} publishes, median {median:?}, p90 {most:?}", took.len()));
        assert!(median < Duration::from_millis(250), "median {median:?}");
        assert!(most < Duration::from_secs(2), "p90 {most:?}");
    }
}

/// The most memory that the process has had in use above `before`, over this time.
pub(crate) async fn growth(service: &Process, before: u64, over: Duration) -> u64 {
    let end = Instant::now() + over;
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(service.resident_bytes().saturating_sub(before));
        sleep(Duration::from_millis(50)).await;
    }
    most
}

/// Asserts that the process has not grown by more, over this time.
pub(crate) async fn assert_bounded(service: &Process, before: u64, over: Duration, max: u64) {
    let grown = growth(service, before, over).await;
    super::note(format_args!("grew by {} KiB", grown / 1024));
    assert!(grown <= max, "grew by {} KiB, more than {} KiB", grown / 1024, max / 1024);
}
