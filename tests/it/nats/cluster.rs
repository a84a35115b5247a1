//! A cluster of three nats-servers: what one of them may do to a room is nothing.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::{join, join_all, join3};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use unibus::{
    NatsSync,
    v1::{
        CreateRoomRequest, Durability, PublishRequest, PublishResponse, Start, SubscribeRequest, start::At,
        subscribe_response::Frame,
    },
};

use crate::support::{
    Client, Cluster, Frames, Unibus, eventually, everything, history, page, persisted, publish, sequences, subscription,
};

/// How long the cluster may take to elect a leader and serve again: generous, for machines that are busy with other tests.
const RECOVERY: Duration = Duration::from_secs(60);
/// A subscription is never silent for as long as this.
const SILENCE: Duration = Duration::from_secs(10);
/// The last payload.
const END: &str = "end";

/// An instance that may use these servers.
async fn instance(urls: &str, sync: NatsSync) -> Unibus {
    Unibus::configured(|config| {
        config.nats.url = Some(urls.to_owned());
        config.nats.sync = sync;
        config.registry_replicas = 3;
    })
    .await
}

/// Creates the persisted room `lobby` with three copies.
async fn create_lobby(client: &Client) {
    let request = CreateRoomRequest { replicas: 3, ..persisted("lobby") };
    let room = client.clone().create_room(request).await.unwrap().into_inner().room;
    assert_eq!(room.unwrap().replicas, 3);
}

/// Publishes with the payload as message id, until it is acknowledged.
async fn publish_until_acknowledged(client: &Client, payload: &str) -> PublishResponse {
    let request = PublishRequest {
        room_id: "lobby".into(),
        payload: payload.to_owned().into(),
        message_id: payload.to_owned(),
        ..PublishRequest::default()
    };
    eventually(RECOVERY, async || match client.clone().publish(request.clone()).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) if is_passing(&status) => Err(status.to_string()),
        Err(status) => panic!("{status:?}"),
    })
    .await
}

/// Whether the status invites to try again.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Publishes one message after the other until `stop`, and gives the sequence of each.
async fn publish_on(client: &Client, name: usize, stop: &CancellationToken, count: &AtomicU64) -> Vec<(u64, String)> {
    let mut acknowledged = Vec::new();
    while !stop.is_cancelled() {
        let payload = format!("{name}-{}", acknowledged.len());
        let sequence = publish_until_acknowledged(client, &payload).await.sequence;
        acknowledged.push((sequence, payload));
        count.fetch_add(1, Ordering::Relaxed);
    }
    acknowledged
}

/// Waits until so many more messages than now are acknowledged.
async fn publishing_goes_on(count: &AtomicU64, more: u64) {
    let before = count.load(Ordering::Relaxed);
    eventually(RECOVERY, async || {
        let now = count.load(Ordering::Relaxed);
        (now >= before + more).then_some(()).ok_or_else(|| format!("{} more", now - before))
    })
    .await;
}

/// Subscribes until the last payload, again whenever the subscription ends with a passing status; asserts that nothing is
/// left out, and gives all the sequences.
async fn follow(client: &Client, subscriber: &str) -> Vec<u64> {
    let mut seen: Vec<u64> = Vec::new();
    loop {
        let last = seen.last().copied().unwrap_or_default();
        let again = SubscribeRequest {
            start: Some(Start { at: Some(At::AfterSequence(last)) }),
            ..subscription("lobby", subscriber)
        };
        let mut frames = eventually(RECOVERY, async || {
            Frames::open(client, again.clone()).await.map_err(|status| status.to_string())
        })
        .await;
        let mut next = frames.opened().position + 1;
        assert!(next <= last + 1, "resumes at {next} after {last}");
        loop {
            match frames.next_frame(SILENCE).await {
                Ok(Some(Frame::Message(message))) => {
                    assert_eq!(message.sequence, next);
                    next += 1;
                    if message.sequence > last {
                        seen.push(message.sequence);
                    }
                    if message.payload == END {
                        return seen;
                    }
                }
                Ok(Some(Frame::Gap(gap))) => panic!("{gap:?}"),
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended with OK"),
                Err(status) if is_passing(&status) => break,
                Err(status) => panic!("{status:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_the_leaders_server_loses_nothing() {
    // Goal: with three copies a server may die. Method: four publishers with message ids and retries, a durable and a
    // transient subscriber; SIGKILL the server that leads the room's stream, twice over, restarting it in between. Every
    // acknowledged message is in history, once, at its sequence, in its publisher's order; the subscribers left nothing out.
    const PUBLISHERS: usize = 4;
    let mut cluster = Cluster::start().await;
    let unibus = instance(&cluster.urls(), NatsSync::Interval).await;
    let client = unibus.client().await;
    create_lobby(&client).await;

    let stop = CancellationToken::new();
    let count = AtomicU64::new(0);
    let publishing = async {
        let publishers = (0..PUBLISHERS).map(|name| publish_on(&client, name, &stop, &count));
        let acknowledged = join_all(publishers).await;
        publish_until_acknowledged(&client, END).await;
        acknowledged
    };
    let killing = async {
        for _ in 0..2 {
            publishing_goes_on(&count, 200).await;
            let leader = cluster.leader("UNIBUS_lobby").await;
            cluster.nodes[leader].kill9();
            publishing_goes_on(&count, 200).await;
            cluster.nodes[leader].restart().await;
            cluster.catches_up("UNIBUS_lobby").await;
        }
        stop.cancel();
    };
    let following = join(follow(&client, "ann"), follow(&client, ""));
    let (acknowledged, (durable, transient), ()) = join3(publishing, following, killing).await;

    let messages = everything(&client, "lobby").await;
    let count = acknowledged.iter().map(Vec::len).sum::<usize>() + 1;
    assert_eq!(sequences(&messages), Vec::from_iter(1..=count as u64));
    for (sequence, payload) in acknowledged.iter().flatten() {
        let stored = &messages[usize::try_from(sequence - 1).unwrap()];
        assert_eq!(stored.payload, *payload);
    }
    for published in &acknowledged {
        assert!(published.is_sorted());
    }
    for seen in [durable, transient] {
        assert_eq!(seen, sequences(&messages));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_has_every_message_that_was_acknowledged_before() {
    // Goal: reading one's own writes, and those of others, in a cluster. Method: one instance for each server; publish through
    // one and ask another at once, 200 times over, in all directions; every page ends with what was acknowledged.
    let cluster = Cluster::start().await;
    let mut instances = Vec::new();
    for node in &cluster.nodes {
        instances.push(instance(&node.url(), NatsSync::Unknown).await);
    }
    let mut clients = Vec::new();
    for unibus in &instances {
        clients.push(unibus.client().await);
    }
    create_lobby(&clients[0]).await;
    for client in &clients {
        eventually(RECOVERY, async || page(client, "lobby", 1, None).await.map_err(|status| status.to_string())).await;
    }
    for number in 0..200_usize {
        let (writer, reader) = (&clients[number % 3], &clients[(number / 3) % 3]);
        let sequence = publish(writer, "lobby", number.to_string()).await.unwrap().sequence;
        let read = history(reader, "lobby", 10).await;
        assert_eq!(read.last_sequence, sequence);
        let oldest = sequence.saturating_sub(9).max(1);
        assert_eq!(sequences(&read.messages), Vec::from_iter(oldest..=sequence), "message {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durability_says_what_the_copies_are_worth() {
    // Goal: the answer names the majority, and claims a sync only where the operator declared it. Method: a room with three
    // copies and one with a single copy, through instances with each declaration.
    let cluster = Cluster::start().await;
    let urls = cluster.urls();
    let cases = [
        (NatsSync::Interval, Durability::Buffered, Durability::Quorum),
        (NatsSync::Always, Durability::Synced, Durability::QuorumSynced),
    ];
    for (sync, of_one, of_three) in cases {
        let unibus = instance(&urls, sync).await;
        let mut client = unibus.client().await;
        create_lobby(&client).await;
        client.create_room(persisted("hall")).await.unwrap();
        assert_eq!(publish(&client, "hall", "x").await.unwrap().durability(), of_one);
        assert_eq!(publish(&client, "lobby", "x").await.unwrap().durability(), of_three);
    }
}
