//! Large requests that are refused are answered, and cost nothing beside them on their connection.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tonic::{Code, transport::Endpoint};
use unibus::v1::room_service_client::RoomServiceClient;

use super::bodies::guarded;
use crate::support::{
    Credentials, Frames, Issuer, Nats,
    flood::{announcing, call},
    http2::{DATA, Http2, PING, RST_STREAM, frame},
    publish, reason,
};

/// More than the faults of a client that its connection outlives.
const REFUSED: usize = 2200;
/// Calls at the same time.
const AT_ONCE: usize = 32;
/// Requests that the service reads after their calls were answered, of one connection, and for how long.
const READ_PER_CONNECTION: u32 = 256;
const READ_TIME: Duration = Duration::from_secs(10);
/// A reset that tells of no fault.
const NO_ERROR: [u8; 4] = [0; 4];
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_refused_publishes_are_all_answered_and_end_no_stream_beside_them() {
    // Goal: who is refused hears why each time, and loses nothing else. Method: publishes of 300 KB and of 1 MiB on one
    // connection, to a room that there is not, to one of others, and with a token that is none, more of them than faults that
    // a connection outlives; each ends with its reason, and a subscription on the same connection goes on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", service.address())).unwrap();
    for bytes in [300_000, 1024 * 1024] {
        let connection = endpoint.connect().await.unwrap();
        let with = |token: &str| RoomServiceClient::with_interceptor(connection.clone(), Credentials::bearer(token));
        let ann = with(&issuer.token("ann"));
        let mut beside = Frames::transient(&ann, "lobby").await;
        beside.until_caught_up().await;
        let refused = [
            (ann.clone(), "nowhere", Code::NotFound, "ROOM_NOT_FOUND"),
            (with(&issuer.token("bob")), "lobby", Code::PermissionDenied, "PERMISSION_DENIED"),
            (with("no token"), "lobby", Code::Unauthenticated, "UNAUTHENTICATED"),
        ];
        let calls = (0..REFUSED).map(|number| {
            let (client, room, code, expected) = &refused[number % refused.len()];
            async move {
                let status = publish(client, room, vec![7; bytes]).await.expect_err("refused");
                assert_eq!((status.code(), &*reason(&status)), (*code, *expected), "call {number}: {status:?}");
            }
        });
        stream::iter(calls).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        publish(&client, "lobby", "still here").await.unwrap();
        assert_eq!(&*beside.messages(1).await[0].payload, b"still here");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_requests_that_never_end_are_read_within_bounds() {
    // Goal: reading what was refused is no way to hold memory. Method: on one connection more large publishes than are read
    // after their answers, of which only the beginning comes; the service resets those beyond the bound at once, and the others
    // after the time that a request has; the connection answers all along.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, _client) = guarded(&nats, &issuer, &[]).await;
    let token = format!("Bearer {}", issuer.token("greedy"));
    let headers = [("authorization", &*token)];
    let beginning = [announcing(1_000_000), b"\x0a\x05lobby".to_vec()].concat();
    let excess = 44;
    let mut connection = Http2::connect(service.address()).await;
    for number in 0..READ_PER_CONNECTION + excess {
        let stream = 2 * number + 1;
        let begun =
            [call(stream, "/unibus.v1.RoomService/Publish", &headers), frame(DATA, 0, stream, &beginning)].concat();
        assert!(connection.send(&begun).await);
    }
    let begun = Instant::now();
    for _ in 0..excess {
        assert_eq!(connection.until(RST_STREAM, SOON).await.expect("no end"), NO_ERROR);
    }
    assert!(begun.elapsed() < READ_TIME / 2, "{:?}", begun.elapsed());
    for number in 0..READ_PER_CONNECTION {
        assert_eq!(connection.until(RST_STREAM, SOON).await.expect("no end"), NO_ERROR);
        assert!(begun.elapsed() > READ_TIME / 2, "the stream {number} was reset after {:?}", begun.elapsed());
    }
    assert!(connection.send(&frame(PING, 0, 0, &[7; 8])).await);
    connection.until(PING, SOON).await.expect("no end");
}
