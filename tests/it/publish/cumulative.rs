//! `PublishStream` with cumulative acknowledgements: one response for many messages.

use std::time::Duration;

use futures_util::StreamExt;
use unibus::{
    NatsSync,
    v1::{Durability, PublishRequest},
};

use crate::support::{
    Client, Lobby, NatsOptions, Unibus, create_ephemeral, create_room,
    cumulative::{Answers, Told, assert_honest, cumulative, cumulatively},
    everything, fields, payloads, publish,
    publishing::{named, plain},
};

const COUNT: u64 = 5000;

fn numbers(room: &str, count: u64) -> Vec<PublishRequest> {
    (1..=count).map(|number| plain(room, number.to_string())).collect()
}

/// The payloads of a room, in order.
async fn kept(client: &Client, room: &str) -> Vec<String> {
    payloads(&everything(client, room).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_answers_cover_many_messages_in_order_by_fast_batches() {
    // Goal: a stream of messages costs far fewer answers than messages, on both sides, and keeps its order. Method: one
    // stream to one room; the answers cover each message once, with the sequence of the last; a program on the subject
    // sees by the reply subjects that fast batches were used.
    let (lobby, client) = Lobby::open().await;
    let config = lobby.nats.stream("lobby").await.cached_info().config.clone();
    assert!(config.allow_batch_publish);
    let watcher = lobby.nats.client().await;
    let mut seen = watcher.subscribe(config.subjects[0].clone()).await.unwrap();
    watcher.flush().await.unwrap();
    let answers = cumulatively(&client, numbers("lobby", COUNT)).await;
    for (told, number) in answers.told.iter().zip(1..) {
        match told {
            Told::Through(None) => {}
            Told::Through(Some(sequence)) => assert_eq!(*sequence, number),
            told => panic!("{number}: {told:?}"),
        }
    }
    assert!(
        answers.through.iter().all(|through| through.last_sequence > 0 && through.durability() != Durability::None)
    );
    assert!((answers.through.len() as u64) < COUNT / 10, "{} answers", answers.through.len());
    assert_eq!(kept(&client, "lobby").await, (1..=COUNT).map(|number| number.to_string()).collect::<Vec<_>>());
    let mut fast = 0;
    for _ in 0..COUNT {
        let message = seen.next().await.unwrap();
        fast += u64::from(message.reply.is_some_and(|reply| reply.ends_with(".$FI")));
        assert!(message.headers.is_none_or(|headers| headers.get("Nats-Batch-Id").is_none()));
    }
    assert!(fast > COUNT / 2, "{fast} messages were sent in fast batches");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_comes_at_once_when_nothing_else_is_outstanding() {
    // Goal: a slow publisher does not wait for others to fill an answer. Method: one message at a time, each after the
    // answer to the one before, in far less than the interval of answers each.
    const MESSAGES: u64 = 100;
    let (_lobby, client) = Lobby::open().await;
    let (requests, mut answers) = Answers::open(&client).await;
    let started = std::time::Instant::now();
    for number in 1..=MESSAGES {
        requests.send(cumulative(number, plain("lobby", "x"))).await.unwrap();
        assert!(answers.next().await.unwrap());
        assert!(matches!(answers.told.last(), Some(Told::Through(Some(sequence))) if *sequence == number));
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(100) * 80, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_duplicates_have_answers_of_their_own_in_the_middle() {
    // Goal: nothing that is not newly stored hides in a cumulative answer. Method: plain messages with bad ones, duplicates,
    // a failed expectation, lifetimes, and other rooms in between, all at once; each gets what it would get alone.
    let (_lobby, client) = Lobby::open().await;
    create_room(&client, "hall").await;
    create_ephemeral(&client, "live").await;
    let mut requests = Vec::new();
    let mut expected = Vec::new();
    for round in 0..40 {
        let x = |room: &str| plain(room, format!("x{round}"));
        let expecting = PublishRequest { expected_last_sequence: Some(1_000_000), ..x("lobby") };
        let ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        let cases = [
            (x("lobby"), ""),
            (named("lobby", "same"), if round == 0 { "" } else { "duplicate" }),
            (x("lobby"), ""),
            (x("nowhere"), "ROOM_NOT_FOUND"),
            (x("hall"), ""),
            (expecting, "SEQUENCE_MISMATCH"),
            (PublishRequest { ttl, ..x("lobby") }, "TTL_NOT_ALLOWED"),
            (x("live"), ""),
            (named("live", "id"), "ROOM_NOT_PERSISTED"),
            (plain("", "x"), "INVALID_FIELD"),
            (x("hall"), ""),
        ];
        for (request, outcome) in cases {
            requests.push(request);
            expected.push(outcome);
        }
    }
    let answers = cumulatively(&client, requests).await;
    for (place, (told, expected)) in answers.told.iter().zip(&expected).enumerate() {
        match told {
            Told::Own(result) => {
                assert!(result.duplicate && *expected == "duplicate" && result.sequence == 2, "{place}");
            }
            told => assert_eq!(told.reason(), *expected, "{place}"),
        }
    }
    assert_eq!(kept(&client, "lobby").await.len(), 2 * 40 + 1);
    assert_eq!(kept(&client, "hall").await.len(), 2 * 40);
    // one answer never covers both kinds of rooms
    assert!(
        answers.through.iter().any(|through| through.durability() == Durability::None && through.last_sequence == 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_request_decides_how_a_stream_answers() {
    // Goal: no client gets answers that it does not expect. Method: a cumulative stream whose later requests leave `acks` out,
    // or want other answers; and a stream of single answers that later wants cumulative ones.
    let (_lobby, client) = Lobby::open().await;
    for first in [0, 1, 2, 77] {
        let (requests, mut answers) = Answers::open(&client).await;
        let mut expected = Vec::new();
        for (number, acks) in (1..).zip([first, 0, 1, 2, 77]) {
            let is_cumulative = first == 2;
            let is_fine = acks == 0 || (acks == 2 && is_cumulative) || (acks == 1 && !is_cumulative);
            expected.push(if is_fine { "" } else { "INVALID_FIELD" });
            let mut request = cumulative(number, plain("lobby", "x"));
            request.acks = acks;
            requests.send(request).await.unwrap();
        }
        drop(requests);
        assert_eq!(answers.finish().await.code(), tonic::Code::Ok);
        let reasons: Vec<_> = answers.told.iter().map(Told::reason).collect();
        assert_eq!(reasons, expected, "{first}");
        assert_eq!(answers.through.is_empty(), first != 2);
        for told in &answers.told {
            if let Told::Error(status) = told {
                assert_eq!(fields(status), ["acks"]);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_sequence_is_right_while_others_publish_to_the_room() {
    // Goal: the sequence of an answer is that of its last message, although other messages lie between. Method: a cumulative
    // stream while another client, a second stream and a native program publish; each answered message is found at its
    // sequence, and all in order.
    let (lobby, client) = Lobby::open().await;
    let other = client.clone();
    let beside = tokio::spawn(async move {
        loop {
            publish(&other, "lobby", "beside").await.unwrap();
        }
    });
    let native = lobby.nats.client().await;
    let subject = lobby.nats.stream("lobby").await.cached_info().config.subjects[0].clone();
    let natively = tokio::spawn(async move {
        loop {
            native.publish(subject.clone(), "native".into()).await.unwrap();
            native.flush().await.unwrap();
        }
    });
    let second: Vec<_> = (1..=COUNT).map(|number| plain("lobby", format!("second {number}"))).collect();
    let (answers, _) = tokio::join!(cumulatively(&client, numbers("lobby", COUNT)), cumulatively(&client, second));
    beside.abort();
    natively.abort();
    let room = everything(&client, "lobby").await;
    let mut known = 0;
    for (told, number) in answers.told.iter().zip(1..) {
        let Told::Through(sequence) = told else { panic!("{told:?}") };
        if let Some(sequence) = sequence {
            known += 1;
            assert_eq!(room[usize::try_from(sequence - 1).unwrap()].payload, number.to_string().into_bytes());
        }
    }
    assert!(known > 0);
    let all = payloads(&room);
    for first in ["second ", ""] {
        let own = all.iter().filter_map(|payload| payload.strip_prefix(first)?.parse::<u64>().ok());
        assert!(own.eq(1..=COUNT), "{first} is out of order");
    }
    assert!(all.contains(&"native".to_owned()) && all.contains(&"beside".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_syncs_every_write_commits_groups_instead() {
    // Goal: cumulative answers do not cost the five times that group commit gains. Method: such a server; a stream is stored
    // in order; the batch headers of groups show how.
    let nats = NatsOptions::new().sync_always().start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| (config.nats.url, config.nats.sync) = (Some(url), NatsSync::Always)).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let watcher = nats.client().await;
    let subject = nats.stream("lobby").await.cached_info().config.subjects[0].clone();
    let mut seen = watcher.subscribe(subject).await.unwrap();
    watcher.flush().await.unwrap();
    let answers = cumulatively(&client, numbers("lobby", 1000)).await;
    let sent: Vec<_> = (1..=1000).map(|number: u64| number.to_string()).collect();
    assert_eq!(assert_honest(&kept(&client, "lobby").await, &sent, &answers.told), 0);
    assert!(answers.through.iter().all(|through| through.durability() == Durability::Synced));
    let mut grouped = 0;
    for _ in 0..1000 {
        let message = seen.next().await.unwrap();
        assert!(message.reply.is_none_or(|reply| !reply.ends_with(".$FI")));
        grouped += usize::from(message.headers.is_some_and(|headers| headers.get("Nats-Batch-Id").is_some()));
    }
    assert!(grouped > 500, "{grouped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_room_for_a_fast_batch_is_served_by_ordinary_publishes() {
    // Goal: cumulative answers work where the server takes no fast batch. Method: another program holds as many of them as a
    // stream may have; everything is stored in order, and told so.
    const HELD: usize = 1000;
    let (lobby, client) = Lobby::open().await;
    let holder = lobby.nats.client().await;
    let subject = lobby.nats.stream("lobby").await.cached_info().config.subjects[0].clone();
    let inbox = holder.new_inbox();
    let mut acks = holder.subscribe(format!("{inbox}.>")).await.unwrap();
    let hold = async |number: usize| {
        let reply = format!("{inbox}.held{number}.10.fail.1.0.$FI");
        holder.publish_with_reply(subject.clone(), reply, "held".into()).await.unwrap();
    };
    for number in 0..HELD {
        hold(number).await;
    }
    // one answer with the flow for each, and one when it is stored
    let mut answered = 0;
    while answered < HELD {
        let ack = acks.next().await.unwrap();
        answered += usize::from(ack.payload.starts_with(b"{\"type\":\"ack\",\"seq\":0"));
    }
    let answers = cumulatively(&client, numbers("lobby", COUNT)).await;
    let sent: Vec<_> = (1..=COUNT).map(|number| number.to_string()).collect();
    assert_eq!(assert_honest(&kept(&client, "lobby").await[HELD..], &sent, &answers.told), 0);
    assert!(answers.told.iter().all(|told| matches!(told, Told::Through(_))));
    assert!((answers.through.len() as u64) < COUNT / 10, "{} answers", answers.through.len());
    hold(HELD).await;
    let refused = async {
        loop {
            let answer = String::from_utf8(acks.next().await.unwrap().payload.to_vec()).unwrap();
            if answer.contains("error") {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), refused).await.expect("in time");
    assert!(answer.contains("10211"), "the batches were no longer held: {answer}");
}
