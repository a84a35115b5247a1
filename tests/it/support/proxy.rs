//! A TCP proxy that does to its connections what networks do.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way in one direction: what a network holds.
const CHUNKS_MAX: usize = 64;
/// A slow connection passes its bytes on this often.
const SLOW_TICK: Duration = Duration::from_millis(20);

/// What happens to every connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Bytes pass at once.
    Pass,
    /// Bytes pass in each direction after this long.
    Delay(Duration),
    /// So many bytes pass in each direction in a second.
    Slow(u64),
    /// No byte passes, and none is lost: they go on in another mode.
    Freeze,
    /// New connections are accepted; every byte is taken and thrown away, and so is the end of a connection. What was open
    /// meanwhile is reset when the mode ends.
    BlackHole,
    /// Every connection is reset.
    Down,
}

/// One way through a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// From who connected to the target.
    In,
    /// From the target.
    Out,
}

/// A proxy on a free loopback port. Its connections end with it.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: AbortOnDropHandle<()>,
}

struct Shared {
    target: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    /// What befalls the connections that are open when it is sent.
    blow: watch::Sender<Blow>,
    accepted: AtomicU64,
}

/// What befalls connections that are open, and no later ones.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Cut,
    CutAfter(Way, u64),
    Swallow,
}

impl Proxy {
    /// A proxy that passes everything on to `target`.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            mode: watch::Sender::new(Mode::Pass),
            blow: watch::Sender::new(Blow::Cut),
            accepted: AtomicU64::new(0),
        });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, Arc::clone(&shared))));
        Self { address, shared, _accepting: accepting }
    }

    /// What connects to the target through this proxy.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same for a NATS client.
    pub(crate) fn nats_url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Connections are treated like this from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    /// Later connections go to this target.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().expect("no panic while held") = target;
    }

    /// Resets the connections that are open.
    pub(crate) fn cut(&self) {
        self.shared.blow.send_replace(Blow::Cut);
    }

    /// Resets each connection that is open when it has passed so many more bytes, wherever in a message that is.
    pub(crate) fn cut_after(&self, way: Way, bytes: u64) {
        self.shared.blow.send_replace(Blow::CutAfter(way, bytes));
    }

    /// Throws away all that comes from now on over the connections that are open, for as long as they are.
    pub(crate) fn swallow(&self) {
        self.shared.blow.send_replace(Blow::Swallow);
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a connection");
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(carry(client, Arc::clone(&shared)));
            }
            Some(ended) = connections.join_next() => ended.expect("no panic in the proxy"),
        }
    }
}

/// Carries one connection to its end.
async fn carry(mut client: TcpStream, shared: Arc<Shared>) {
    let (mut mode, mut blow) = (shared.mode.subscribe(), shared.blow.subscribe());
    if *mode.borrow_and_update() == Mode::BlackHole {
        let swallowed = async {
            while matches!(client.read(&mut [0; 1024]).await, Ok(1..)) {}
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = swallowed => {}
            _ = mode.changed() => {}
        }
        return reset(&client);
    }
    let target = *shared.target.lock().expect("no panic while held");
    let Ok(Ok(mut server)) = timeout(Duration::from_secs(5), TcpStream::connect(target)).await else {
        return reset(&client);
    };
    // What is small goes at once: the proxy adds no delay that it was not asked for.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let fate = watch::Sender::new(Fate::default());
    let was_reset = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let ways = async {
            tokio::try_join!(
                pass(from_client, to_server, Way::In, shared.mode.subscribe(), fate.subscribe()),
                pass(from_server, to_client, Way::Out, shared.mode.subscribe(), fate.subscribe()),
            )
        };
        let fated = async {
            loop {
                tokio::select! {
                    _ = mode.changed() => match *mode.borrow_and_update() {
                        Mode::Down => return,
                        Mode::BlackHole => fate.send_modify(|fate| fate.holed = true),
                        _ if fate.borrow().holed => return,
                        _ => {}
                    },
                    _ = blow.changed() => match *blow.borrow_and_update() {
                        Blow::Cut => return,
                        Blow::CutAfter(way, bytes) => fate.send_modify(|fate| fate.cut = Some((way, bytes))),
                        Blow::Swallow => fate.send_modify(|fate| fate.swallows = true),
                    },
                }
            }
        };
        if *shared.mode.borrow() == Mode::Down {
            true
        } else {
            tokio::select! {
                ended = ways => ended.is_err(),
                () = fated => true,
            }
        }
    };
    if was_reset {
        reset(&client);
        reset(&server);
    }
}

/// What is decided about one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    cut: Option<(Way, u64)>,
    /// Bytes were lost in a black hole.
    holed: bool,
    swallows: bool,
}

struct Cut;

/// Passes bytes on in one direction, to the end of it.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mode: watch::Receiver<Mode>,
    fate: watch::Receiver<Fate>,
) -> Result<(), Cut> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    let swallows = || fate.borrow().swallows || fate.borrow().holed;
    let (mut reading_mode, mut writing_mode) = (mode.clone(), mode.clone());
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            reading_mode.wait_for(|mode| *mode != Mode::Freeze).await.map_err(|_| Cut)?;
            let count = from.read(&mut buffer).await.map_err(|_| Cut)?;
            if swallows() {
                if count == 0 {
                    std::future::pending::<()>().await;
                }
                continue;
            }
            if count == 0 {
                return Ok(());
            }
            let delay = match *reading_mode.borrow() {
                Mode::Delay(delay) => delay,
                _ => Duration::ZERO,
            };
            let chunk = (Instant::now() + delay, Bytes::copy_from_slice(&buffer[..count]));
            sender.send(chunk).await.map_err(|_| Cut)?;
        }
    };
    let write = async {
        let mut budget: Option<u64> = None;
        while let Some((due, mut chunk)) = chunks.recv().await {
            sleep_until(due).await;
            while !chunk.is_empty() {
                let mode = *writing_mode.wait_for(|mode| *mode != Mode::Freeze).await.map_err(|_| Cut)?;
                if swallows() {
                    break;
                }
                let mut size = chunk.len();
                if let Mode::Slow(bytes_per_second) = mode {
                    sleep(SLOW_TICK).await;
                    let ticks = u64::try_from(Duration::from_secs(1).as_millis() / SLOW_TICK.as_millis());
                    let share = (bytes_per_second / ticks.expect("a small number")).max(1);
                    size = size.min(usize::try_from(share).expect("a small number"));
                }
                if let Some((cut_way, bytes)) = fate.borrow().cut
                    && std::mem::discriminant(&cut_way) == std::mem::discriminant(&way)
                {
                    budget.get_or_insert(bytes);
                }
                if let Some(left) = &mut budget {
                    size = size.min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= size as u64;
                }
                to.write_all(&chunk.split_to(size)).await.map_err(|_| Cut)?;
                if budget == Some(0) {
                    return Err(Cut);
                }
            }
        }
        to.shutdown().await.map_err(|_| Cut)
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Ends a connection when it is dropped with a reset instead of a FIN.
fn reset(connection: &TcpStream) {
    // It may have ended by itself.
    let _ = connection.set_zero_linger();
}
