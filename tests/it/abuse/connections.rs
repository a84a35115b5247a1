//! Floods of connections, frames and half requests cost those who send them, and nobody beside them.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::Duration,
};

use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::Code;
use unibus::v1::GetRoomRequest;

use super::bodies::guarded;
use crate::support::{
    Credentials, Frames, Issuer, Nats, Unibus, assert_status, connect, connect_with, create_ephemeral, create_room,
    eventually,
    flood::{Attacker, Innocent, STRANGER_BYTES, announcing, assert_bounded, call, complete_call},
    http2::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Http2, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
        literal,
    },
    list_rooms, metadata, publish,
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// How long memory is watched.
const WATCHED: Duration = Duration::from_secs(1);
/// An end comes soon after its time.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_cancelled_calls_ends_no_stream_beside_them() {
    // Goal: who cancels many calls at once loses nothing else. Method: a watch of health on a connection; 200 calls that are
    // cancelled at once, again and again; the watch is open, the connection answers, and no GOAWAY came.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, _client) = guarded(&nats, &issuer, &[]).await;
    let token = format!("Bearer {}", issuer.token("ann"));
    let headers = [("authorization", &*token)];
    let mut connection = Http2::connect(service.address()).await;
    let watch = [call(1, WATCH, &headers), frame(DATA, END_STREAM, 1, &announcing(0))].concat();
    assert!(connection.send(&watch).await);
    connection.until(DATA, SOON).await.expect("the first status");
    let cancel = 8_u32.to_be_bytes();
    for burst in 0..10 {
        let streams = (0..200_u32).map(|number| 2 * (burst * 200 + number) + 3);
        let list = |stream| call(stream, "/unibus.v1.RoomService/ListRooms", &headers);
        let bytes = streams.flat_map(|stream| [list(stream), frame(RST_STREAM, 0, stream, &cancel)]).flatten();
        assert!(connection.send(&bytes.collect::<Vec<_>>()).await);
        assert!(connection.send(&frame(PING, 0, 0, &[7; 8])).await);
        let mut answered = false;
        while !answered {
            // a GOAWAY would be followed by the end
            answered = connection.until(PING, SOON).await.expect("no end") == [7; 8];
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_cost_their_connection_alone() {
    // Goal: frames that cost nothing to send cost nothing to others. Method: floods of resets, pings, settings, window updates,
    // empty data, and header blocks without end, by a stranger; the process stays small, and who has a token publishes.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let cancel = 8_u32.to_be_bytes();
    let resets: Vec<u8> = (0..20_000_u32)
        .flat_map(|number| [call(2 * number + 1, CHECK, &[]), frame(RST_STREAM, 0, 2 * number + 1, &cancel)].concat())
        .collect();
    let endless = [
        frame(HEADERS, 0, 1, &literal(":method", "POST")),
        frame(CONTINUATION, 0, 1, &literal("x-a", &"a".repeat(16_000))).repeat(1000),
    ]
    .concat();
    // one field is put into the table of HPACK, and named by one byte from then on
    let mut bomb = frame(HEADERS, END_HEADERS, 1, &[&[0x82, 0x86, 0x84, 0x40, 1, b'x', 0][..]].concat());
    for number in 1..3000 {
        let fields = [call(0, WATCH, &[]).split_off(9), vec![0xbe; 1700]].concat();
        bomb.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &fields));
    }
    let empty = [call(1, CHECK, &[]), frame(DATA, 0, 1, &[]).repeat(200_000)].concat();
    let many_fields = [
        frame(HEADERS, 0, 1, &literal(":method", "POST")),
        frame(CONTINUATION, 0, 1, &literal("x", "").repeat(3000)).repeat(300),
    ]
    .concat();
    let innocent = Innocent::publishing(client, "lobby");
    for flood in [
        bomb,
        resets,
        endless,
        many_fields,
        empty,
        frame(PING, 0, 0, &[0; 8]).repeat(200_000),
        frame(SETTINGS, 0, 0, &[]).repeat(200_000),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).repeat(100_000),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(200_000),
    ] {
        let mut attackers = Vec::new();
        for _ in 0..4 {
            attackers.push(Attacker::send(service.address(), flood.clone()).await);
        }
        assert_bounded(&service, before, WATCHED, STRANGER_BYTES).await;
    }
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_take_no_answer_cost_a_bounded_amount() {
    // Goal: an answer that nobody takes is not kept for many. Method: windows of no bytes, and calls of reflection that ask for
    // the largest file, on as many connections as one address may have.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let file = b"unibus.v1.RoomService";
    let ask = [&[0x22, u8::try_from(file.len()).unwrap()][..], file].concat();
    let ask = [announcing(u32::try_from(ask.len()).unwrap()), ask].concat();
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut attackers = Vec::new();
    for _ in 0..150 {
        let mut bytes = no_window.clone();
        for number in 0..15 {
            let stream = 2 * number + 1;
            bytes.extend(call(stream, REFLECTION, &[]));
            bytes.extend(frame(DATA, 0, stream, &ask.repeat(10)));
        }
        for number in 15..30 {
            bytes.extend(call(2 * number + 1, "/rooms/lobby/history", &[]));
        }
        attackers.push(Attacker::send(service.address(), bytes).await);
    }
    assert_bounded(&service, before, 4 * WATCHED, STRANGER_BYTES).await;
    innocent.assert_unharmed().await;
}

/// Complete calls of `GetRoom` for this room, one after the other.
fn calls_of_get_room(count: u32, room: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let message = GetRoomRequest { room_id: room.into() }.encode_to_vec();
    let call = |number| complete_call(2 * number + 1, "/unibus.v1.RoomService/GetRoom", headers, &message);
    (0..count).flat_map(call).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_a_stranger_does_not_read_cost_a_bounded_amount() {
    // Goal: refusals do not pile up for a client that reads nothing. Method: as many connections as a stranger may have, on each
    // thousands of calls, nothing read.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let calls = calls_of_get_room(1500, "lobby", &[]);
    let mut attackers = Vec::new();
    for _ in 0..64 {
        attackers.push(Attacker::deaf(service.address(), calls.clone()).await);
    }
    assert_bounded(&service, before, 6 * WATCHED, STRANGER_BYTES).await;
    publish(&client, "lobby", "innocent").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_a_caller_does_not_take_cost_its_share() {
    // Goal: answers of calls and refusals of further ones do not pile up either, whether the window or the connection is what the
    // client does not empty. Method: on 60 connections hundreds of calls, nothing read; on every second
    // one no window. Beside a smaller burst of the same kind bob publishes undisturbed.
    const SHARE: u64 = 64 * 1024 * 1024;
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let token = format!("Bearer {}", issuer.token("eve"));
    let calls = calls_of_get_room(400, "lobby", &[("authorization", &token)]);
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut attackers = Vec::new();
    for number in 0..60 {
        let first = if number % 2 == 0 { &no_window[..] } else { &[] };
        attackers.push(Attacker::deaf(service.address(), [first, &calls].concat()).await);
    }
    assert_bounded(&service, before, 10 * WATCHED, SHARE).await;
    drop(attackers);
    // a burst that the tests' build can serve beside others; it takes a busy machine a while
    let innocent = Innocent::publishing(client, "lobby");
    let few = calls_of_get_room(100, "lobby", &[("authorization", &token)]);
    let mut attackers = Vec::new();
    for _ in 0..10 {
        attackers.push(Attacker::deaf(service.address(), few.clone()).await);
    }
    innocent.until_published(200).await;
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_counts_for_its_caller_until_its_answer_was_written() {
    // Goal: connections that are not read are no way around the bound on calls. Method: with a bound of 20, eve's calls on a
    // connection that she does not read are answered with an error, which no window holds back; further calls of hers are refused
    // until that connection ends.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    // a connection that is not read answers no ping either
    let flags = ["--limit-calls=20", "--keepalive-timeout=5m"];
    let (service, _client) = guarded(&nats, &issuer, &flags).await;
    let eve = connect_with(service.address(), Credentials::bearer(&issuer.token("eve"))).await;
    create_room(&eve, "own").await;
    let token = format!("Bearer {}", issuer.token("eve"));
    // HPACK makes most of an answer short, but not an id that is new and of rare characters
    let message = GetRoomRequest { room_id: "missing".into() }.encode_to_vec();
    let calls: Vec<u8> = (0..1500)
        .flat_map(|number| {
            let headers = [("authorization", &*token), ("x-request-id", &format!("{number}{}", "@".repeat(120)))];
            complete_call(2 * number + 1, "/unibus.v1.RoomService/GetRoom", &headers, &message)
        })
        .collect();
    let mut attackers = Vec::new();
    eventually(6 * SOON, async || {
        // a call of eve's that is served may have one of the places while a connection fills up; then the next connection takes
        // that place
        attackers.push(Attacker::deaf(service.address(), calls.clone()).await);
        // the kernel takes some hundreds of answers first
        sleep(WATCHED).await;
        for _ in 0..20 {
            let refused = publish(&eve, "own", "x").await.err().ok_or_else(|| "not refused".to_owned())?;
            assert_eq!(metadata(&refused, "limit"), "--limit-calls");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    })
    .await;
    drop(attackers);
    eventually(SOON, async || publish(&eve, "own", "x").await.map_err(|status| status.to_string())).await;
}

/// Calls of `GetRoom` with as many small header fields as fit, which their client resets at once if `with_reset`.
fn calls_with_many_fields(count: u32, token: Option<&str>, with_reset: bool) -> Vec<u8> {
    let names: Vec<String> = (0..630).map(|number| format!("x{number}")).collect();
    let mut headers: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "")).collect();
    headers.extend(token.map(|token| ("authorization", token)));
    headers.push(("grpc-timeout", "30S"));
    let reset = |stream| if with_reset { frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()) } else { Vec::new() };
    let call = |stream| [call(stream, "/unibus.v1.RoomService/GetRoom", &headers), reset(stream)].concat();
    (0..count).flat_map(|number| call(2 * number + 1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_fields_cost_a_bounded_amount() {
    // Goal: the fields of waiting, refused and reset calls do not pile up in memory. Method: calls with hundreds of fields and no
    // body, on many connections: of strangers with and without resets, and of a caller.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let token = format!("Bearer {}", issuer.token("eve"));
    for (connections, calls, token, max) in
        [(60, 40, None, STRANGER_BYTES), (20, 150, Some(&*token), 2 * STRANGER_BYTES)]
    {
        for with_reset in [false, true] {
            let before = service.resident_bytes();
            let bytes = calls_with_many_fields(calls, token, with_reset);
            let mut attackers = Vec::new();
            for _ in 0..connections {
                attackers.push(Attacker::send(service.address(), bytes.clone()).await);
            }
            assert_bounded(&service, before, 3 * WATCHED, max).await;
        }
    }
    publish(&client, "lobby", "innocent").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_end_on_every_port() {
    // Goal: nobody keeps a connection by not going on. Method: on the main port and on the admin port, nothing, half a head, a
    // head that goes on byte by byte, and a body that does not come; all are closed in time, and the ports answer meanwhile
    // and afterwards.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let args = ["--keepalive-interval=2s", "--keepalive-timeout=2s", "--idle-timeout=4s"];
    let (service, client) = guarded(&nats, &issuer, &args).await;
    let body = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web+proto\r\n\
                content-length: 1000\r\n\r\nhalf";
    let other = "POST /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nhalf";
    let get = "GET /rooms/lobby/history HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nhalf";
    let first = ["", "GET /livez HTT", "GET /livez HTTP/1.1\r\nhost: a\r\nx-slow: a", body, other, get];
    let mut open = Vec::new();
    for address in [service.address(), service.admin_address()] {
        for first in first.iter().cycle().take(36) {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(first.as_bytes()).await.unwrap();
            open.push(stream);
        }
    }
    list_rooms(&client, 0, "").await.unwrap();
    let begun = Instant::now();
    let ends = open.into_iter().map(|mut stream| async move {
        let mut sink = [0; 1024];
        loop {
            let _ = stream.write_all(b"a").await;
            match timeout(Duration::from_millis(300), stream.read(&mut sink)).await {
                Ok(Ok(1..)) | Err(_) => {}
                Ok(Ok(0) | Err(_)) => return,
            }
        }
    });
    timeout(Duration::from_secs(30), futures_util::future::join_all(ends)).await.expect("all are closed");
    crate::support::note(format_args!("closed after {:?}", begun.elapsed()));
    let ready = reqwest::get(format!("http://{}/readyz", service.admin_address())).await.unwrap();
    assert_eq!(ready.status(), 200);
    list_rooms(&client, 0, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_answers_while_one_address_takes_all_that_it_may() {
    // Goal: probes are answered whatever others do. Method: more connections than one address may have on the admin port: the
    // process does not run out of descriptors, those beyond are closed, and when they are gone a probe is answered.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, _client) = guarded(&nats, &issuer, &[]).await;
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", service.id())).unwrap().count();
    let before = descriptors();
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(TcpStream::connect(service.admin_address()).await.unwrap());
    }
    sleep(Duration::from_millis(500)).await;
    let grown = descriptors() - before;
    assert!(grown <= 64, "{grown} descriptors");
    drop(open);
    eventually(SOON, async || {
        let ready = reqwest::get(format!("http://{}/readyz", service.admin_address())).await;
        ready.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_as_many_connections_as_it_may() {
    // Goal: one address does not take the places of others, and is told so. Method: three connections of callers are allowed; a
    // fourth one is refused by name, and is served when the bound is off; when one leaves, a new one is served.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, first) = guarded(&nats, &issuer, &["--max-connections-per-address=3"]).await;
    let credentials = || Credentials::bearer(&issuer.token("ann"));
    let mut others = Vec::new();
    for _ in 0..2 {
        let client = connect_with(service.address(), credentials()).await;
        list_rooms(&client, 0, "").await.unwrap();
        others.push(client);
    }
    let fourth = connect_with(service.address(), credentials()).await;
    let refused = assert_status(list_rooms(&fourth, 0, "").await, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "--max-connections-per-address");
    list_rooms(&first, 0, "").await.unwrap();
    others.pop();
    drop(fourth);
    eventually(SOON, async || {
        let client = connect_with(service.address(), credentials()).await;
        list_rooms(&client, 0, "").await.map_err(|status| status.to_string())
    })
    .await;

    let (unbounded, _client) = guarded(&nats, &issuer, &["--max-connections-per-address=0"]).await;
    let mut many = Vec::new();
    for _ in 0..300 {
        many.push(connect(unbounded.address()).await);
    }
    let client = connect_with(unbounded.address(), credentials()).await;
    list_rooms(&client, 0, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_authentication_an_address_has_no_bound() {
    // Goal: development needs no flag. Method: 300 connections of one address, each of which is served.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        let client = unibus.client().await;
        list_rooms(&client, 0, "").await.unwrap();
        clients.push(client);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_strangers_do_not_keep_callers_out() {
    // Goal: a caller is let in from an address that a stranger uses too. Method: a stranger opens connections again and again,
    // more than one address may have without a caller; a caller's subscription is open all the while, and new callers are
    // served.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    create_ephemeral(&client, "live").await;
    let mut frames = Frames::transient(&client, "live").await;
    let mut strangers = Vec::new();
    for round in 0..6 {
        for _ in 0..60 {
            strangers.push(Attacker::send(service.address(), call(1, CHECK, &[])).await);
        }
        let newcomer = connect_with(service.address(), Credentials::bearer(&issuer.token("ann"))).await;
        publish(&newcomer, "live", format!("{round}")).await.unwrap();
        assert_eq!(frames.messages(1).await[0].payload, format!("{round}"));
    }
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    // Goal: a full pipe is no end. Method: the binary logs all that it can into a pipe that is not read; it serves thousands of
    // calls; then the pipe is read, and says that lines were lost.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let nats = runtime.block_on(Nats::start());
    let (listen, admin) = (crate::support::free_port(), crate::support::free_port());
    let data = tempfile::TempDir::new().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_unibus"))
        .args([format!("--listen=127.0.0.1:{listen}"), format!("--admin-listen=127.0.0.1:{admin}")])
        .args([format!("--nats-url={}", nats.url()), format!("--data-dir={}", data.path().display())])
        .env("RUST_LOG", "trace")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    runtime.block_on(async {
        let address = format!("127.0.0.1:{listen}").parse().unwrap();
        eventually(Duration::from_secs(60), async || {
            TcpStream::connect(format!("127.0.0.1:{listen}")).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        let client = connect(address).await;
        create_room(&client, "lobby").await;
        for _ in 0..1000 {
            timeout(SOON, publish(&client, "lobby", "x")).await.expect("an answer").unwrap();
        }
    });
    let mut stdout = child.stdout.take().unwrap();
    let (send, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut read, mut text) = (vec![0; 1 << 16], String::new());
        while let Ok(length @ 1..) = stdout.read(&mut read) {
            text.push_str(&String::from_utf8_lossy(&read[..length]));
            if text.contains("lines of the log were lost") {
                let _ = send.send(());
                text.clear();
            }
            let kept = text.len().saturating_sub(1000);
            text = text.split_off(text.char_indices().map(|(at, _)| at).find(|at| *at >= kept).unwrap_or(0));
        }
    });
    let was_told = told.recv_timeout(Duration::from_secs(20));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    was_told.expect("a word of lost lines");
    let _ = std::io::stdout().flush();
}
