//! The processes besides the load generator: nats-server, the service, and the bare tonic server. Dropping one kills
//! its process and deletes its data.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time;

use crate::native;

const START_WAIT: Duration = Duration::from_secs(30);

/// When nats-server syncs its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Every two minutes, which is the default of nats-server.
    Interval,
    /// Before each acknowledgement.
    Always,
}

/// The three processes for a row.
pub(crate) struct Stand {
    // in the order in which they are to end
    pub service: Service,
    pub baseline: Baseline,
    pub nats: Nats,
}

impl Stand {
    pub(crate) async fn start(disk: Disk) -> Result<Self> {
        let nats = Nats::start(disk).await?;
        let service = Service::with_nats(&nats).await?;
        Ok(Self { service, baseline: Baseline::start().await?, nats })
    }

    /// The processes that a call of the service uses.
    pub(crate) fn ours(&self) -> [(&'static str, u32); 2] {
        [("service", self.service.id()), ("nats", self.nats.id())]
    }

    /// The process that a direct call of NATS uses.
    pub(crate) fn direct(&self) -> [(&'static str, u32); 1] {
        [("nats", self.nats.id())]
    }

    /// The process that a call of the bare tonic server uses.
    pub(crate) fn bare(&self) -> [(&'static str, u32); 1] {
        [("bare", self.baseline.id())]
    }
}

/// A nats-server on loopback with an empty store.
pub(crate) struct Nats {
    process: Process,
    url: String,
    disk: Disk,
    _dir: TempDir,
}

impl Nats {
    pub(crate) async fn start(disk: Disk) -> Result<Self> {
        let dir = directory()?;
        let path = dir.path();
        let always = if disk == Disk::Always { "sync_interval: always" } else { "" };
        let config = format!(
            "server_name: \"unibus-bench\"\nlisten: \"127.0.0.1:-1\"\nports_file_dir: \"{dir}\"\n\
             log_file: \"{dir}/nats.log\"\njetstream {{\n  store_dir: \"{dir}/store\"\n  max_mem: 1GB\n  max_file: 64GB\n  {always}\n  \
             limits {{ default_max_consumers: 1000000 }}\n}}\n",
            dir = path.display(),
        );
        let file = path.join("nats.conf");
        fs::write(&file, config)?;
        let mut command = Command::new(nats_server()?);
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process(command.spawn().context("nats-server does not start")?);
        let ports = path.join(format!("nats-server_{}.ports", process.id()));
        let url = eventually("nats-server", || {
            if let Some(status) = process.0.try_wait()? {
                bail!("nats-server ended with {status}: {}", fs::read_to_string(path.join("nats.log"))?);
            }
            let ports: Option<Value> = fs::read(&ports).ok().and_then(|ports| serde_json::from_slice(&ports).ok());
            Ok(ports.and_then(|ports| Some(ports.get("nats")?.get(0)?.as_str()?.to_owned())))
        })
        .await?;
        let nats = Self { process, url, disk, _dir: dir };
        native::connect(&nats).await?.query_account().await.context("JetStream")?;
        Ok(nats)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// The service: the binary of this package, built with the profile of the benchmark.
pub(crate) struct Service {
    process: Process,
    url: String,
    _data_dir: Option<TempDir>,
}

impl Service {
    /// Starts the service with this nats-server, and with its `--nats-sync`: with a server that syncs every write, the
    /// service commits in groups.
    pub(crate) async fn with_nats(nats: &Nats) -> Result<Self> {
        Self::with_flags(nats, &[]).await
    }

    /// As [`Self::with_nats`], with further flags.
    pub(crate) async fn with_flags(nats: &Nats, flags: &[&str]) -> Result<Self> {
        let sync = match nats.disk {
            Disk::Interval => "interval",
            Disk::Always => "always",
        };
        Self::run(&[&["--nats-url", nats.url(), "--nats-sync", sync], flags].concat(), None).await
    }

    /// Starts the service with its embedded nats-server, on an empty directory.
    pub(crate) async fn embedded() -> Result<Self> {
        let dir = directory()?;
        let path = dir.path().to_str().context("a path in UTF-8")?.to_owned();
        Self::run(&["--data-dir", &path], Some(dir)).await
    }

    async fn run(args: &[&str], data_dir: Option<TempDir>) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unibus"));
        command
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
            .args(args)
            .env("RUST_LOG", "info,async_nats=warn")
            .env("UNIBUS_NATS_SERVER", nats_server()?);
        let (process, address) = listening(command, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = line.get("fields")?;
            (fields.get("message")? == "listening").then_some(fields.get("address")?.as_str()?.to_owned())
        })
        .await?;
        Ok(Self { process, url: format!("http://{address}"), _data_dir: data_dir })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Stops the service with a signal, so that its embedded nats-server ends too.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.process.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        eventually("the end of the service", || Ok(self.process.0.try_wait()?.map(drop))).await
    }
}

/// The bare tonic server of `baseline.rs`: this program, started with another flag.
pub(crate) struct Baseline {
    process: Process,
    url: String,
}

impl Baseline {
    pub(crate) async fn start() -> Result<Self> {
        Self::run(&[]).await
    }

    /// Starts a bare server that also broadcasts the messages of this subject.
    pub(crate) async fn fed(nats: &Nats, subject: &str) -> Result<Self> {
        Self::run(&["--feed-from", nats.url(), "--feed-subject", subject]).await
    }

    async fn run(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--serve-baseline").args(args);
        let (process, address) = listening(command, |line| line.strip_prefix("listening ").map(str::to_owned)).await?;
        Ok(Self { process, url: format!("http://{address}") })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

/// Killed when dropped.
struct Process(Child);

impl Process {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program until one of its lines says where it listens. Its standard input stays open as long as this process
/// lives; its output is read to the end, so that it never waits for a reader.
async fn listening(mut command: Command, find: impl Fn(&str) -> Option<String>) -> Result<(Process, String)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("a pipe")?;
    let mut process = Process(child);
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let sink = Arc::clone(&lines);
    // ends with the pipe, that is with the process
    thread::spawn(move || collect(output, &sink));
    let address = eventually("a server", || {
        let lines = lines.lock().map(|lines| lines.clone()).unwrap_or_default();
        if let Some(status) = process.0.try_wait()? {
            bail!("a server ended with {status}: {lines:?}");
        }
        Ok(lines.iter().find_map(|line| find(line)))
    })
    .await?;
    Ok((process, address))
}

fn collect(output: impl Read, sink: &Mutex<Vec<String>>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Ok(mut lines) = sink.lock()
            && lines.len() < 100
        {
            lines.push(line);
        }
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + START_WAIT;
    while Instant::now() < end {
        if let Some(found) = look()? {
            return Ok(found);
        }
        time::sleep(Duration::from_millis(2)).await;
    }
    bail!("{what}: not within {START_WAIT:?}")
}

/// A temporary directory on the disk of the build. It is not in memory, because rows measure syncing.
fn directory() -> Result<TempDir> {
    Ok(TempDir::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")))?)
}

fn nats_server() -> Result<PathBuf> {
    let named = env::var_os("UNIBUS_NATS_SERVER");
    named.map(PathBuf::from).context("UNIBUS_NATS_SERVER names no nats-server; `cargo bench` sets it")
}
