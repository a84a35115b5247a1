//! Group commit: publishes that wait together are stored together, and nobody notices but the disk.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use unibus::{NatsSync, v1::PublishRequest};

use crate::support::{
    Client, Frames, Nats, NatsOptions, Unibus, bare_stream, create_room, eventually, history, payloads, publish,
    publishing::{by_stream, named, plain},
    sequences,
};

/// A service that knows that its NATS server syncs every write, and commits in groups.
async fn grouping(nats: &Nats) -> Unibus {
    let url = nats.url();
    Unibus::configured(|config| (config.nats.url, config.nats.sync) = (Some(url), NatsSync::Always)).await
}

/// How many of the room's messages were stored in a batch of NATS.
async fn grouped(nats: &Nats) -> usize {
    let mut stream = nats.stream("lobby").await;
    let last = stream.info().await.unwrap().state.last_sequence;
    let mut grouped = 0;
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await.unwrap();
        grouped += usize::from(message.headers.get("Nats-Batch-Id").is_some());
    }
    grouped
}

/// Publishes all at the same time, by unary calls over a few connections.
async fn at_once(clients: &[Client], requests: Vec<PublishRequest>) -> Vec<(u64, bool)> {
    let calls = requests.into_iter().zip(clients.iter().cycle()).map(|(request, client)| {
        let mut client = client.clone();
        async move {
            let stored = client.publish(request).await.unwrap().into_inner();
            (stored.sequence, stored.duplicate)
        }
    });
    join_all(calls).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_of_many_clients_are_stored_together_and_read_as_if_alone() {
    // Goal: what is answered is what is stored, and no trace of the batch reaches readers. Method: 600 unary calls at once,
    // and two streams; every answer names its own message; readers see no headers, though NATS has those of its batches. A
    // live subscription gets the same.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = grouping(&nats).await;
    let clients = [unibus.client().await, unibus.client().await, unibus.client().await];
    create_room(&clients[0], "lobby").await;
    let mut frames = Frames::transient(&clients[0], "lobby").await;
    frames.until_caught_up().await;

    let requests: Vec<_> = (0..600).map(|number| plain("lobby", format!("call {number}"))).collect();
    let of_stream = |stream: &str| (0..200).map(|number| plain("lobby", format!("{stream} {number:03}"))).collect();
    let [a, b]: [Vec<_>; 2] = ["a", "b"].map(of_stream);
    let (called, by_a, by_b) = tokio::join!(
        at_once(&clients, requests.clone()),
        by_stream(&clients[1], a.clone()),
        by_stream(&clients[2], b.clone())
    );
    let streamed = by_a.into_iter().chain(by_b).map(|outcome| outcome.unwrap().sequence);
    let answers = called.into_iter().map(|(sequence, _)| sequence).chain(streamed);
    let payloads_sent = requests.into_iter().chain(a).chain(b).map(|request| request.payload);
    let answered: BTreeMap<_, _> = answers.zip(payloads_sent).collect();
    assert_eq!(answered.len(), 1000, "a sequence was answered twice");

    let kept = history(&clients[0], "lobby", 1000).await.messages;
    let read = frames.messages(1000).await;
    for messages in [&kept, &read] {
        assert_eq!(sequences(messages), Vec::from_iter(1..=1000));
        assert!(messages.iter().all(|message| message.headers.is_empty() && message.message_id.is_empty()));
        assert!(messages.iter().all(|message| message.payload == answered[&message.sequence]));
    }
    for stream in ["a", "b"] {
        let of_stream = payloads(&kept).into_iter().filter(|payload| payload.starts_with(stream));
        assert!(of_stream.is_sorted(), "{stream} is out of order");
    }
    let grouped = grouped(&nats).await;
    assert!(grouped > 500, "{grouped} of 1000 were committed in groups");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_publish_goes_alone() {
    // Goal: a group never delays who is alone. Method: one after the other, and five at a time; no message is in a batch.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = grouping(&nats).await;
    let clients = [unibus.client().await];
    create_room(&clients[0], "lobby").await;
    for _ in 0..20 {
        publish(&clients[0], "lobby", "alone").await.unwrap();
        at_once(&clients, vec![plain("lobby", "few"); 5]).await;
    }
    assert_eq!(grouped(&nats).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_among_many_are_answered_with_the_first_sequence() {
    // Goal: an id is stored once, in whatever group its copies are. Method: three waves at once of the same 200 ids, each
    // twice, mixed with messages without ids.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = grouping(&nats).await;
    let clients = [unibus.client().await, unibus.client().await];
    create_room(&clients[0], "lobby").await;
    let mut firsts: BTreeMap<String, u64> = BTreeMap::new();
    for wave in 0..3 {
        let mut requests = Vec::new();
        for number in 0..200 {
            let id = format!("id {number}").replace(' ', "-");
            requests.extend([named("lobby", &id), plain("lobby", format!("wave {wave}")), named("lobby", &id)]);
        }
        let answers = at_once(&clients, requests.clone()).await;
        let mut stored = BTreeMap::new();
        for (request, (sequence, duplicate)) in requests.into_iter().zip(answers) {
            if request.message_id.is_empty() {
                assert!(!duplicate);
                continue;
            }
            let first = *firsts.entry(request.message_id.clone()).or_insert(sequence);
            assert_eq!(sequence, first, "{}", request.message_id);
            *stored.entry(request.message_id).or_insert(0) += usize::from(!duplicate);
        }
        assert!(stored.values().all(|count| *count == usize::from(wave == 0)), "{stored:?}");
    }
    let kept = history(&clients[0], "lobby", 1).await.last_sequence;
    assert_eq!(kept, 200 + 3 * 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_takes_no_batches_is_published_to_plainly_and_repaired() {
    // Goal: another program's bare update costs speed for a moment, and nothing else. Method: such an update, again and again
    // under load; every message is stored once, in the order of its client, and at the end there are groups again.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = grouping(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let jetstream = nats.jetstream().await;
    let bare = bare_stream("lobby");
    let mut expected = Vec::new();
    for round in 0..5 {
        jetstream.update_stream(&bare).await.unwrap();
        let requests: Vec<_> = (0..150).map(|number| plain("lobby", format!("{round} {number:03}"))).collect();
        expected.extend(requests.iter().map(|request| String::from_utf8(request.payload.to_vec()).unwrap()));
        let outcomes = by_stream(&client, requests).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    assert_eq!(payloads(&history(&client, "lobby", 1000).await.messages), expected);
    eventually(Duration::from_secs(20), async || {
        let before = grouped(&nats).await;
        by_stream(&client, vec![plain("lobby", "x"); 300]).await;
        (grouped(&nats).await > before).then_some(()).ok_or_else(|| String::from("no groups"))
    })
    .await;
}
