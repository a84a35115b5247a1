//! What is open when a member is removed, made less, or its credentials expire: it ends within a second, on every instance.

use std::time::Duration;

use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;
use unibus::v1::{
    PublishStreamRequest, PublishStreamResponse, Role, consume_response, publish_stream_response::Outcome,
};

use crate::support::{
    Client, Consuming, Credentials, Frames, Issuer, Nats, Unibus, assert_status, connect_with, create_ephemeral,
    create_room, eventually, everything,
    membership::{add, add_from, remove},
    metadata, publish, publish_n,
    publishing::plain,
    reason, seconds_from_now, subscription,
};

/// Within this, everywhere.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);
const ROUNDS: usize = 5;

async fn two(nats: &Nats, issuer: &Issuer) -> (Unibus, Unibus) {
    (issuer.guard(nats, |_| {}).await, issuer.guard(nats, |_| {}).await)
}

/// Until the instance of this client lets it in.
async fn is_let_in(client: &Client, room: &str) {
    eventually(REVOKED_WITHIN, async || {
        let request = unibus::v1::GetRoomRequest { room_id: room.into() };
        client.clone().get_room(request).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
}

struct PublishStream {
    requests: mpsc::Sender<PublishStreamRequest>,
    responses: Streaming<PublishStreamResponse>,
}

impl PublishStream {
    async fn open(client: &Client) -> Self {
        let (requests, taken) = mpsc::channel(16);
        let responses = client.clone().publish_stream(ReceiverStream::new(taken)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    /// Publishes one message; the code of its own outcome, or the status that the stream ended with.
    async fn publish(&mut self, room: &str, payload: &str) -> Result<Code, Status> {
        let _ = self
            .requests
            .send(PublishStreamRequest {
                correlation_id: 1,
                publish: Some(plain(room, payload)),
                ..PublishStreamRequest::default()
            })
            .await;
        let response = timeout(Duration::from_secs(10), self.responses.message()).await.expect("a response in time")?;
        Ok(match response.and_then(|response| response.outcome).expect("an outcome") {
            Outcome::Result(_) => Code::Ok,
            Outcome::Error(error) => Code::from(error.code),
            Outcome::Through(through) => panic!("nobody asked for {through:?}"),
        })
    }
}

/// The error of the room's `closed` frame.
async fn closed(consuming: &mut Consuming, room: &str) -> tonic_types::pb::Status {
    loop {
        if let consume_response::Frame::Closed(status) = consuming.next_told(room).await {
            return status;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_ends_what_is_open_within_a_second_on_both_instances() {
    // Goal: access is lost when it is taken. Method: on each of two instances a member has a Subscribe, a Consume with another
    // room, a PublishStream; it is removed on the first; the time from the answer to the end of each is measured. What is
    // ended tells where it stood, and the other room goes on.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = two(&nats, &issuer).await;
    let ann = issuer.client(&first, "ann").await;
    create_room(&ann, "other").await;
    add(&ann, "other", "bob", Role::Reader).await.unwrap();
    let mut worst = Duration::ZERO;
    for round in 0..ROUNDS {
        let room = format!("room-{round}");
        create_room(&ann, &room).await;
        publish_n(&ann, &room, 3).await;
        add(&ann, &room, "bob", Role::Writer).await.unwrap();
        for (place, unibus) in [("first", &first), ("second", &second)] {
            let bob = issuer.client(unibus, "bob").await;
            is_let_in(&bob, &room).await;
            let mut frames = Frames::durable(&bob, &room, &format!("bob/{place}")).await;
            assert_eq!(frames.until_caught_up().await.len(), if place == "first" { 3 } else { 4 });
            let mut consuming = Consuming::start(&bob).await;
            consuming.open(subscription(&room, "")).await;
            consuming.open(subscription("other", "")).await;
            let mut publishing = PublishStream::open(&bob).await;
            assert_eq!(publishing.publish("other", "x").await.unwrap(), Code::PermissionDenied);
            assert_eq!(publishing.publish(&room, "x").await.unwrap(), Code::Ok);
            frames.messages(1).await;

            remove(&ann, &room, "bob").await.unwrap();
            let removed = Instant::now();
            let end = frames.end(REVOKED_WITHIN).await;
            worst = worst.max(removed.elapsed());
            assert_eq!((end.code(), reason(&end)), (Code::PermissionDenied, String::from("PERMISSION_DENIED")));
            assert_eq!(metadata(&end, "position"), if place == "first" { "4" } else { "5" });
            let status = timeout(REVOKED_WITHIN, closed(&mut consuming, &room)).await.expect("closed in time");
            assert_eq!(Code::from(status.code), Code::PermissionDenied);
            worst = worst.max(removed.elapsed());
            assert_eq!(publishing.publish(&room, "late").await.unwrap(), Code::PermissionDenied);
            worst = worst.max(removed.elapsed());
            // the streams themselves go on
            publish(&ann, "other", "still here").await.unwrap();
            loop {
                if let consume_response::Frame::Message(_) = consuming.next_told("other").await {
                    break;
                }
            }
            let back = Frames::open(&bob, subscription(&room, "")).await.map(drop);
            assert_status(back, Code::PermissionDenied, "PERMISSION_DENIED");
            add(&ann, &room, "bob", Role::Writer).await.unwrap();
        }
        assert!(everything(&ann, &room).await.iter().all(|message| message.payload != "late"));
    }
    assert!(worst < REVOKED_WITHIN, "{worst:?}");
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demotion_takes_what_the_role_gave_and_leaves_the_rest() {
    // Goal: a reader that was a writer reads on. Method: open streams of a writer on the other instance when it is made a
    // reader; then the first sequence that it may see is moved forwards and back.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = two(&nats, &issuer).await;
    let (ann, bob) = (issuer.client(&first, "ann").await, issuer.client(&second, "bob").await);
    create_room(&ann, "lobby").await;
    publish_n(&ann, "lobby", 3).await;
    add(&ann, "lobby", "bob", Role::Writer).await.unwrap();
    is_let_in(&bob, "lobby").await;
    let mut frames = Frames::transient(&bob, "lobby").await;
    frames.until_caught_up().await;
    let mut publishing = PublishStream::open(&bob).await;
    assert_eq!(publishing.publish("lobby", "4").await.unwrap(), Code::Ok);
    add(&ann, "lobby", "bob", Role::Reader).await.unwrap();
    eventually(REVOKED_WITHIN, async || {
        let code = publishing.publish("lobby", "x").await.unwrap();
        (code == Code::PermissionDenied).then_some(()).ok_or_else(|| format!("{code:?}"))
    })
    .await;
    publish(&ann, "lobby", "the last").await.unwrap();
    while frames.messages(1).await[0].payload != "the last" {}
    add_from(&ann, "lobby", "bob", Role::Reader, 3).await.unwrap();
    let end = frames.end(REVOKED_WITHIN).await;
    assert_status::<()>(Err(end), Code::Unavailable, "SUBSCRIBE_AGAIN");
    let mut frames = Frames::transient(&bob, "lobby").await;
    assert_eq!(frames.until_caught_up().await[0].sequence, 3);
    add(&ann, "lobby", "bob", Role::Reader).await.unwrap();
    eventually(REVOKED_WITHIN, async || {
        let opened = Frames::transient(&bob, "lobby").await.opened().first_sequence;
        (opened == 1).then_some(()).ok_or_else(|| format!("{opened}"))
    })
    .await;
    publish(&ann, "lobby", "more").await.unwrap();
    assert_eq!(frames.messages(1).await[0].payload, "more");
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_subscriptions_and_idle_and_busy_ones_end_alike() {
    // Goal: it does not matter what a subscription is doing. Method: one of an ephemeral room, one that is idle, and one that
    // always has something to send, of a member that is removed.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = two(&nats, &issuer).await;
    let (ann, bob) = (issuer.client(&first, "ann").await, issuer.client(&second, "bob").await);
    create_ephemeral(&ann, "live").await;
    create_room(&ann, "idle").await;
    create_room(&ann, "busy").await;
    let mut open = Vec::new();
    for room in ["live", "idle", "busy"] {
        add(&ann, room, "bob", Role::Reader).await.unwrap();
        is_let_in(&bob, room).await;
        open.push(Frames::transient(&bob, room).await);
    }
    let traffic = tokio::spawn({
        let ann = ann.clone();
        async move {
            loop {
                publish(&ann, "busy", "x").await.unwrap();
            }
        }
    });
    open[2].messages(20).await;
    for (room, frames) in ["live", "idle", "busy"].iter().zip(&mut open) {
        remove(&ann, room, "bob").await.unwrap();
        let end = frames.end(REVOKED_WITHIN).await;
        assert_eq!(end.code(), Code::PermissionDenied, "{room}: {end:?}");
    }
    traffic.abort();
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_removed_member_is_stored_a_second_after_the_answer() {
    // Goal: a publish does not slip past a removal. Method: a member publishes by call and by stream on both instances as fast
    // as it can while it is removed; what the room holds a second after the answer is all that it will hold.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let (first, second) = two(&nats, &issuer).await;
    let ann = issuer.client(&first, "ann").await;
    for round in 0..ROUNDS {
        let room = format!("room-{round}");
        create_room(&ann, &room).await;
        add(&ann, &room, "bob", Role::Writer).await.unwrap();
        let mut publishers = Vec::new();
        for unibus in [&first, &second] {
            let bob = issuer.client(unibus, "bob").await;
            is_let_in(&bob, &room).await;
            for _ in 0..4 {
                let (bob, room) = (bob.clone(), room.clone());
                publishers.push(tokio::spawn(async move { while publish(&bob, &room, "x").await.is_ok() {} }));
            }
            let (requests, taken) = mpsc::channel(1);
            let mut responses = bob.clone().publish_stream(ReceiverStream::new(taken)).await.unwrap().into_inner();
            let flood = room.clone();
            publishers.push(tokio::spawn(async move {
                let request = || PublishStreamRequest {
                    correlation_id: 0,
                    publish: Some(plain(&flood, "y")),
                    ..PublishStreamRequest::default()
                };
                let flooding = async { while requests.send(request()).await.is_ok() {} };
                // a while after the first refusal, so that later ones are tried too
                let reading = async {
                    let mut refused = 0;
                    while refused < 500 {
                        let response = responses.message().await.unwrap().expect("a response");
                        refused += usize::from(matches!(response.outcome, Some(Outcome::Error(_))));
                    }
                };
                tokio::select! {
                    () = flooding => panic!("the stream ended"),
                    () = reading => {}
                }
            }));
        }
        sleep(Duration::from_millis(300)).await;
        remove(&ann, &room, "bob").await.unwrap();
        sleep(REVOKED_WITHIN).await;
        let held = everything(&ann, &room).await.len();
        assert!(held > 0);
        for publisher in publishers {
            timeout(Duration::from_secs(20), publisher).await.expect("refused in time").unwrap();
        }
        assert_eq!(everything(&ann, &room).await.len(), held, "{round}");
    }
    first.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_when_the_credentials_with_which_they_were_opened_expire() {
    // Goal: a token counts until its end and no longer. Method: a short-lived one opens a Subscribe, a Consume and a
    // PublishStream with messages before its end; an ended subscription tells its position.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |config| config.auth.leeway = Duration::ZERO).await;
    let ann = issuer.client(&unibus, "ann").await;
    create_room(&ann, "lobby").await;
    create_ephemeral(&ann, "live").await;
    let expires = seconds_from_now(4);
    let token = issuer.sign(&json!({ "sub": "ann", "exp": expires }));
    let brief = connect_with(unibus.address(), Credentials::bearer(&token)).await;
    let mut frames = Frames::transient(&brief, "lobby").await;
    let mut live = Frames::transient(&brief, "live").await;
    let mut consuming = Consuming::start(&brief).await;
    consuming.open(subscription("lobby", "")).await;
    let mut publishing = PublishStream::open(&brief).await;
    assert_eq!(publishing.publish("lobby", "x").await.unwrap(), Code::Ok);
    frames.messages(1).await;

    let wait = Duration::from_secs(6);
    let end = assert_status::<()>(Err(frames.end(wait).await), Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    assert_eq!(metadata(&end, "position"), "1");
    assert!(end.get_details_retry_info().is_some(), "{end:?}");
    assert!(seconds_from_now(0) >= expires && seconds_from_now(0) <= expires + 1, "not at its time");
    assert_status::<()>(Err(live.end(REVOKED_WITHIN).await), Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    assert_eq!(Code::from(closed(&mut consuming, "lobby").await.code), Code::Unauthenticated);
    let end = timeout(REVOKED_WITHIN, async {
        loop {
            match consuming.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended with OK"),
                Err(status) => return status,
            }
        }
    });
    assert_status::<()>(Err(end.await.expect("in time")), Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    let end = publishing.publish("lobby", "late").await;
    assert_status(end, Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    assert_eq!(everything(&ann, "lobby").await.len(), 1);
    unibus.shutdown().await.unwrap();
}
