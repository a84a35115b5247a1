//! Requests that are announced and never finished, or that are small to send and large to hold, cost a bounded amount.

use std::time::Duration;

use futures_util::future::join_all;
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::time::Instant;
use tonic::{Code, Request, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Client, Credentials, Issuer, Nats, Process, assert_status, connect_with, create_room, eventually,
    flood::{Attacker, Innocent, STRANGER_BYTES, announcing, assert_bounded, call},
    http2::{DATA, END_STREAM, frame},
    list_rooms, publish,
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// How long memory is watched.
const WATCHED: Duration = Duration::from_secs(3);

/// A process that asks for tokens, and a client with one.
pub(crate) async fn guarded(nats: &Nats, issuer: &Issuer, args: &[&str]) -> (Process, Client) {
    let keys = format!("--auth-keys={}", issuer.public_key().display());
    let args = [&["--auth=enforce", &keys], args].concat();
    let service = Process::start_with(nats, &args, None).await;
    let client = connect_with(service.address(), Credentials::bearer(&issuer.token("ann"))).await;
    create_room(&client, "lobby").await;
    // what the first calls need for ever is no growth
    for _ in 0..200 {
        publish(&client, "lobby", vec![0; 1000]).await.unwrap();
    }
    (service, client)
}

/// Calls of this method, each of which announces so many bytes and sends `sent` of them.
fn unfinished(path: &str, calls: u32, announced: u32, sent: usize, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..calls {
        let stream = 2 * number + 1;
        bytes.extend(call(stream, path, headers));
        let body = [announcing(announced), vec![0; sent]].concat();
        for part in body.chunks(16 * 1024) {
            bytes.extend(frame(DATA, 0, stream, part));
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_cannot_fill_memory_with_unfinished_requests() {
    // Goal: what a stranger announces is not made room for. Method: 400 unfinished calls of 4 MB on one connection, of health,
    // reflection, every RPC and the history endpoint; then the same on as many connections as one address may have. The
    // process stays small, and who has a token publishes as before.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let paths = [
        CHECK,
        WATCH,
        REFLECTION,
        "/unibus.v1.RoomService/Publish",
        "/unibus.v1.RoomService/PublishBatch",
        "/unibus.v1.RoomService/PublishStream",
        "/unibus.v1.RoomService/Consume",
        "/unibus.v1.RoomService/GetRoom",
        "/rooms/lobby/history",
    ];
    for path in paths {
        let attacker = Attacker::send(service.address(), unfinished(path, 400, 4_000_000, 1000, &[])).await;
        assert_bounded(&service, before, WATCHED / 3, STRANGER_BYTES).await;
        drop(attacker);
    }
    let mut attackers = Vec::new();
    for number in 0..250 {
        let path = paths[number % paths.len()];
        attackers.push(Attacker::send(service.address(), unfinished(path, 100, 1000, 900, &[])).await);
    }
    assert_bounded(&service, before, WATCHED, STRANGER_BYTES).await;
    innocent.assert_unharmed().await;
    eventually(Duration::from_secs(90), async || {
        // none of them ever completes a request
        let open = attackers.iter().filter(|attacker| !attacker.has_ended()).count();
        (open == 0).then_some(()).ok_or_else(|| format!("{open} are open"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_does_all_that_it_may_costs_a_bounded_amount() {
    // Goal: the bounds hold together. Method: as many connections as one address may have, on each as many watches as may be,
    // with headers as long as may be, and data that no call reads, in frames of one byte.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let long = "a".repeat(3000);
    let headers: Vec<(String, &str)> = (0..4).map(|number| (format!("x-{number}"), &*long)).collect();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, *value)).collect();
    let mut attackers = Vec::new();
    for _ in 0..250 {
        let mut bytes = Vec::new();
        for number in 0..40 {
            let stream = 2 * number + 1;
            let path = [WATCH, WATCH, REFLECTION][number as usize % 3];
            bytes.extend(call(stream, path, &headers));
            bytes.extend(frame(DATA, 0, stream, &announcing(0)));
            for _ in 0..50 {
                bytes.extend(frame(DATA, 0, stream, &[0]));
            }
        }
        attackers.push(Attacker::send(service.address(), bytes).await);
    }
    let innocent = Innocent::publishing(client, "lobby");
    assert_bounded(&service, before, WATCHED, STRANGER_BYTES).await;
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_cannot_fill_memory_with_unfinished_publishes() {
    // Goal: what one caller announces is bounded. Method: 150 unfinished publishes of 9 MB and 300 of 900 KB with a valid
    // token, nearly complete; another caller's publishes go on, and the calls end with an error after their time.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let token = format!("Bearer {}", issuer.token("greedy"));
    let headers = [("authorization", &*token)];
    for (path, calls, announced) in
        [("PublishBatch", 120, 9_000_000), ("Publish", 120, 900_000), ("PublishStream", 120, 900_000)]
    {
        let path = format!("/unibus.v1.RoomService/{path}");
        let bytes = unfinished(&path, calls, announced, 500_000, &headers);
        let attacker = Attacker::send(service.address(), bytes).await;
        assert_bounded(&service, before, WATCHED, 128 * 1024 * 1024).await;
        assert!(!attacker.has_ended(), "the attack was none");
    }
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn millions_of_empty_entries_are_refused_before_they_take_memory() {
    // Goal: a request is counted before it is decoded. Method: a batch of 4.7 million empty messages, one of as many empty
    // headers, a publish and a new room likewise, and groups nested 400,000 deep; each is refused by its field, costs little more than its bytes, and holds
    // nobody up.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client.clone(), "lobby");
    let token = issuer.token("greedy");
    for room in ["no-such-room", "lobby"] {
        for (method, field, entries) in
            [("PublishBatch", 2, 4_700_000), ("Publish", 3, 900_000), ("CreateRoom", 7, 30_000)]
        {
            let mut message = Vec::new();
            encode_key(1, WireType::LengthDelimited, &mut message);
            encode_varint(room.len() as u64, &mut message);
            message.extend(room.as_bytes());
            for _ in 0..entries {
                encode_key(field, WireType::LengthDelimited, &mut message);
                message.push(0);
            }
            let begun = Instant::now();
            let status = raw_call(&service, &token, method, message).await.unwrap_err();
            crate::support::note(format_args!("{method} {room}: {:?} {:?}", begun.elapsed(), status.code()));
            assert_ne!(crate::support::reason(&status), "INTERNAL");
        }
    }
    // groups within groups, which no message of the contract has
    let mut nested = Vec::new();
    for _ in 0..400_000 {
        encode_key(99, WireType::StartGroup, &mut nested);
    }
    let status = raw_call(&service, &token, "Publish", nested).await.unwrap_err();
    assert_eq!(crate::support::reason(&status), "REQUEST_MALFORMED", "{status:?}");
    assert_bounded(&service, before, Duration::from_millis(500), 64 * 1024 * 1024).await;
    innocent.assert_unharmed().await;
}

async fn raw_call(service: &Process, token: &str, method: &str, message: Vec<u8>) -> Result<(), tonic::Status> {
    let channel = Endpoint::from_shared(format!("http://{}", service.address())).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let path = format!("/unibus.v1.RoomService/{method}").parse().unwrap();
    grpc.unary(request, path, super::fuzz::Raw).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_never_begin_do_not_keep_a_connection() {
    // Goal: an idle connection is idle whatever calls it has begun. Method: a connection with unfinished calls of every kind
    // is closed when it was idle for long enough; one with a watch and one with a subscription are not.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &["--idle-timeout=2s"]).await;
    let token = format!("Bearer {}", issuer.token("ann"));
    let identified = [("authorization", &*token)];
    let stranger = Attacker::send(service.address(), unfinished(CHECK, 4, 100, 50, &[])).await;
    let caller = unfinished("/unibus.v1.RoomService/ListRooms", 40, 100, 50, &identified);
    let caller = Attacker::send(service.address(), caller).await;
    let watch = [call(1, WATCH, &[]), frame(DATA, END_STREAM, 1, &announcing(0))].concat();
    let watch = Attacker::send(service.address(), watch).await;
    eventually(Duration::from_secs(20), async || {
        let ended = [stranger.has_ended(), caller.has_ended()];
        (ended == [true, true]).then_some(()).ok_or_else(|| format!("{ended:?}"))
    })
    .await;
    assert!(!watch.has_ended());
    list_rooms(&client, 0, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_publishes_at_once_are_all_stored() {
    // Goal: the bounds hold up whoever sends much, and refuse nobody honest. Method: 60 publishes of 900 KB at the same time on
    // one connection; then a batch that is as large as may be.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (_service, client) = guarded(&nats, &issuer, &[]).await;
    let stored = join_all((0..60).map(|_| publish(&client, "lobby", vec![7; 900_000]))).await;
    assert_eq!(stored.into_iter().filter_map(Result::ok).count(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_answers_strangers_within_their_bounds() {
    // Goal: probes need no token. Method: a check and a watch without one; more open watches than may be are told so.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, _client) = guarded(&nats, &issuer, &[]).await;
    let channel = Endpoint::from_shared(format!("http://{}", service.address())).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    for _ in 0..300 {
        health.check(HealthCheckRequest::default()).await.unwrap();
    }
    let mut watches = Vec::new();
    for _ in 0..6 {
        watches.push(health.watch(HealthCheckRequest::default()).await.unwrap());
    }
    let refused = health.watch(HealthCheckRequest::default()).await.map(drop);
    assert_status(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    watches.pop();
    eventually(Duration::from_secs(5), async || {
        health.clone().check(HealthCheckRequest::default()).await.map_err(|status| status.to_string())
    })
    .await;
}
