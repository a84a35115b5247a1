//! Connections and their calls have bounds, and who is beyond them is told which and is not kept waiting.

use std::time::Duration;

use futures_util::{future::join_all, stream};
use reqwest::StatusCode;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use crate::support::{
    Frames, Nats, Process, Unibus, assert_status, create_ephemeral, create_room, eventually, list_rooms, metadata,
    over, publish, subscription,
};

/// A refusal comes at once, and so does the end of a connection that is not kept.
const SOON: Duration = Duration::from_secs(5);
/// Connections that are still answered beyond the limit; docs/limits.md says so.
const EXCESS: usize = 256;

/// An instance with these bounds on connections, and on the calls of one connection.
async fn bounded(nats: &Nats, connections: u32, calls: u32) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.connections.max = connections;
        config.connections.max_streams = calls;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_beyond_the_limit_is_told_so_in_every_protocol_and_served_when_another_leaves() {
    // Goal: a full instance is an answer, not a hang. Method: as many connections as may be, and one more: it is refused over
    // gRPC, gRPC-Web and HTTP, while health and reflection answer; one of the others leaves, and the same connection is served.
    let nats = Nats::start().await;
    let unibus = bounded(&nats, 2, 100).await;
    let (first, second) = (unibus.client().await, unibus.client().await);
    create_room(&first, "lobby").await;
    list_rooms(&second, 0, "").await.unwrap();

    let endpoint = Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let third = over(channel.clone());
    let refused = timeout(SOON, list_rooms(&third, 0, "")).await.expect("an answer at once");
    let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "--max-connections");
    let opened = timeout(SOON, Frames::open(&third, subscription("lobby", "ann")));
    let refused = opened.await.expect("an answer at once").map(|_| ());
    assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");

    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut services = ServerReflectionClient::new(channel);
    let mut services = services.server_reflection_info(stream::iter([list])).await.unwrap().into_inner();
    assert!(services.message().await.unwrap().is_some());

    let http = reqwest::get(format!("http://{}/rooms/lobby/history", unibus.address())).await.unwrap();
    assert_eq!(http.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(http.text().await.unwrap().contains("\"LIMIT_REACHED\""));
    let web = reqwest::Client::new().post(format!("http://{}/unibus.v1.RoomService/ListRooms", unibus.address()));
    let web = web.header("content-type", "application/grpc-web+proto").body(vec![0; 5]).send().await.unwrap();
    assert_eq!(web.headers()["content-type"], "application/grpc-web+proto");
    assert_eq!(web.headers()["grpc-status"], (Code::ResourceExhausted as i32).to_string());

    drop(second);
    let served = eventually(SOON, async || list_rooms(&third, 0, "").await.map_err(|status| status.to_string()));
    assert_eq!(served.await.rooms.len(), 1);
    list_rooms(&first, 0, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_nobody_could_be_told_on_are_closed_at_once() {
    // Goal: descriptors are bounded whatever clients do. Method: as many connections as are served and as are answered; the
    // next one is closed without a word, those before are not; one leaves, and a new one is kept.
    let nats = Nats::start().await;
    let unibus = bounded(&nats, 2, 100).await;
    let client = unibus.client().await;
    list_rooms(&client, 0, "").await.unwrap();
    let connect = async || TcpStream::connect(unibus.address()).await.expect("a connection");
    let mut silent = Vec::new();
    for _ in 0..=EXCESS {
        silent.push(connect().await);
    }
    // Nothing is said on these: what is read is an end, or a reset, which is one as well.
    let is_closed = async |socket: &mut TcpStream, within: Duration| timeout(within, socket.read_u8()).await.is_ok();
    assert!(is_closed(&mut connect().await, SOON).await);
    for connection in &mut silent {
        assert!(!is_closed(connection, Duration::ZERO).await);
    }
    list_rooms(&client, 0, "").await.unwrap();

    silent.pop();
    eventually(SOON, async || {
        let closed = is_closed(&mut connect().await, Duration::from_millis(200)).await;
        (!closed).then_some(()).ok_or_else(|| String::from("closed"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_on_which_nothing_is_ever_said_does_not_keep_its_place() {
    // Goal: places are for clients, not for sockets. Method: one place, taken by a socket that says nothing; it is closed
    // after the silence that is allowed, a client has the place, and keeps it though it is idle for longer.
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.connections.max = 1;
        config.keepalive.interval = Duration::from_millis(400);
        config.keepalive.timeout = Duration::from_millis(400);
    })
    .await;
    let mut silent = TcpStream::connect(unibus.address()).await.unwrap();
    let client = unibus.client().await;
    assert_status(list_rooms(&client, 0, "").await, Code::ResourceExhausted, "LIMIT_REACHED");
    let ended = timeout(SOON, silent.read_u8()).await.expect("an end");
    ended.expect_err("nothing is said");
    list_rooms(&client, 0, "").await.unwrap();

    // Served again and again by the one place: the connection is the same, since a second one would be refused.
    let mut other = unibus.client().await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_status(list_rooms(&other, 0, "").await, Code::ResourceExhausted, "LIMIT_REACHED");
        other = unibus.client().await;
    }
    list_rooms(&client, 0, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_beyond_the_limit_of_a_connection_are_answered_and_do_not_wait() {
    // Goal: no client waits for ever for an HTTP/2 stream that it is not granted. Method: as many open subscriptions as a
    // connection may have; five hundred further calls at once are all refused in time; another connection is served; one
    // subscription ends, and the connection's next call is served.
    const CALLS: usize = 4;
    let nats = Nats::start().await;
    let unibus = bounded(&nats, 100, u32::try_from(CALLS).unwrap()).await;
    let client = unibus.client().await;
    create_ephemeral(&client, "live").await;
    let mut open = Vec::new();
    for _ in 0..CALLS {
        open.push(Frames::transient(&client, "live").await);
    }
    let calls = (0..500).map(|_| list_rooms(&client, 0, ""));
    for refused in timeout(SOON, join_all(calls)).await.expect("answers at once") {
        let refused = assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
        assert_eq!(metadata(&refused, "limit"), "--max-streams-per-connection");
    }
    let other = unibus.client().await;
    publish(&other, "live", "hello").await.unwrap();
    for frames in &mut open {
        assert_eq!(frames.messages(1).await[0].payload, "hello");
    }
    open.pop();
    eventually(SOON, async || list_rooms(&client, 0, "").await.map_err(|status| status.to_string())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_runs_out_of_descriptors_serves_whom_it_has_and_recovers() {
    // Goal: a limit of the operating system below the service's own is no end. Method: allow a process few more open files
    // than it has; more connections come than that; a client from before is served all the while, in a new room as well;
    // the connections go, and a new client is served.
    let nats = Nats::start().await;
    let service = Process::start(&nats).await;
    let client = service.client().await;
    create_room(&client, "before").await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", service.id())).unwrap().count() as u64;
    let limit = Rlimit { current: Some(open + 5), maximum: Some(open + 5) };
    prlimit(Pid::from_raw(service.id().try_into().unwrap()), Resource::Nofile, limit).unwrap();
    let mut connections = Vec::new();
    for _ in 0..40 {
        connections.push(TcpStream::connect(service.address()).await.unwrap());
    }
    eventually(SOON, async || {
        let told = service.stdout().iter().any(|line| line.contains("unibus::server::listener"));
        told.then_some(()).ok_or_else(|| String::from("not told"))
    })
    .await;
    create_room(&client, "meanwhile").await;
    publish(&client, "meanwhile", "hello").await.unwrap();
    drop(connections);
    eventually(SOON, async || {
        let connected = Endpoint::from_shared(format!("http://{}", service.address())).unwrap().connect().await;
        let client = over(connected.map_err(|error| error.to_string())?);
        list_rooms(&client, 0, "").await.map_err(|status| status.to_string())
    })
    .await;
}
