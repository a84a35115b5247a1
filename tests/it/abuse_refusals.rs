//! Large requests that are refused are answered, and cost nothing beside them on their connection.

use futures_util::{StreamExt, stream};
use tonic::{Code, transport::Endpoint};
use unibus::v1::room_service_client::RoomServiceClient;

use super::abuse_bodies::guarded;
use crate::support::{Credentials, Frames, Issuer, Nats, publish, reason};

/// More than the faults of a client that its connection outlives.
const REFUSED: usize = 2200;
/// Calls at the same time.
const AT_ONCE: usize = 32;

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
