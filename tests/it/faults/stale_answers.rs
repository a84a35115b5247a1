//! Answers that are older than what this instance knows: they prove nothing.

use std::time::Duration;

use futures_util::StreamExt;
use tonic::Code;
use unibus::v1::{
    AcknowledgeRequest, CreateRoomRequest, HistoryRequest, PublishRequest, history_request::Anchor, start::At,
};

use crate::support::{
    Client, Cluster, Frames, Mode, Nats, Proxy, Unibus, bare_stream, create_room, eventually, explicit, persisted,
    publish, publish_n, reason, sequences, starting, subscription,
};

/// How long a cluster may take to serve again: generous, for machines that are busy with other tests.
const RECOVERY: Duration = Duration::from_secs(60);
const FRAME_WAIT: Duration = Duration::from_secs(30);

async fn instance(urls: &str) -> Unibus {
    Unibus::configured(|config| {
        config.nats.url = Some(urls.to_owned());
        config.registry_replicas = 3;
    })
    .await
}

/// Creates the persisted room `lobby` with three copies.
async fn create_lobby(client: &Client) {
    let request = CreateRoomRequest { replicas: 3, ..persisted("lobby") };
    eventually(RECOVERY, async || {
        client.clone().create_room(request.clone()).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
}

/// A node that leads nothing of the room, and that no client uses.
async fn follower(cluster: &Cluster) -> usize {
    let leader = cluster.leader("UNIBUS_lobby").await;
    (0..3).rev().find(|node| *node != leader && *node != 0).expect("three nodes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_makes_no_gap_and_no_short_page() {
    // Goal: where a server knows no more messages the log need not end. Method: a follower dies, misses 30,000 messages,
    // and comes back; while it catches up, subscriptions from the middle and pages of the middle are asked for, many times
    // over. Nothing was deleted, so there is no gap, and each has what there is.
    const MESSAGES: u64 = 30_000;
    let mut cluster = Cluster::start().await;
    let unibus = instance(&cluster.urls()).await;
    let client = unibus.client().await;
    create_lobby(&client).await;
    publish_n(&client, "lobby", 50).await;
    for round in 0..3_u64 {
        let follower = follower(&cluster).await;
        cluster.nodes[follower].kill9();
        let running = cluster.nodes.iter().find(|node| node.is_running()).expect("a node");
        eventually(RECOVERY, async || publish(&client, "lobby", "x").await.map_err(|status| status.to_string())).await;
        running.publish_n("unibus.room.lobby", usize::try_from(MESSAGES).unwrap()).await;
        cluster.nodes[follower].restart().await;
        let end = 50 + (round + 1) * (MESSAGES + 1);
        for number in 0..15_u64 {
            let from = 40 + number;
            let mut frames = Frames::open(&client, starting("lobby", At::AfterSequence(from))).await.unwrap();
            let read = sequences(&frames.messages(300).await);
            assert_eq!(read, Vec::from_iter(from + 1..=from + 300));
            assert!(frames.gaps.is_empty(), "{:?}", frames.gaps);
            let before = end - 200 * number;
            let request =
                HistoryRequest { room_id: "lobby".into(), limit: 100, anchor: Some(Anchor::BeforeSequence(before)) };
            let page = client.clone().history(request).await.unwrap().into_inner();
            assert_eq!(sequences(&page.messages), Vec::from_iter(before - 100..before));
        }
        cluster.catches_up("UNIBUS_lobby").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_update_while_nats_is_out_of_reach_ends_no_subscription() {
    // Goal: only another life of the log is one. Method: cut the service from NATS, let a native client strip the stream's
    // settings meanwhile, lead the service back; subscriptions of every kind go on.
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.address()).await;
    let url = proxy.nats_url();
    let unibus = Unibus::configured(|config| config.nats.url = Some(url)).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let mut readers = vec![
        Frames::open(&client, subscription("lobby", "")).await.unwrap(),
        Frames::open(&client, explicit("lobby", "ann")).await.unwrap(),
    ];
    for reader in &mut readers {
        reader.until_caught_up().await;
    }
    for round in 1..=3_u64 {
        proxy.set(Mode::Down);
        nats.jetstream().await.create_or_update_stream(bare_stream("lobby")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.set(Mode::Pass);
        eventually(RECOVERY, async || publish(&client, "lobby", "x").await.map_err(|status| status.to_string())).await;
        for reader in &mut readers {
            assert_eq!(reader.messages(1).await[0].sequence, round);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_or_has_just_started_ends_no_subscription() {
    // Goal: an older answer is not a new life of the log. Method: freeze the leader until another one leads and stores,
    // thaw it; kill the leader and start it again; all the while one subscription, which must go on.
    let mut cluster = Cluster::start().await;
    let unibus = instance(&cluster.urls()).await;
    let client = unibus.client().await;
    create_lobby(&client).await;
    publish(&client, "lobby", "first").await.unwrap();
    let mut reader = Frames::open(&client, subscription("lobby", "")).await.unwrap();
    let mut next = 1;
    let mut stored = 1;
    for round in 0..4 {
        let leader = cluster.leader("UNIBUS_lobby").await;
        if round % 2 == 0 {
            cluster.nodes[leader].freeze().await;
        } else {
            cluster.nodes[leader].kill9();
        }
        for _ in 0..20 {
            let message = PublishRequest {
                room_id: "lobby".into(),
                payload: "x".into(),
                message_id: stored.to_string(),
                ..PublishRequest::default()
            };
            eventually(RECOVERY, async || {
                client.clone().publish(message.clone()).await.map_err(|status| status.to_string())
            })
            .await;
            stored += 1;
        }
        if round % 2 == 0 {
            cluster.nodes[leader].thaw();
        } else {
            cluster.nodes[leader].restart().await;
        }
        while next <= stored {
            let message = &reader.messages(1).await[0];
            assert_eq!(message.sequence, next);
            next += 1;
        }
        cluster.catches_up("UNIBUS_lobby").await;
    }
    assert!(reader.gaps.is_empty(), "{:?}", reader.gaps);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_delivered_can_be_acknowledged_through_any_instance() {
    // Goal: a follower delivers before the leader has applied; the message is there all the same. Method: one instance for
    // each server; each message is acknowledged through another instance the moment it is delivered, 300 times.
    let cluster = Cluster::start().await;
    let mut clients = Vec::new();
    let mut instances = Vec::new();
    for node in &cluster.nodes {
        let unibus = instance(&node.url()).await;
        clients.push(unibus.client().await);
        instances.push(unibus);
    }
    create_lobby(&clients[0]).await;
    eventually(RECOVERY, async || {
        Frames::open(&clients[1], explicit("lobby", "ann")).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
    let mut reader = Frames::open(&clients[1], explicit("lobby", "ann")).await.unwrap();
    let publishing = publish_n(&clients[0], "lobby", 300);
    let acknowledging = async {
        for number in 0..300_usize {
            let sequence = reader.messages(1).await[0].sequence;
            let request =
                AcknowledgeRequest { room_id: "lobby".into(), subscriber: "ann".into(), sequence, generation: None };
            let answer = clients[number % 3].clone().acknowledge(request).await;
            assert_eq!(
                answer.unwrap_or_else(|status| panic!("{sequence}: {status:?}")).into_inner().position,
                sequence
            );
        }
    };
    tokio::join!(publishing, acknowledging);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mismatch_that_a_deposed_leader_answers_is_not_passed_on() {
    // Goal: "nothing was stored" is only said of what is not stored. Method: a native responder answers each publish with a
    // mismatch before the leader of a room with three copies stores it. With a message id the answer is where it is stored;
    // without one the outcome is unknown; a real mismatch is told as one.
    let cluster = Cluster::start().await;
    let unibus = instance(&cluster.urls()).await;
    let mut client = unibus.client().await;
    create_lobby(&client).await;
    publish(&client, "lobby", "first").await.unwrap();
    let native = cluster.nodes[0].client().await;
    let mut heard = native.subscribe("unibus.room.lobby").await.unwrap();
    native.flush().await.unwrap();
    let responder = tokio::spawn(async move {
        while let Some(message) = heard.next().await {
            let refusal = r#"{"type":"io.nats.jetstream.api.v1.pub_ack_response","error":{"code":400,"err_code":10071,"description":"wrong last sequence: 0"},"stream":"UNIBUS_lobby","seq":0}"#;
            native.publish(message.reply.expect("a reply subject"), refusal.into()).await.unwrap();
        }
    });
    let mut last = 1;
    for number in 0..20_u64 {
        let message_id = if number % 2 == 0 { number.to_string() } else { String::new() };
        let request = PublishRequest {
            room_id: "lobby".into(),
            payload: number.to_string().into(),
            message_id: message_id.clone(),
            expected_last_sequence: Some(last),
            ..PublishRequest::default()
        };
        match client.publish(request).await {
            Ok(stored) => assert_eq!(stored.into_inner().sequence, last + 1),
            Err(status) => {
                assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}");
                assert!(message_id.is_empty(), "{status:?}");
            }
        }
        last += 1;
        let page = crate::support::history(&client, "lobby", 1).await;
        assert_eq!((page.last_sequence, page.messages[0].payload.clone()), (last, number.to_string().into()));
    }
    for expected in [last - 1, last + 5] {
        let request = PublishRequest {
            room_id: "lobby".into(),
            payload: "late".into(),
            message_id: format!("late-{expected}"),
            expected_last_sequence: Some(expected),
            ..PublishRequest::default()
        };
        let status = client.publish(request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "SEQUENCE_MISMATCH".into()));
    }
    responder.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mismatch_that_cannot_be_checked_leaves_the_outcome_open() {
    // Goal: an error of the look-up is not the answer. Method: a native responder answers the publish with a mismatch, and
    // with that NATS goes out of reach.
    let nats = Nats::start().await;
    let proxy = std::sync::Arc::new(Proxy::start(nats.address()).await);
    let url = proxy.nats_url();
    let unibus = Unibus::configured(|config| config.nats.url = Some(url)).await;
    let mut client = unibus.client().await;
    create_room(&client, "lobby").await;
    let native = nats.client().await;
    let mut heard = native.subscribe("unibus.room.lobby").await.unwrap();
    native.flush().await.unwrap();
    let (responding_native, responding_proxy) = (native.clone(), std::sync::Arc::clone(&proxy));
    let responder = tokio::spawn(async move {
        let message = heard.next().await.expect("a publish");
        let refusal = r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"}}"#;
        responding_native.publish(message.reply.expect("a reply subject"), refusal.into()).await.unwrap();
        responding_native.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        responding_proxy.set(Mode::Freeze);
    });
    // the stream stores it all the same, and its acknowledgement comes second or is lost
    let request = PublishRequest {
        room_id: "lobby".into(),
        payload: "x".into(),
        message_id: "x".into(),
        expected_last_sequence: Some(7),
        ..PublishRequest::default()
    };
    let answered = tokio::time::timeout(FRAME_WAIT, client.publish(request)).await.expect("an answer in time");
    let found = reason(&answered.unwrap_err());
    assert!(["OUTCOME_UNKNOWN", "SEQUENCE_MISMATCH"].contains(&found.as_str()), "{found}");
    responder.await.unwrap();
    proxy.set(Mode::Pass);
}
