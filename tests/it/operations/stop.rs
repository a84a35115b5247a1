//! How the program ends: in good order, at the drain timeout, at once, or before it has begun.

use std::{
    net::TcpListener,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use futures_util::StreamExt;
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Client, Frames, Nats, Process, client_with_window, create_ephemeral, create_room, eventually,
    flood::{Attacker, announcing, call},
    floor_reaches, free_port,
    http2::{DATA, END_STREAM, frame},
    publish, reason,
};

/// The drain timeout of these tests, and as a flag.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const DRAIN_FLAG: &str = "--drain-timeout=2s";
/// What the end may take beyond the drain timeout.
const CLEANUP: Duration = Duration::from_secs(6);
/// How long an end without obstacles may take: far less than the drain timeout that the program has by itself.
const QUICK: Duration = Duration::from_secs(5);
/// How long anything else may take.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_calls_that_wait_for_nothing_do_not_delay_the_stop() {
    // Goal: a planned stop is quick. Method: idle subscriptions of a persisted and an ephemeral room and health watches are
    // open; SIGTERM and SIGINT; the process ends with 0 long before the drain timeout, and every call with a status.
    for stop in [Process::terminate, Process::interrupt] {
        stops_quickly(stop).await;
    }
}

async fn stops_quickly(stop: fn(&Process)) {
    let nats = Nats::start().await;
    let mut process = Process::start_with(&nats, &[], None).await;
    let client = process.client().await;
    create_room(&client, "lobby").await;
    create_ephemeral(&client, "live").await;
    let mut open = Vec::new();
    for (room_id, subscriber) in [("lobby", "ann"), ("lobby", ""), ("live", "")] {
        let mut frames = Frames::durable(&client, room_id, subscriber).await;
        frames.until_caught_up().await;
        open.push(frames);
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", process.address())).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap();

    let begun = Instant::now();
    stop(&process);
    let status = process.wait(SOON).await;
    assert_eq!(status.code(), Some(0), "{:?}", process.stdout());
    assert!(begun.elapsed() < QUICK, "{:?}", begun.elapsed());
    for frames in &mut open {
        let ended = frames.end(SOON).await;
        assert_eq!((ended.code(), &*reason(&ended)), (Code::Unavailable, "DRAINING"));
    }
    // NOT_SERVING, perhaps, and then the end
    while let Ok(Some(_)) = tokio::time::timeout(SOON, watch.message()).await.expect("the watch ends") {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_leave_do_not_delay_the_stop() {
    // Goal: only open calls are waited for. Method: clients that answer no sign of life, with no call, with streams that the
    // service ends, with refused calls, and with requests whose rest never comes, over HTTP/2 and HTTP/1.1; SIGTERM; the
    // process ends with 0 long before the drain timeout.
    let nats = Nats::start().await;
    let mut process = Process::start_with(&nats, &[], None).await;
    let rpc = |name: &str| call(1, &format!("/unibus.v1.RoomService/{name}"), &[]);
    let watch = [call(1, "/grpc.health.v1.Health/Watch", &[]), frame(DATA, END_STREAM, 1, &announcing(0))].concat();
    let refused = [rpc("Publish"), frame(DATA, 0, 1, &announcing(u32::MAX))].concat();
    let unfinished = [rpc("Publish"), frame(DATA, 0, 1, &announcing(100))].concat();
    let unknown = call(1, "/no.such.Service/Call", &[]);
    let mut left = Vec::new();
    for bytes in [Vec::new(), watch, rpc("Consume"), rpc("PublishStream"), unknown, refused, unfinished, rpc("GetRoom")]
    {
        left.push(Attacker::send(process.address(), bytes).await);
    }
    let mut half = Vec::new();
    for text in [
        "",
        "GET / HTTP/1.1\r\nhost:",
        "GET /rooms/lobby/history HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf",
        "POST /unibus.v1.RoomService/GetRoom HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web+proto\r\n\
         content-length: 1000\r\n\r\nhalf",
    ] {
        let mut stream = TcpStream::connect(process.address()).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        half.push(stream);
    }
    // what was sent before is under way
    create_room(&process.client().await, "lobby").await;
    let begun = Instant::now();
    process.terminate();
    let status = process.wait(SOON).await;
    assert_eq!(status.code(), Some(0), "{:?}", process.stdout());
    assert!(begun.elapsed() < QUICK, "{:?}", begun.elapsed());
}

/// A subscription whose client never reads, in a room that holds far more than its window, which is full.
async fn unread(nats: &Nats, process: &Process) -> (Client, Frames) {
    let client = process.client().await;
    create_room(&client, "lobby").await;
    for _ in 0..300 {
        publish(&client, "lobby", vec![7; 1024]).await.unwrap();
    }
    let narrow = client_with_window(process.address(), 16 * 1024).await;
    let frames = Frames::durable(&narrow, "lobby", "ann").await;
    // written back a while after the first message was taken
    floor_reaches(nats, "lobby", "ann", 1).await;
    (narrow, frames)
}

/// Whether a line of the log is an error.
fn says_error(process: &Process) -> bool {
    process.stdout().iter().any(|line| line.contains(r#""level":"ERROR""#))
}

/// Asserts that a line of the log is an error; the last lines may still be on their way when the process has ended.
async fn assert_says_error(process: &Process) {
    eventually(
        SOON,
        async || {
            if says_error(process) { Ok(()) } else { Err(format!("no error in {:?}", process.stdout())) }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_is_cut_off_at_the_drain_timeout() {
    // Goal: the stop is bounded whatever clients do, and says that it was not a clean one. Method: a client whose window is
    // full and that reads nothing; SIGTERM; the process ends after the drain timeout, soon, with 1 and an error in its log.
    let nats = Nats::start().await;
    let mut process = Process::start_with(&nats, &[DRAIN_FLAG], None).await;
    let _unread = unread(&nats, &process).await;
    let begun = Instant::now();
    process.terminate();
    let status = process.wait(SOON).await;
    let took = begun.elapsed();
    assert!((DRAIN_TIMEOUT..DRAIN_TIMEOUT + CLEANUP).contains(&took), "{took:?}");
    assert_eq!(status.code(), Some(1), "{:?}", process.stdout());
    assert_says_error(&process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_at_once() {
    // Goal: an operator need not wait for the drain. Method: a client that reads nothing holds up a long drain; once it has
    // begun, the second signal, each of the two kinds, ends the process with 1 and an error in its log.
    for second in [Process::terminate, Process::interrupt] {
        let nats = Nats::start().await;
        let mut process = Process::start_with(&nats, &["--drain-timeout=60s"], None).await;
        let _unread = unread(&nats, &process).await;
        process.terminate();
        let ready = format!("http://{}/readyz", process.admin_address());
        eventually(SOON, async || match reqwest::get(&ready).await.map(|response| response.status()) {
            Ok(StatusCode::SERVICE_UNAVAILABLE) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        let begun = Instant::now();
        second(&process);
        let status = process.wait(SOON).await;
        assert!(begun.elapsed() < QUICK, "{:?}", begun.elapsed());
        assert_eq!(status.code(), Some(1), "{:?}", process.stdout());
        assert_says_error(&process).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_told_to_outlive_its_terminal_does() {
    // Goal: nohup means what it says. Method: start the program with SIGHUP ignored; it still serves after SIGHUP, and ends
    // with SIGTERM.
    let nats = Nats::start().await;
    let mut child = Command::new("nohup")
        .arg(env!("CARGO_BIN_EXE_unibus"))
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-url", &nats.url()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nohup starts");
    let pid = Pid::from_child(&child);
    let caught = |mask: &str| -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{pid}/status", pid = pid.as_raw_nonzero())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(mask).map(str::trim).map(String::from));
        line.map_or(0, |bits| u64::from_str_radix(&bits, 16).expect("a mask"))
    };
    // it handles SIGTERM, so it has decided about SIGHUP
    eventually(SOON, async || {
        (caught("SigCgt:") & (1 << 14) != 0).then_some(()).ok_or_else(|| String::from("not started"))
    })
    .await;
    kill_process(pid, Signal::HUP).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(child.try_wait().unwrap().is_none(), "it ended");
    kill_process(pid, Signal::TERM).unwrap();
    let status =
        eventually(SOON, async || child.try_wait().unwrap().ok_or_else(|| String::from("still running"))).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_before_the_service_has_started_is_no_failure() {
    // Goal: whoever takes a deployment back sees no error. Method: no NATS server listens; while the program waits for one, each
    // of the signals; it ends with 0 at once, without an error in its log.
    for stop in [Process::terminate, Process::interrupt] {
        let url = format!("nats://127.0.0.1:{}", free_port());
        let mut process = Process::spawn(&["--nats-url", &url]);
        eventually(SOON, async || {
            let lines = process.stdout();
            let waits = lines.iter().any(|line| line.contains("trying again"));
            waits.then_some(()).ok_or_else(|| format!("{lines:?}"))
        })
        .await;
        let begun = Instant::now();
        stop(&process);
        let status = process.wait(SOON).await;
        assert!(begun.elapsed() < QUICK, "{:?}", begun.elapsed());
        assert_eq!(status.code(), Some(0), "{:?}", process.stdout());
        assert!(!says_error(&process), "{:?}", process.stdout());
    }
}

/// How the program ends with these addresses; panics when it has not after a while.
async fn ends(nats: &Nats, listen: &str, admin_listen: &str) -> ExitStatus {
    let mut child = Command::new(env!("CARGO_BIN_EXE_unibus"))
        .args(["--listen", listen, "--admin-listen", admin_listen, "--nats-url", &nats.url()])
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let end = Instant::now() + SOON;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("still running with {listen} and {admin_listen}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_ends_the_start() {
    // Goal: no half a service. Method: the one port is taken, then the other; the process ends with 1.
    let nats = Nats::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = &taken.local_addr().unwrap().to_string();
    let free = "127.0.0.1:0";
    for (listen, admin_listen) in [(&**taken, free), (free, &**taken)] {
        assert_eq!(ends(&nats, listen, admin_listen).await.code(), Some(1), "{listen} {admin_listen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_client_that_died_ends_the_process() {
    // Goal: no service that answers and can do nothing, which nobody would start anew. Method: a native program that can see
    // the answers to the service sends a header value with a bare CR to the same inbox, which async-nats does not survive;
    // the process ends with 1 and says why.
    let nats = Nats::start().await;
    let mut process = Process::start_with(&nats, &[], None).await;
    let client = process.client().await;
    let mut answers = nats.client().await.subscribe("_INBOX_unibus.>").await.unwrap();
    create_room(&client, "lobby").await;
    let answer = answers.next().await.unwrap();

    nats.publish_raw(&answer.subject, b"NATS/1.0\r\nA: x\ry\r\n\r\n", b"").await;
    assert_eq!(process.wait(SOON).await.code(), Some(1), "{:?}", process.stdout());
    let told = process.stdout();
    assert!(told.iter().any(|line| line.contains("the NATS client has died")), "{told:?}");
}
