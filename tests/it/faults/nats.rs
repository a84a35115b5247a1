//! NATS dies, freezes and comes back, under the service and its clients.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::{Code, Status, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus as Serving, health_client::HealthClient,
};
use tonic_types::StatusExt;
use unibus::v1::{GetRoomRequest, PublishRequest, PublishResponse, subscribe_response::Frame};

use crate::support::{
    Client, Frames, Lobby, Nats, Unibus, acknowledge, eventually, explicit, history, listed, metadata, page, payloads,
    persisted, publish, publish_n, reason, sequences, subscription,
};

/// No call takes longer than this while NATS is away.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);
/// How soon everything works again when NATS is back.
const HEAL_WITHIN: Duration = Duration::from_secs(15);

/// Publishes until it is acknowledged, always with the same message id.
async fn publish_surely(client: &Client, room_id: &str, id: &str) -> PublishResponse {
    let request = PublishRequest {
        room_id: room_id.into(),
        payload: id.to_owned().into(),
        message_id: id.into(),
        ..PublishRequest::default()
    };
    eventually(Duration::from_secs(30), async || {
        let published = client.clone().publish(request.clone()).await;
        published.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_subscription_goes_on_after_nats_was_killed() {
    // Goal: a restart of NATS is invisible to subscribers, but for a pause. Method: subscriptions of every kind; SIGKILL
    // NATS, see signs of life go on, restart it; what is published afterwards follows without a gap or a duplicate.
    let (mut lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 5).await;
    let mut open = Vec::new();
    for request in [subscription("lobby", "ann"), explicit("lobby", "bob"), subscription("lobby", "")] {
        let mut frames = Frames::open(&client, request).await.unwrap();
        assert_eq!(sequences(&frames.until_caught_up().await), [1, 2, 3, 4, 5]);
        open.push(frames);
    }
    for round in 1..=2 {
        lobby.nats.kill9();
        for frames in &mut open {
            for _ in 0..2 {
                let next = frames.next_frame(Duration::from_secs(5)).await.unwrap();
                assert!(matches!(next, Some(Frame::Heartbeat(_))), "{next:?}");
            }
        }
        lobby.nats.restart().await;
        for number in 1..=5 {
            publish_surely(&client, "lobby", &format!("{round}.{number}")).await;
        }
        for frames in &mut open {
            let messages = frames.messages(5).await;
            let first = 5 * round + 1;
            assert_eq!(sequences(&messages), listed(first..first + 5));
            assert_eq!(frames.gaps, []);
        }
    }
}

/// Asserts that a call failed as calls do while NATS is away, in time and with the advice to retry.
async fn is_unavailable<T: std::fmt::Debug>(what: &str, call: impl Future<Output = Result<T, Status>>) {
    let begun = Instant::now();
    let status = timeout(ANSWER_WITHIN, call).await.unwrap_or_else(|_| panic!("{what}: no answer")).expect_err(what);
    let answered = (status.code(), reason(&status));
    let expected = match what {
        // It may have been on its way when NATS died.
        "publish" if answered.0 == Code::DeadlineExceeded => (Code::DeadlineExceeded, "OUTCOME_UNKNOWN".to_owned()),
        _ => (Code::Unavailable, "NATS_UNAVAILABLE".to_owned()),
    };
    assert_eq!(answered, expected, "{what} after {:?}: {status:?}", begun.elapsed());
    assert!(status.get_details_retry_info().is_some(), "{what}: {status:?}");
}

/// Every call that needs NATS fails as [`is_unavailable`] says, the calls being made one after the other.
async fn nothing_is_available(client: &Client, new_room: &str) {
    let mut rooms = client.clone();
    is_unavailable("publish", publish(client, "lobby", "lost")).await;
    is_unavailable("history", page(client, "lobby", 0, None)).await;
    is_unavailable("create", rooms.create_room(persisted(new_room))).await;
    is_unavailable("get", rooms.get_room(GetRoomRequest { room_id: "lobby".into() })).await;
    is_unavailable("acknowledge", acknowledge(client, "lobby", "ann", 1)).await;
    for subscriber in ["ann", ""] {
        let opened = async { Frames::open(client, subscription("lobby", subscriber)).await.map(|_| ()) };
        is_unavailable("subscribe", opened).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_nats_calls_fail_in_time_and_heal_with_it() {
    // Goal: NATS down is an answer, not a hang, and passes by itself. Method: kill NATS; every call, at once and again
    // later; restart; every call works, and the room that could not be created can be.
    let (mut lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    drop(Frames::durable(&client, "lobby", "ann").await);

    lobby.nats.kill9();
    nothing_is_available(&client, "new").await;
    nothing_is_available(&client, "new").await;
    lobby.nats.restart().await;

    eventually(HEAL_WITHIN, async || {
        publish(&client, "lobby", "healed").await.map_err(|status| status.to_string())?;
        let created = client.clone().create_room(persisted("new")).await;
        created.map_err(|status| status.to_string())
    })
    .await;
    let messages = history(&client, "lobby", 0).await.messages;
    assert_eq!(messages.last().expect("a message").payload, "healed");
    acknowledge(&client, "lobby", "ann", 2).await.unwrap();
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.messages(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_nats() {
    // Goal: a load balancer sees what clients would. Method: watch the service's health and the whole server's; kill NATS,
    // restart it; NOT_SERVING and back.
    let mut nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    let mut watches = Vec::new();
    for service in ["", "unibus.v1.RoomService"] {
        let request = HealthCheckRequest { service: service.into() };
        watches.push(health.watch(request).await.unwrap().into_inner());
    }
    for (change, expected) in
        [("start", Serving::Serving), ("kill", Serving::NotServing), ("restart", Serving::Serving)]
    {
        match change {
            "kill" => nats.kill9(),
            "restart" => nats.restart().await,
            _ => {}
        }
        for watch in &mut watches {
            let next = timeout(HEAL_WITHIN, watch.message()).await.expect(change).unwrap();
            assert_eq!(next.expect("open").status(), expected, "{change}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_an_unknown_outcome_is_stored_once() {
    // Goal: OUTCOME_UNKNOWN is honest, and the message id makes the retry safe. Method: freeze NATS, so that a publish is
    // sent and not answered; thaw it, so that it is stored after all; the retry is told so.
    let (lobby, client) = Lobby::open().await;
    let request = PublishRequest {
        room_id: "lobby".into(),
        payload: "once".into(),
        message_id: "once".into(),
        ..PublishRequest::default()
    };

    lobby.nats.freeze().await;
    let unknown = timeout(ANSWER_WITHIN, client.clone().publish(request)).await;
    lobby.nats.thaw();
    let unknown = unknown.expect("an answer in time").unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::DeadlineExceeded, "OUTCOME_UNKNOWN"));
    assert!(unknown.get_details_retry_info().is_some());

    let stored = publish_surely(&client, "lobby", "once").await;
    assert_eq!((stored.sequence, stored.duplicate), (1, true));
    assert_eq!(payloads(&history(&client, "lobby", 0).await.messages), ["once"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_nats_is_answered_for_in_time() {
    // Goal: a NATS server that hangs is no reason to hang. Method: freeze it; each call is answered in time with a code that
    // asks for a retry; thaw it; the calls work, and an open subscription goes on.
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let mut frames = Frames::durable(&client, "lobby", "ann").await;
    frames.until_caught_up().await;

    lobby.nats.freeze().await;
    let mut rooms = client.clone();
    let (read, created, acknowledged, opened) = tokio::join!(
        timeout(ANSWER_WITHIN, page(&client, "lobby", 0, None)),
        timeout(ANSWER_WITHIN, rooms.create_room(persisted("new"))),
        timeout(ANSWER_WITHIN, acknowledge(&client, "lobby", "ann", 1)),
        timeout(ANSWER_WITHIN, Frames::open(&client, subscription("lobby", ""))),
    );
    lobby.nats.thaw();
    let statuses = [
        read.expect("history in time").map(|_| ()),
        created.expect("create in time").map(|_| ()),
        acknowledged.expect("acknowledge in time").map(|_| ()),
        opened.expect("subscribe in time").map(|_| ()),
    ];
    for status in statuses {
        let status = status.unwrap_err();
        assert!([Code::Unavailable, Code::DeadlineExceeded].contains(&status.code()), "{status:?}");
        assert!(["NATS_UNAVAILABLE", "TIMEOUT"].contains(&reason(&status).as_str()), "{status:?}");
        assert!(status.get_details_retry_info().is_some(), "{status:?}");
    }
    publish_surely(&client, "lobby", "on").await;
    assert_eq!(payloads(&frames.messages(1).await), ["on"]);
    assert_eq!(frames.gaps, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_without_nats_ends_with_its_position() {
    // Goal: an outage that lasts is not waited out for ever. Method: kill NATS and leave it dead; the subscription gives
    // signs of life, and then ends with a status that says where to go on.
    let (mut lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", 3).await;
    let mut frames = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    frames.until_caught_up().await;
    lobby.nats.kill9();
    let ended = timeout(Duration::from_secs(60), async {
        loop {
            match frames.next_frame(Duration::from_secs(5)).await {
                Ok(Some(Frame::Heartbeat(_))) => {}
                Ok(frame) => panic!("{frame:?}"),
                Err(status) => return status,
            }
        }
    });
    let status = ended.await.expect("an end");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "NATS_UNAVAILABLE"));
    assert_eq!(metadata(&status, "position"), "3");
}
