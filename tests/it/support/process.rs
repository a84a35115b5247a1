//! The service as users run it: the binary, in a process that can be killed.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Client, Nats, eventually, nats::nats_server_binary, unibus::connect};

/// How long the process may take to listen: generous, for machines that are busy with other tests.
const START_WAIT: Duration = Duration::from_secs(60);

/// A running `unibus`. Killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<Vec<String>>>,
    address: Option<SocketAddr>,
    admin_address: Option<SocketAddr>,
    _data_dir: Option<TempDir>,
}

impl Process {
    /// The service in front of this nats-server, with a short heartbeat; ready when this returns.
    pub(crate) async fn start(nats: &Nats) -> Self {
        Self::start_with(nats, &["--heartbeat-interval=1s"], None).await
    }

    /// The service in front of this nats-server with these arguments, logging what `RUST_LOG` is then set to.
    pub(crate) async fn start_with(nats: &Nats, args: &[&str], rust_log: Option<&str>) -> Self {
        let data_dir = TempDir::new().expect("a temporary directory");
        let data_dir_flag = format!("--data-dir={}", data_dir.path().display());
        let url = format!("--nats-url={}", nats.url());
        let args = [&[&*url, &data_dir_flag], args].concat();
        let mut process = Self::run(&args, Some(data_dir), rust_log);
        process.ready().await;
        process
    }

    /// Runs the binary on free ports with JSON logs and these arguments; not ready yet, see [`Self::ready`].
    pub(crate) fn spawn(args: &[&str]) -> Self {
        Self::run(args, None, None)
    }

    /// As [`Self::spawn`], logging what `RUST_LOG` is then set to.
    pub(crate) fn spawn_logging(args: &[&str], rust_log: &str) -> Self {
        Self::run(args, None, Some(rust_log))
    }

    fn run(args: &[&str], data_dir: Option<TempDir>, rust_log: Option<&str>) -> Self {
        let mut command = program();
        // a command comes before its flags
        command.args(args.iter().find(|arg| **arg == "serve"));
        if let Some(filter) = rust_log {
            command.env("RUST_LOG", filter);
        }
        if !args.iter().any(|arg| arg.starts_with("--log-format")) {
            command.args(["--log-format", "json"]);
        }
        let args = args.iter().filter(|arg| **arg != "serve");
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(args)
            .env("UNIBUS_NATS_SERVER", nats_server_binary())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("a pipe");
        let sink = Arc::clone(&lines);
        // Ends with the pipe, that is with the process.
        thread::spawn(move || collect(stdout, &sink));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("a pipe");
        let sink = Arc::clone(&errors);
        thread::spawn(move || collect(stderr, &sink));
        Self { child, lines, errors, address: None, admin_address: None, _data_dir: data_dir }
    }

    /// Waits until the process says that it listens.
    pub(crate) async fn ready(&mut self) {
        let (address, admin_address) = eventually(START_WAIT, async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("ended with {status}: {:?} {:?}", self.stdout(), self.stderr());
            }
            let lines = self.stdout();
            let listening = lines.iter().find_map(|line| listening(line));
            listening.ok_or_else(|| format!("not listening: {lines:?}"))
        })
        .await;
        self.address = Some(address);
        self.admin_address = admin_address;
    }

    /// Where it serves gRPC and the HTTP history.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.expect("ready() was awaited")
    }

    /// Where it serves metrics and probes.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin_address.expect("an admin address was logged")
    }

    /// A client with a connection of its own.
    pub(crate) async fn client(&self) -> Client {
        connect(self.address()).await
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The lines that the process has written so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.lines.lock().expect("no panic while held").clone()
    }

    /// The lines of its standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.errors.lock().expect("no panic while held").clone()
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill9(&mut self) {
        // It may have ended by itself: then there is nothing to kill, and waiting still reaps it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the process to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("a running process");
    }

    /// Asks the process to end as Ctrl-C does (SIGINT).
    pub(crate) fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("a running process");
    }

    /// Asks the process to read its configuration again (SIGHUP).
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("a running process");
    }

    /// Bytes of memory that the process has in use now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("VmRSS in kB") * 1024
    }

    /// How the process ended; panics when it is still running after `timeout`.
    pub(crate) async fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually(timeout, async || {
            let ended = child.try_wait().expect("a child of this process");
            ended.ok_or_else(|| String::from("the process is still running"))
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The binary. Where the tests ignore SIGHUP, as under nohup, it does not inherit that.
fn program() -> Command {
    let binary = env!("CARGO_BIN_EXE_unibus");
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    if ignored & 1 == 0 {
        return Command::new(binary);
    }
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", binary]);
    command
}

fn collect(output: impl Read, sink: &Mutex<Vec<String>>) {
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        sink.lock().expect("no panic while held").push(line);
    }
}

/// The addresses in the log line that says that the service listens.
fn listening(line: &str) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let Ok(line) = serde_json::from_str::<Value>(line) else { return listening_in_text(line) };
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")? != "listening" {
        return None;
    }
    let address = |name: &str| fields.get(name)?.as_str()?.parse().ok();
    Some((address("address")?, address("admin_address")))
}

/// The same in a line for people.
fn listening_in_text(line: &str) -> Option<(SocketAddr, Option<SocketAddr>)> {
    let (_, rest) = line.split_once(": listening ")?;
    let value = |name: &str| rest.split_whitespace().find_map(|field| field.strip_prefix(name)?.parse().ok());
    Some((value("address=")?, value("admin_address=")))
}
