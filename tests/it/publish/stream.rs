//! `PublishStream`: pipelined, one response for each request, in order.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use unibus::v1::{PublishRequest, PublishStreamRequest, PublishStreamResponse, publish_stream_response::Outcome};

use crate::support::{
    Client, Lobby, Nats, NatsOptions, Unibus, assert_status, client_with_window, create_ephemeral, create_room,
    eventually, everything, fields, history, payloads, publish,
    publishing::{by_stream, named, plain},
    reason,
};

/// How long anything may take that should come.
const SOON: Duration = Duration::from_secs(20);

fn request(correlation_id: u64, publish: PublishRequest) -> PublishStreamRequest {
    PublishStreamRequest { correlation_id, publish: Some(publish), ..PublishStreamRequest::default() }
}

/// An open stream, and where its requests go in.
async fn open(client: &Client) -> (mpsc::Sender<PublishStreamRequest>, Streaming<PublishStreamResponse>) {
    let (requests, taken) = mpsc::channel(16);
    let responses = client.clone().publish_stream(ReceiverStream::new(taken)).await.unwrap();
    (requests, responses.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_one_response_in_order_and_a_bad_one_does_not_end_the_stream() {
    // Goal: a client can match outcomes by place and by id, over several rooms. Method: good and bad messages for two
    // persisted rooms, an ephemeral one and none, with ids that are not unique; half-close; then OK.
    let (_lobby, client) = Lobby::open().await;
    create_room(&client, "hall").await;
    create_ephemeral(&client, "live").await;
    let (requests, mut responses) = open(&client).await;
    let sent = [
        (9, Some(plain("lobby", "1")), Ok(1)),
        (9, Some(plain("hall", "1")), Ok(1)),
        (0, None, Err("INVALID_FIELD")),
        (u64::MAX, Some(plain("nowhere", "x")), Err("ROOM_NOT_FOUND")),
        (1, Some(plain("", "x")), Err("INVALID_FIELD")),
        (2, Some(plain("live", "x")), Ok(0)),
        (3, Some(named("lobby", "id")), Ok(2)),
        (4, Some(named("live", "id")), Err("ROOM_NOT_PERSISTED")),
        (3, Some(named("lobby", "id")), Ok(2)),
        (5, Some(plain("lobby", "3")), Ok(3)),
    ];
    for (correlation_id, publish, _) in sent.clone() {
        requests
            .send(PublishStreamRequest { correlation_id, publish, ..PublishStreamRequest::default() })
            .await
            .unwrap();
    }
    drop(requests);
    for (correlation_id, _, expected) in sent {
        let response = responses.message().await.unwrap().expect("a response");
        assert_eq!(response.correlation_id, correlation_id);
        match (response.outcome.expect("an outcome"), expected) {
            (Outcome::Result(stored), Ok(sequence)) => assert_eq!(stored.sequence, sequence),
            (Outcome::Error(error), Err(expected)) => {
                let status = tonic::Status::with_details(
                    Code::from(error.code),
                    error.message.clone(),
                    prost::Message::encode_to_vec(&error).into(),
                );
                assert_eq!(reason(&status), expected);
                if correlation_id == 0 {
                    assert_eq!(fields(&status), ["publish"]);
                }
            }
            (outcome, expected) => panic!("{outcome:?}, not {expected:?}"),
        }
    }
    assert_eq!(responses.message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_comes_while_the_stream_is_open() {
    // Goal: no result waits for more requests or for the end. Method: one request at a time, each after the response to the
    // one before.
    let (_lobby, client) = Lobby::open().await;
    let (requests, mut responses) = open(&client).await;
    for number in 1..=5 {
        requests.send(request(number, plain("lobby", "x"))).await.unwrap();
        let response = tokio::time::timeout(SOON, responses.message()).await.expect("in time");
        let Some(Outcome::Result(stored)) = response.unwrap().expect("a response").outcome else { panic!("refused") };
        assert_eq!(stored.sequence, number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_no_responses_is_held_back() {
    // Goal: what is outstanding is bounded. Method: far more requests than the window, with no response read: the room stops
    // growing; then all responses are read, and everything is stored.
    const COUNT: usize = 30_000;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let narrow = client_with_window(unibus.address(), 16 * 1024).await;
    let requests = (1..=COUNT as u64).map(|number| request(number, plain("lobby", number.to_string())));
    let requests = futures_util::stream::iter(requests.collect::<Vec<_>>());
    let mut responses = narrow.clone().publish_stream(requests).await.unwrap().into_inner();

    let mut last = 0;
    let held = eventually(SOON, async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = history(&client, "lobby", 1).await.last_sequence;
        let is_still = now == last && now > 0;
        last = now;
        is_still.then_some(now).ok_or_else(|| format!("{now} and growing"))
    })
    .await;
    assert!(held < COUNT as u64 / 4, "{held} were stored though no response was read");
    for number in 1..=COUNT as u64 {
        let response = tokio::time::timeout(SOON, responses.message()).await.expect("in time").unwrap();
        assert_eq!(response.expect("a response").correlation_id, number);
    }
    assert_eq!(responses.message().await.unwrap(), None);
    assert_eq!(history(&client, "lobby", 1).await.last_sequence, COUNT as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_messages_that_wait_do_not_cost_the_connection() {
    // Goal: a client that sends each message in a frame of its own, and does not read for a while, is held back and no more.
    // Method: ten thousand tiny messages, one frame each, with no response read; another call on the same connection works;
    // then every response comes.
    const COUNT: u64 = 10_000;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let narrow = client_with_window(unibus.address(), 16 * 1024).await;
    let (sent, mut all_sent) = mpsc::channel::<()>(1);
    let requests = futures_util::stream::unfold((1, sent), async |(number, sent)| {
        // what is ready at once would go in one frame
        tokio::task::yield_now().await;
        (number <= COUNT).then(|| (request(number, plain("lobby", "x")), (number + 1, sent)))
    });
    let mut responses = narrow.clone().publish_stream(requests).await.unwrap().into_inner();
    tokio::time::timeout(SOON, all_sent.recv()).await.expect("all are sent");
    publish(&narrow, "lobby", "beside").await.unwrap();
    for number in 1..=COUNT {
        let response = tokio::time::timeout(SOON, responses.message()).await.expect("in time").unwrap();
        assert_eq!(response.expect("a response").correlation_id, number);
    }
    assert_eq!(history(&client, "lobby", 1).await.last_sequence, COUNT + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_gives_the_outstanding_results_and_says_so() {
    // Goal: a client knows what to publish again elsewhere. Method: one idle stream and one that sends all the time, while
    // the service stops; both end with DRAINING, and exactly what had a response is stored.
    let nats = Nats::start().await;
    let (unibus, other) = (Unibus::start(&nats).await, Unibus::start(&nats).await);
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let (idle, mut idle_responses) = open(&client).await;
    idle.send(request(1, plain("lobby", "0"))).await.unwrap();
    idle_responses.message().await.unwrap().expect("a response");
    let (requests, mut responses) = open(&client).await;
    let sender = tokio::spawn(async move {
        for number in 1.. {
            if requests.send(request(number, plain("lobby", number.to_string()))).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..100 {
        responses.message().await.unwrap().expect("a response");
    }
    let stop = tokio::spawn(async move { Box::pin(unibus.shutdown()).await });
    let mut answered = 100;
    let ended = loop {
        match tokio::time::timeout(SOON, responses.message()).await.expect("in time") {
            Ok(Some(PublishStreamResponse { outcome: Some(Outcome::Result(_)), correlation_id })) => {
                answered += 1;
                assert_eq!(correlation_id, answered);
            }
            Ok(response) => panic!("{response:?}"),
            Err(status) => break status,
        }
    };
    assert_status::<()>(Err(ended), Code::Unavailable, "DRAINING");
    let ended = tokio::time::timeout(SOON, idle_responses.message()).await.expect("in time");
    assert_status(ended, Code::Unavailable, "DRAINING");
    stop.await.unwrap().unwrap();
    sender.abort();
    let kept = payloads(&everything(&other.client().await, "lobby").await);
    assert_eq!(kept, (0..=answered).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_around_moments_in_which_nobody_takes_the_messages() {
    // Goal: a message that is tried again comes before its successors, or not at all. Method: under a stream of messages
    // another program takes the room's subject away from its stream, which the service gives back, again and again, each
    // time after more of them were stored; the room then holds exactly those that were answered so, in the order sent, and
    // the others were refused as not stored.
    const ROUNDS: usize = 30;
    const BETWEEN: usize = 100;
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let jetstream = nats.jetstream().await;
    let config = nats.stream("lobby").await.cached_info().config.clone();
    let away = Config { subjects: vec!["elsewhere".into()], ..config };
    let (requests, mut responses) = open(&client).await;
    let (count, mut counted) = watch::channel(0);
    let interference = tokio::spawn(async move {
        for _ in 0..ROUNDS {
            let enough = *counted.borrow() + BETWEEN;
            tokio::time::timeout(SOON, counted.wait_for(|stored| *stored >= enough)).await.expect("in time").unwrap();
            jetstream.update_stream(&away).await.unwrap();
        }
    });
    let sender = tokio::spawn(async move {
        let mut number = 0;
        while !interference.is_finished() {
            number += 1;
            requests.send(request(number, plain("lobby", number.to_string()))).await.unwrap();
        }
        interference.await.unwrap();
        number
    });
    let mut stored = Vec::new();
    let mut refused = 0;
    while let Some(response) = tokio::time::timeout(SOON, responses.message()).await.expect("in time").unwrap() {
        match response.outcome.expect("an outcome") {
            Outcome::Result(_) => {
                stored.push(response.correlation_id.to_string());
                count.send_replace(stored.len());
            }
            Outcome::Error(error) => {
                assert_eq!(Code::from(error.code), Code::Unavailable, "{error:?}");
                refused += 1;
            }
            Outcome::Through(through) => panic!("nobody asked for {through:?}"),
        }
    }
    assert_eq!(sender.await.unwrap(), stored.len() as u64 + refused);
    let kept = payloads(&everything(&client, "lobby").await);
    let differ = kept.iter().zip(&stored).position(|(kept, stored)| kept != stored);
    let around = |all: &[String]| differ.map(|at| all[at.saturating_sub(3)..(at + 5).min(all.len())].to_vec());
    assert!(
        kept == stored,
        "{} kept, {} answered; first difference at {differ:?}: {:?} against {:?}; the ends {:?} and {:?}",
        kept.len(),
        stored.len(),
        around(&kept),
        around(&stored),
        kept.last(),
        stored.last(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_gone_harms_nobody() {
    // Goal: an abandoned stream leaves nothing behind. Method: ten streams, each dropped with many messages under way, on
    // a server that syncs every write; then a publish is answered at once, and a stream has all of its results.
    let nats = NatsOptions::new().sync_always().start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    for _ in 0..10 {
        let gone = unibus.client().await;
        let requests = (1..=2_000).map(|number| request(number, plain("lobby", "gone")));
        let requests = futures_util::stream::iter(requests.collect::<Vec<_>>()).chain(futures_util::stream::pending());
        let mut responses = gone.clone().publish_stream(requests).await.unwrap().into_inner();
        responses.message().await.unwrap().expect("a response");
    }
    let stored = tokio::time::timeout(Duration::from_secs(4), publish(&client, "lobby", "after")).await;
    stored.expect("in time").unwrap();
    let outcomes = by_stream(&client, vec![plain("lobby", "x"); 100]).await;
    assert!(outcomes.iter().all(Result::is_ok));
}
