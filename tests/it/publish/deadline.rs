//! Every way to publish is answered in time, and says what it knows, whatever NATS does.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tonic::{Code, Status};
use unibus::v1::PublishRequest;

use crate::support::{
    Client, Lobby, Mode, Nats, Proxy, Unibus, assert_status, create_room, eventually, everything, payloads, publish,
    publishing::{Outcome, by_batch, by_calls, by_stream, named, plain, together},
    reason,
};

/// The contract's bound for a publish.
const BOUND: Duration = Duration::from_secs(5);
/// What a busy machine may add: far less than any further wait would.
const SLACK: Duration = Duration::from_secs(2);

/// What a call gives, and asserts that it came in time.
async fn in_time<T>(what: &str, call: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let result = call.await;
    assert!(begun.elapsed() < BOUND + SLACK, "{what} took {:?}", begun.elapsed());
    result
}

/// As [`in_time`], for a call that is expected to fail.
async fn refused_in_time<T: std::fmt::Debug>(what: &str, call: impl Future<Output = Result<T, Status>>) -> Status {
    in_time(what, call).await.expect_err(what)
}

/// Asserts that an outcome is one of those that a publish has while NATS is silent.
fn assert_honest(what: &str, outcome: &Outcome) {
    if let Err(status) = outcome {
        let known = [(Code::DeadlineExceeded, "OUTCOME_UNKNOWN"), (Code::Unavailable, "NATS_UNAVAILABLE")];
        assert!(known.contains(&(status.code(), &*reason(status))), "{what}: {status:?}");
    }
}

/// An instance that reaches NATS through a proxy.
async fn behind(proxy: &Proxy) -> Unibus {
    let url = proxy.nats_url();
    Unibus::configured(|config| config.nats.url = Some(url)).await
}

/// The messages with these texts, some of them with ids, some with an expected last sequence.
fn messages(path: &str, count: usize) -> Vec<PublishRequest> {
    let message = |number: usize| {
        let text = format!("{path}.{number}");
        let message = if number.is_multiple_of(2) { named("lobby", &text) } else { plain("lobby", text) };
        let expected_last_sequence = number.is_multiple_of(5).then_some(1_000_000);
        PublishRequest { expected_last_sequence, ..message }
    };
    (0..count).map(message).collect()
}

/// Publishes by calls and batches at once, asserting that each ends in time; each text with its outcome.
async fn calls_and_batches(client: &Client) -> Vec<(String, Outcome)> {
    let texts = |requests: &[PublishRequest]| -> Vec<String> {
        requests.iter().map(|request| String::from_utf8(request.payload.to_vec()).expect("text")).collect()
    };
    let calls = async {
        let requests = messages("call", 20);
        let calls = requests.iter().map(|request| in_time("a call", by_calls(client, vec![request.clone()])));
        let outcomes: Vec<Outcome> = join_all(calls).await.into_iter().flatten().collect();
        (texts(&requests), outcomes)
    };
    let batch = async {
        let requests = messages("batch", 1000);
        (texts(&requests), in_time("a batch", by_batch(client, requests)).await)
    };
    let atomic = async {
        let mut requests = messages("atomic", 30);
        for request in &mut requests {
            request.expected_last_sequence = None;
        }
        let texts = texts(&requests);
        let outcomes = match in_time("an atomic batch", together(client, requests)).await {
            Ok(stored) => stored.into_iter().map(Ok).collect(),
            Err(status) => vec![Err(status); texts.len()],
        };
        (texts, outcomes)
    };
    let (calls, batch, atomic) = tokio::join!(calls, batch, atomic);
    [calls, batch, atomic].into_iter().flat_map(|(texts, outcomes)| texts.into_iter().zip(outcomes)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_delays_no_answer_beyond_the_bound() {
    // Goal: 5 s from the call to its answer, and no message that was said not to be stored is. Method: freeze the server; by
    // every path at once far more than may be under way, with and without ids and expectations; thaw it, and read.
    let (lobby, client) = Lobby::open().await;
    publish(&client, "lobby", "before").await.unwrap();
    lobby.nats.freeze().await;
    let stream = async {
        // as many as may be under way on a stream
        let requests = messages("stream", 1000);
        let texts = (0..1000).map(|number| format!("stream.{number}"));
        texts.zip(in_time("a stream", by_stream(&client, requests)).await).collect::<Vec<_>>()
    };
    let (mut outcomes, streamed) = tokio::join!(calls_and_batches(&client), stream);
    outcomes.extend(streamed);
    lobby.nats.thaw();
    for (text, outcome) in &outcomes {
        assert_honest(text, outcome);
        outcome.as_ref().expect_err("the server is frozen");
    }
    let unknown = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.as_ref().is_err_and(|status| reason(status) == "OUTCOME_UNKNOWN"));
    assert!((1..outcomes.len()).contains(&unknown.count()), "all outcomes are alike");
    eventually(Duration::from_secs(20), async || {
        publish(&client, "lobby", "after").await.map(drop).map_err(|status| status.to_string())
    })
    .await;
    let stored: HashSet<String> = payloads(&everything(&client, "lobby").await).into_iter().collect();
    for (text, outcome) in outcomes {
        let was_not_sent = outcome.is_err_and(|status| status.code() == Code::Unavailable);
        assert!(!(was_not_sent && stored.contains(&text)), "{text} is stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_delays_no_answer_beyond_the_bound() {
    // Goal: the wait for a place in the room's queue counts too, also for the last message of a batch. Method: freeze the
    // server; many streams fill the queue; batches and calls after that.
    let (lobby, client) = Lobby::open().await;
    publish(&client, "lobby", "before").await.unwrap();
    lobby.nats.freeze().await;
    let fill = join_all((0..10).map(|number| {
        let client = &client;
        async move {
            let requests = vec![plain("lobby", format!("fill.{number}")); 1000];
            by_stream(client, requests).await
        }
    }));
    let late = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        calls_and_batches(&client).await
    };
    let (filled, late) = tokio::join!(fill, late);
    lobby.nats.thaw();
    for outcome in filled.iter().flatten() {
        assert_honest("fill", outcome);
    }
    for (text, outcome) in &late {
        assert_honest(text, outcome);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_cannot_be_looked_up_delays_no_answer() {
    // Goal: finding the room counts too, and nothing was sent. Method: an instance whose link to NATS is silent since before the
    // room was created elsewhere.
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.address()).await;
    let (near, far) = (Unibus::start(&nats).await, behind(&proxy).await);
    let (client, cut_off) = (near.client().await, far.client().await);
    proxy.set(Mode::Freeze);
    create_room(&client, "lobby").await;
    let calls = by_calls(&cut_off, messages("call", 1));
    let stream = by_stream(&cut_off, messages("stream", 1));
    let batch = together(&cut_off, messages("batch", 2));
    let (calls, stream, batch) =
        tokio::join!(in_time("a call", calls), in_time("a stream", stream), in_time("a batch", batch));
    for outcome in calls.into_iter().chain(stream) {
        assert_status(outcome, Code::Unavailable, "NATS_UNAVAILABLE");
    }
    assert_status(batch, Code::Unavailable, "NATS_UNAVAILABLE");
    proxy.set(Mode::Pass);
    assert_eq!(everything(&client, "lobby").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_refusal_counts_too() {
    // Goal: the bound is that of the whole call. Method: a link that delays each byte by 1.5 s, so that an answer and a question
    // after it take longer than a publish may; refusals after which the service has to ask: an expectation that is not met, with and
    // without an id, an atomic batch that is there already, and a stream that is gone.
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.address()).await;
    let unibus = behind(&proxy).await;
    let client = unibus.client().await;
    for room_id in ["lobby", "gone", "batched"] {
        create_room(&client, room_id).await;
    }
    // of a room of its own: a batch holds back what is published after it
    let batch = || vec![named("batched", "first"), named("batched", "second")];
    together(&client, batch()).await.unwrap();
    proxy.set(Mode::Delay(Duration::from_millis(1500)));
    nats.jetstream().await.delete_stream("UNIBUS_gone").await.unwrap();

    let expecting = |message: PublishRequest| {
        let mut client = client.clone();
        async move { client.publish(PublishRequest { expected_last_sequence: Some(1), ..message }).await }
    };
    let with_id = refused_in_time("with an id", expecting(named("lobby", "third")));
    let without = refused_in_time("without an id", expecting(plain("lobby", "third")));
    let again = in_time("the batch again", together(&client, batch()));
    let gone = refused_in_time("a stream that is gone", publish(&client, "gone", "x"));
    let (with_id, without, again, gone) = tokio::join!(with_id, without, again, gone);
    assert!(["OUTCOME_UNKNOWN", "SEQUENCE_MISMATCH"].contains(&&*reason(&with_id)), "{with_id:?}");
    assert_eq!(reason(&without), "SEQUENCE_MISMATCH", "{without:?}");
    match again {
        Ok(stored) => assert!(stored.iter().all(|stored| stored.duplicate)),
        Err(status) => assert_eq!(reason(&status), "OUTCOME_UNKNOWN", "{status:?}"),
    }
    assert_honest("a stream that is gone", &Err(gone));
}
