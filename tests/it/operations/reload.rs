//! SIGHUP: the configuration file is read again, and what may change changes.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use tonic::Code;
use unibus::v1::DeleteRoomRequest;

use crate::support::{
    Client, Credentials, Frames, Issuer, Nats, Process, assert_status, connect_with, create_room, eventually,
    free_port, publish, reason, subscription,
};

/// How long anything may take.
const SOON: Duration = Duration::from_secs(20);

/// A running service with a configuration file.
struct Configured {
    process: Process,
    nats: Nats,
    dir: TempDir,
}

impl Configured {
    async fn start(text: &str, args: &[&str]) -> Self {
        let (nats, dir) = (Nats::start().await, TempDir::new().expect("a temporary directory"));
        write(&dir, text);
        let config = format!("--config={}", path(&dir).display());
        let process = Process::start_with(&nats, &[&[&*config], args].concat(), None).await;
        Self { process, nats, dir }
    }

    /// Writes another file, sends SIGHUP, and waits until the service says how it went.
    async fn reload(&self, text: &str) -> bool {
        let before = self.outcomes().len();
        write(&self.dir, text);
        self.process.hang_up();
        eventually(SOON, async || {
            let outcomes = self.outcomes();
            outcomes.get(before).copied().ok_or_else(|| format!("not read again: {:?}", self.process.stdout()))
        })
        .await
    }

    /// For each SIGHUP, whether the configuration was used.
    fn outcomes(&self) -> Vec<bool> {
        let lines = self.lines();
        let about = lines
            .iter()
            .filter(|line| line["fields"]["message"].as_str().is_some_and(|text| text.starts_with("SIGHUP")));
        about.map(|line| line["level"] == "INFO").collect()
    }

    fn lines(&self) -> Vec<Value> {
        self.process.stdout().iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The changes that the log tells: the flag, the old and the new value, and whether it needs a restart.
    fn changes(&self) -> Vec<(String, String, String, bool)> {
        let changed = |line: &Value| {
            let field = |name: &str| line["fields"][name].as_str().map(str::to_owned);
            Some((field("flag")?, field("old")?, field("new")?, line["level"] == "WARN"))
        };
        self.lines().iter().filter_map(changed).collect()
    }

    async fn client(&self) -> Client {
        self.process.client().await
    }
}

fn path(dir: &TempDir) -> PathBuf {
    dir.path().join("unibus.toml")
}

fn write(dir: &TempDir, text: &str) {
    let new = dir.path().join("new");
    fs::write(&new, text).expect("a file");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("a mode");
    fs::rename(new, path(dir)).expect("a file");
}

fn change(flag: &str, old: &str, new: &str, needs_restart: bool) -> (String, String, String, bool) {
    (flag.to_owned(), old.to_owned(), new.to_owned(), needs_restart)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_limits_are_in_force_without_a_restart() {
    // Goal: an operator changes a limit while clients are connected. Method: an open subscription; lower the bound, raise it; the
    // open subscription stays, a further one is refused and then served; the log names each change, and what needs a restart.
    let service = Configured::start("max-subscriptions = 10\n", &[]).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    let mut open = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    open.until_caught_up().await;

    assert!(service.reload("max-subscriptions = 1\nlimit-publishes = 1\ndrain-timeout = \"3s\"\n").await);
    let refused = Frames::open(&client, subscription("lobby", "")).await.map(drop);
    assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(
        service.changes(),
        [
            change("--drain-timeout", "10s", "3s", true),
            change("--limit-publishes", "", "1", false),
            change("--max-subscriptions", "10", "1", false),
        ]
    );
    // one a second: of many in a row, one is refused
    let mut published = 0;
    let limited = loop {
        match publish(&client, "lobby", "x").await {
            Ok(_) if published < 100 => published += 1,
            outcome => break outcome.unwrap_err(),
        }
    };
    assert_eq!(reason(&limited), "RATE_LIMITED");
    assert_eq!(open.messages(published).await.len(), published);

    assert!(service.reload("max-subscriptions = 2\ndrain-timeout = \"3s\"\n").await);
    let mut further = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    further.until_caught_up().await;
    let told = service.changes().split_off(3);
    // still not in force, so it is told again
    assert_eq!(
        told,
        [
            change("--drain-timeout", "10s", "3s", true),
            change("--limit-publishes", "1", "", false),
            change("--max-subscriptions", "1", "2", false),
        ]
    );
    for text in ["3", "4", "5"] {
        publish(&client, "lobby", text).await.unwrap();
    }
    assert_eq!(open.messages(3).await.len(), 3);
    drop(service.nats);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_of_the_command_line_stays() {
    // Goal: flags win over the file also later. Method: a bound on the command line, another one in the file; SIGHUP.
    let service = Configured::start("", &["--max-subscriptions=1"]).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    let _open = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    assert!(service.reload("max-subscriptions = 5\n").await);
    let refused = Frames::open(&client, subscription("lobby", "")).await.map(drop);
    assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(service.changes(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_runs_by_its_command_is_reloaded_too() {
    // Goal: `unibus serve` is the same service. Method: start it so, with a bound in the file; lower the bound; SIGHUP.
    let service = Configured::start("max-subscriptions = 5\n", &["serve"]).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    let _open = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    assert!(service.reload("max-subscriptions = 1\n").await);
    let refused = Frames::open(&client, subscription("lobby", "")).await.map(drop);
    assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(service.changes(), [change("--max-subscriptions", "5", "1", false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn administrators_change_without_a_restart() {
    // Goal: a right is given and taken at once. Method: Bob, whose token the service has verified already, deletes Ann's rooms as
    // an administrator, and no longer when he is none.
    let issuer = Issuer::new();
    let keys = format!("--auth-keys={}", issuer.public_key().display());
    let service = Configured::start("auth-admins = []\n", &["--auth=enforce", &keys]).await;
    let client = async |id| connect_with(service.process.address(), Credentials::bearer(&issuer.token(id))).await;
    let (ann, bob) = (client("ann").await, client("bob").await);
    for room in ["one", "two"] {
        create_room(&ann, room).await;
    }
    let delete = async |room: &str| {
        let request = DeleteRoomRequest { room_id: room.into() };
        bob.clone().delete_room(request).await.map(drop)
    };
    assert_status(delete("one").await, Code::PermissionDenied, "PERMISSION_DENIED");
    assert!(service.reload("auth-admins = [\"bob\"]\n").await);
    delete("one").await.unwrap();
    // found only by the service, not by the parser of the flags: the earlier rules stay
    assert!(!service.reload("auth-admins = []\nauth-leeway = \"1h\"\n").await);
    create_room(&ann, "one").await;
    delete("one").await.unwrap();
    assert!(service.reload("auth-admins = []\n").await);
    assert_status(delete("two").await, Code::PermissionDenied, "PERMISSION_DENIED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_change_without_a_restart() {
    // Goal: a web page is let in and shut out at once. Method: a request with an origin, which is allowed only while the file has it.
    let service = Configured::start("", &[]).await;
    let history = format!("http://{}/rooms/lobby/history", service.process.address());
    let is_allowed = async || {
        let request = reqwest::Client::new().get(&history).header("origin", "https://page.example");
        request.send().await.unwrap().headers().contains_key("access-control-allow-origin")
    };
    assert!(!is_allowed().await);
    assert!(service.reload("cors-origins = [\"https://page.example\", \"https://other.example\"]\n").await);
    assert!(is_allowed().await);
    assert!(!service.reload("cors-origins = [\"*\", \"https://other.example\"]\n").await);
    assert!(is_allowed().await);
    assert!(service.reload("cors-origins = \"https://other.example\"\n").await);
    assert!(!is_allowed().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_more_or_less_without_a_restart() {
    // Goal: an operator looks closer at a running service. Method: no line of a call is logged, then each, then none again.
    let service = Configured::start("log = \"info\"\n", &[]).await;
    let client = service.client().await;
    let calls = || service.lines().iter().filter(|line| line["level"] == "DEBUG").count();
    create_room(&client, "quiet").await;
    assert_eq!(calls(), 0);
    assert!(service.reload("log = \"info,unibus=debug,tower_http=debug\"\n").await);
    create_room(&client, "loud").await;
    eventually(SOON, async || if calls() > 0 { Ok(()) } else { Err(format!("{:?}", service.lines())) }).await;
    assert!(service.reload("log = \"info\"\n").await);
    let before = calls();
    create_room(&client, "quiet-again").await;
    // a reload later, every line of the call has been written
    assert!(service.reload("log = \"info\"\n").await);
    assert_eq!(calls(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_changes_nothing() {
    // Goal: a typing error does not stop a service. Method: files that cannot be parsed, with an unknown key, with a wrong value,
    // and none; each is told as an error; the limits stay, and the next right file is used.
    let service = Configured::start("max-subscriptions = 1\n", &[]).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    let _open = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    for wrong in ["max-subscriptions = ", "max-subscriptions = 2\nno-such-flag = 1\n", "max-subscriptions = 0\n"] {
        assert!(!service.reload(wrong).await, "{wrong}");
        let refused = Frames::open(&client, subscription("lobby", "")).await.map(drop);
        assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    }
    assert_eq!(service.changes(), []);
    assert!(service.reload("max-subscriptions = 2\n").await);
    Frames::open(&client, subscription("lobby", "")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_is_never_logged() {
    // Goal: the log has no password. Method: change the URL of NATS and its token in the file; the log names the flags.
    let secret = |word: &str| format!("nats-token = \"{word}-token\"\n");
    let service = Configured::start(&secret("first"), &[]).await;
    assert!(service.reload(&secret("second")).await);
    assert_eq!(service.changes(), [change("--nats-token", "(secret)", "(secret)", true)]);
    let told = service.process.stdout().join("\n");
    assert!(!told.contains("first-") && !told.contains("second-"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_before_the_service_has_started_does_not_end_it() {
    // Goal: a reload during a start is no crash. Method: no NATS server listens; SIGHUP while the program waits for one; then one
    // comes, on the same port, and the service serves.
    let url = format!("nats://127.0.0.1:{}", free_port());
    let mut process = Process::spawn(&["--nats-url", &url, "--nats-connect-timeout=2s"]);
    eventually(SOON, async || {
        let lines = process.stdout();
        let waits = lines.iter().any(|line| line.contains("trying again"));
        waits.then_some(()).ok_or_else(|| format!("{lines:?}"))
    })
    .await;
    process.hang_up();
    // killed by the signal, it would have no exit status
    assert_eq!(process.wait(SOON).await.code(), Some(1), "{:?}", process.stdout());
}
