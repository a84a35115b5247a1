//! The commands of the program, as a shell runs them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{Terminal, eventually};

/// How long a command may take: generous, for machines that are busy with other tests.
const COMMAND_WAIT: Duration = Duration::from_secs(60);

/// A shell of a user without any configuration, whose commands call one service.
pub(crate) struct Cli {
    variables: Vec<(String, String)>,
    home: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Cli {
    /// Commands call the service at this address, without TLS and credentials.
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self::bare().with("UNIBUS_SERVER", &format!("http://{address}"))
    }

    /// Commands know no service.
    pub(crate) fn bare() -> Self {
        Self { variables: Vec::new(), home: TempDir::new().expect("a temporary directory") }
    }

    /// The same, with this variable in the environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in the home directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file in the home directory.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(&path, content).expect("a file");
        path
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unibus"));
        command.env_clear().env("HOME", self.home.path()).env("TZ", "UTC").current_dir(self.home.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(args).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command with empty standard input to its end.
    pub(crate) async fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, b"").await
    }

    /// Runs a command with this standard input to its end.
    pub(crate) async fn run_with(&self, args: &[&str], input: &[u8]) -> Done {
        let mut child = self.command(args).spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let run = async {
            let feed = async {
                // a command that fails early does not read its input
                let _ = stdin.write_all(input).await;
                drop(stdin);
            };
            let ((), output) = tokio::join!(feed, child.wait_with_output());
            output.expect("an output")
        };
        let output = timeout(COMMAND_WAIT, run).await.unwrap_or_else(|_| panic!("{args:?} did not end"));
        let stderr = String::from_utf8(output.stderr).expect("text");
        Done { status: output.status.code(), stdout: output.stdout, stderr }
    }

    /// Runs a command that must succeed, and gives its standard output.
    #[track_caller]
    pub(crate) fn ok<'a>(&'a self, args: &'a [&'a str]) -> impl Future<Output = String> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let done = self.run(args).await;
            assert_eq!(done.status, Some(0), "{caller}: {args:?}: {done:?}");
            done.text()
        }
    }

    /// Runs a command with `--json` that must succeed, and gives the lines of its output.
    #[track_caller]
    pub(crate) fn json<'a>(&'a self, args: &'a [&'a str]) -> impl Future<Output = Vec<Value>> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let args = [args, &["--json"]].concat();
            let done = self.run(&args).await;
            assert_eq!(done.status, Some(0), "{caller}: {args:?}: {done:?}");
            done.json()
        }
    }

    /// Starts a command that goes on.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut child = self.command(args).spawn().expect("the binary starts");
        let stdin = child.stdin.take();
        let lines = |pipe: Box<dyn AsyncRead + Send + Unpin>| {
            let kept = Arc::new(Mutex::new(Vec::new()));
            let sink = Arc::clone(&kept);
            let reading = tokio::spawn(async move {
                let mut lines = BufReader::new(pipe).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    sink.lock().expect("no panic while held").push(line);
                }
            });
            (kept, AbortOnDropHandle::new(reading))
        };
        let (stdout, reading_stdout) = lines(Box::new(child.stdout.take().expect("a pipe")));
        let (stderr, reading_stderr) = lines(Box::new(child.stderr.take().expect("a pipe")));
        Running { child, stdin, stdout, stderr, reading: [reading_stdout, reading_stderr] }
    }

    /// Starts a command on a terminal of this size.
    pub(crate) fn on_terminal(&self, args: &[&str], lines: u16, columns: u16) -> Terminal {
        Terminal::run(&self.command(args), lines, columns)
    }

    /// The home directory.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }
}

impl Done {
    /// The output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).expect("text")
    }

    /// The lines of the output, each of which is an object.
    pub(crate) fn json(&self) -> Vec<Value> {
        objects(&self.text())
    }

    /// The failure that a command with `--json` reports.
    pub(crate) fn error(&self) -> Value {
        let reported = objects(&self.stderr);
        let errors = reported.into_iter().find_map(|object| object.get("error").cloned());
        errors.unwrap_or_else(|| panic!("no error: {self:?}"))
    }
}

fn objects(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).collect()
}

/// A command that runs. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<Vec<String>>>,
    reading: [AbortOnDropHandle<()>; 2],
}

impl Running {
    /// The lines of standard output so far.
    pub(crate) fn stdout(&self) -> Vec<String> {
        self.stdout.lock().expect("no panic while held").clone()
    }

    /// The lines of standard error so far.
    pub(crate) fn stderr(&self) -> Vec<String> {
        self.stderr.lock().expect("no panic while held").clone()
    }

    /// Waits until the output has this number of lines.
    pub(crate) async fn prints(&self, lines: usize) -> Vec<String> {
        eventually(COMMAND_WAIT, async || {
            let printed = self.stdout();
            if printed.len() >= lines { Ok(printed) } else { Err(format!("{printed:?} {:?}", self.stderr())) }
        })
        .await
    }

    /// Waits until a line of standard error has this text.
    pub(crate) async fn remarks(&self, text: &str) {
        eventually(COMMAND_WAIT, async || {
            let lines = self.stderr();
            if lines.iter().any(|line| line.contains(text)) { Ok(()) } else { Err(format!("{lines:?}")) }
        })
        .await;
    }

    /// Writes to standard input.
    pub(crate) async fn feed(&mut self, input: &[u8]) {
        let stdin = self.stdin.as_mut().expect("an open input");
        stdin.write_all(input).await.expect("the command reads");
        stdin.flush().await.expect("the command reads");
    }

    /// Ends standard input.
    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("a running command");
        kill_process(pid, signal).expect("a running command");
    }

    /// Waits for the end, and returns the status with all output.
    pub(crate) async fn ends(mut self) -> Done {
        let status: ExitStatus = timeout(COMMAND_WAIT, self.child.wait()).await.expect("an end").expect("a status");
        for reading in self.reading {
            reading.await.expect("the output");
        }
        let text = |lines: &Mutex<Vec<String>>| {
            let lines = lines.lock().expect("no panic while held");
            lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect::<String>()
        };
        let (stdout, stderr) = (text(&self.stdout), text(&self.stderr));
        Done { status: status.code(), stdout: stdout.into_bytes(), stderr }
    }
}
