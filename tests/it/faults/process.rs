//! The life and death of the service's process, and of the nats-server that it runs itself.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;

use crate::support::{
    Client, Frames, Nats, Process, create_room, eventually, history, listed, payloads, publish, publish_n, sequences,
};

/// How long a process may take to end, or to come back.
const SOON: Duration = Duration::from_secs(20);

/// The service with a nats-server of its own on this data directory; ready when this returns.
async fn embedded(data_dir: &Path) -> Process {
    let mut process = Process::spawn(&[&flag(data_dir), "--heartbeat-interval=1s"]);
    process.ready().await;
    process
}

fn flag(data_dir: &Path) -> String {
    format!("--data-dir={}", data_dir.display())
}

/// The process id of the nats-server that serves this data directory.
fn nats_pid(data_dir: &Path) -> Pid {
    let pid = fs::read_to_string(data_dir.join("nats.pid")).expect("a pid file");
    Pid::from_raw(pid.trim().parse().expect("a number")).expect("a process id")
}

/// Whether a process with this id is there and not merely waiting to be reaped.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let state = stat.ok().and_then(|stat| stat.rsplit(") ").next().and_then(|rest| rest.chars().next()));
    state.is_some_and(|state| !"ZX".contains(state))
}

async fn ends(pid: Pid) {
    eventually(SOON, async || (!runs(pid)).then_some(()).ok_or_else(|| format!("{pid:?} runs"))).await;
}

async fn heals(client: &Client, payload: &str) {
    eventually(SOON, async || {
        let stored = publish(client, "lobby", payload.to_owned()).await;
        stored.map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_nats_server_comes_back_with_every_acknowledged_message() {
    // Goal: the own nats-server may crash. Method: publish, SIGKILL it, twice; another one takes its place, the messages are
    // there, and an open subscription goes on without a gap.
    let dir = TempDir::new().unwrap();
    let service = embedded(dir.path()).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 20).await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    assert_eq!(sequences(&frames.until_caught_up().await), listed(1..=20));
    for round in 1..=2 {
        let killed = nats_pid(dir.path());
        kill_process(killed, Signal::KILL).unwrap();
        ends(killed).await;
        heals(&client, "after").await;
        assert_ne!(nats_pid(dir.path()), killed);
        let messages = history(&client, "lobby", 1000).await.messages;
        // A publish whose acknowledgement was lost may have been stored as well.
        assert!(messages.len() >= 20 + round, "{} messages", messages.len());
        assert_eq!(sequences(&messages), listed(1..=messages.len() as u64));
        let first: Vec<String> = (1..=20).map(|number| number.to_string()).collect();
        assert_eq!(payloads(&messages[..20]), first);
    }
    let last = history(&client, "lobby", 1).await.last_sequence;
    let live = frames.messages(usize::try_from(last - 20).unwrap()).await;
    assert_eq!(sequences(&live), listed(21..=last));
    assert_eq!(frames.gaps, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_service_leaves_no_nats_server_behind_and_no_message() {
    // Goal: SIGKILL cleans up and loses nothing. Method: publish, SIGKILL the service; its nats-server ends; the service
    // starts again on the same directory, with the messages and the position.
    let dir = TempDir::new().unwrap();
    for round in 0..2 {
        let mut service = embedded(dir.path()).await;
        let client = service.client().await;
        create_room(&client, "lobby").await;
        let before = history(&client, "lobby", 1000).await;
        assert_eq!(before.messages.len(), 10 * round);
        publish_n(&client, "lobby", 10).await;
        let mut frames = Frames::durable(&client, "lobby", "ann").await;
        assert_eq!(frames.until_caught_up().await.last().expect("a message").sequence, 10 * (round as u64 + 1));
        let nats = nats_pid(dir.path());
        assert!(runs(nats));
        service.kill9();
        ends(nats).await;
    }
    // At once after the SIGKILL, without waiting for the nats-server to end.
    let mut service = embedded(dir.path()).await;
    service.kill9();
    let service = embedded(dir.path()).await;
    assert_eq!(history(&service.client().await, "lobby", 1000).await.messages.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_belongs_to_one_service() {
    // Goal: two services never write one store. Method: a second one on the same directory refuses to start, exits with 1
    // and leaves the first one alone.
    let dir = TempDir::new().unwrap();
    let first = embedded(dir.path()).await;
    let client = first.client().await;
    create_room(&client, "lobby").await;
    let nats = nats_pid(dir.path());
    let mut second = Process::spawn(&[&flag(dir.path())]);
    assert_eq!(second.wait(SOON).await.code(), Some(1), "{:?}", second.stdout());
    assert_eq!(nats_pid(dir.path()), nats);
    assert!(runs(nats));
    publish(&client, "lobby", "undisturbed").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_stop_signal_ends_the_service_with_success_and_its_nats_server_with_it() {
    // Goal: a wanted stop is a success, and complete. Method: SIGTERM and SIGINT, with an own nats-server and an external
    // one, with a subscription open; exit code 0; the own nats-server is gone, the external one is not.
    let nats = Nats::start().await;
    for signal in [Process::terminate, Process::interrupt] {
        let dir = TempDir::new().unwrap();
        let mut service = embedded(dir.path()).await;
        let client = service.client().await;
        create_room(&client, "lobby").await;
        let _open = Frames::durable(&client, "lobby", "ann").await;
        let own = nats_pid(dir.path());
        signal(&service);
        assert_eq!(service.wait(SOON).await.code(), Some(0), "{:?}", service.stdout());
        assert!(!runs(own));

        let mut service = Process::start(&nats).await;
        let client = service.client().await;
        create_room(&client, "lobby").await;
        let _open = Frames::durable(&client, "lobby", "ann").await;
        signal(&service);
        assert_eq!(service.wait(SOON).await.code(), Some(0), "{:?}", service.stdout());
        nats.stream("lobby").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_cannot_be_reached_is_given_up_in_time() {
    // Goal: a wrong address is an error, not a wait. Method: a port that nobody listens on and a short limit; exit code 1.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let dir = TempDir::new().unwrap();
    let begun = Instant::now();
    let url = format!("--nats-url=nats://{free}");
    let mut service = Process::spawn(&[&url, &flag(dir.path()), "--nats-connect-timeout=1s"]);
    assert_eq!(service.wait(SOON).await.code(), Some(1), "{:?}", service.stdout());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Speaks as much of the NATS protocol as a client needs to learn the server's version.
async fn greet(mut client: TcpStream) -> std::io::Result<()> {
    let info = concat!(
        r#"INFO {"server_id":"OLD","server_name":"old","version":"2.10.0","go":"go1.21","host":"127.0.0.1","#,
        r#""port":4222,"headers":true,"max_payload":1048576,"jetstream":true,"proto":1,"client_id":1}"#,
        "\r\n"
    );
    let (read, mut write) = client.split();
    write.write_all(info.as_bytes()).await?;
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        if line == "PING" {
            write.write_all(b"PONG\r\n").await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_server_that_is_too_old_is_refused_by_its_version() {
    // Goal: who runs an old server learns so at the start. Method: a listener that greets as version 2.10.0 does; exit code
    // 1, and a log line with both versions.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--nats-url=nats://{}", listener.local_addr().unwrap());
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // One client at a time is enough; how it leaves does not matter.
            let _ = greet(client).await;
        }
    }));
    let dir = TempDir::new().unwrap();
    let mut service = Process::spawn(&[&url, &flag(dir.path()), "--nats-connect-timeout=5s"]);
    assert_eq!(service.wait(SOON).await.code(), Some(1), "{:?}", service.stdout());
    let lines = eventually(Duration::from_secs(5), async || {
        let lines = service.stdout();
        let told = lines.iter().any(|line| line.contains("2.10.0") && line.contains("2.14"));
        told.then_some(lines.clone()).ok_or_else(|| format!("{lines:?}"))
    })
    .await;
    assert!(!lines.iter().any(|line| line.contains("\"listening\"")), "{lines:?}");
}
