//! Every way to publish while NATS is killed and restarted: an answer is a promise.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    prop_oneof,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use tokio::time::{sleep, timeout};
use tonic::Code;
use unibus::{NatsSync, v1::PublishRequest};

use crate::support::{
    Client, NatsOptions, Unibus, create_room, eventually, everything, grows_by, page,
    publishing::{Outcome, by_batch, by_calls, by_stream_until, named, plain, together},
    reason, sequences,
};

const CLIENTS: usize = 6;
const FINISH_WITHIN: Duration = Duration::from_secs(60);

/// What one client knows of one message.
#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Stored(u64),
    /// Perhaps stored, by an answer that says so.
    Unknown,
    NotStored,
}

/// A client's messages in the order in which it published them, each payload once; and its atomic batches.
#[derive(Debug, Default)]
struct Diary {
    fates: Vec<(String, Fate)>,
    batches: Vec<Vec<String>>,
}

fn fate(outcome: &Outcome) -> Fate {
    match outcome {
        Ok(stored) => Fate::Stored(stored.sequence),
        Err(status) if reason(status) == "OUTCOME_UNKNOWN" => Fate::Unknown,
        Err(status) if status.code() == Code::Unavailable => Fate::NotStored,
        Err(status) => panic!("{status:?}"),
    }
}

/// Some messages that a client publishes by one call, or by calls one after the other.
#[derive(Clone, Debug)]
struct Step {
    path: u8,
    has_ids: bool,
    amount: usize,
}

/// What the client with this number does, over and over.
fn steps(number: usize) -> Vec<Step> {
    let amount = prop_oneof![7 => 1..=5_usize, 3 => 1..=300_usize];
    let step = (0..4_u8, any::<bool>(), amount).prop_map(|(path, has_ids, amount)| Step { path, has_ids, amount });
    let seed = [u8::try_from(number).expect("few"); 32];
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    vec(step, 200).new_tree(&mut runner).expect("steps").current()
}

/// Publishes by a random mix of paths until told to stop. Messages whose payload ends with `!` have an id and are published
/// again until they are stored; others are published once.
async fn client(client: Client, number: usize, acknowledged: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> Diary {
    let mut diary = Diary::default();
    let mut count = 0;
    for Step { path, has_ids, amount } in steps(number).into_iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let requests: Vec<PublishRequest> = (0..amount)
            .map(|_| {
                count += 1;
                let payload = format!("{number}.{count:06}{}", if has_ids { "!" } else { "" });
                if has_ids { named("lobby", &payload) } else { plain("lobby", payload) }
            })
            .collect();
        let mut fates: BTreeMap<String, Fate> = BTreeMap::new();
        let text = |request: &PublishRequest| String::from_utf8(request.payload.to_vec()).expect("text");
        if path == 3 && amount > 1 {
            diary.batches.push(requests.iter().map(text).collect());
        }
        let mut left = requests.clone();
        while !left.is_empty() {
            let outcomes: Vec<Outcome> = match path {
                0 => by_calls(&client, left.clone()).await,
                1 => by_stream_until(&client, left.clone()).await.0,
                2 => by_batch(&client, left.clone()).await,
                _ => match together(&client, left.clone()).await {
                    Ok(results) => results.into_iter().map(Ok).collect(),
                    Err(status) => vec![Err(status); left.len()],
                },
            };
            assert_eq!(outcomes.len(), left.len());
            for (request, outcome) in left.iter().zip(&outcomes) {
                fates.insert(text(request), fate(outcome));
            }
            let stored = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            acknowledged.fetch_add(stored as u64, Ordering::Relaxed);
            if !has_ids {
                break;
            }
            let failed = left.into_iter().zip(outcomes).filter(|(_, outcome)| outcome.is_err());
            left = failed.map(|(request, _)| request).collect();
            if !left.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        }
        diary.fates.extend(fates);
    }
    diary
}

/// Runs clients while NATS is killed twice, then compares what they were told with what the room holds.
async fn check(sync: NatsSync) {
    let mut nats = NatsOptions::new().sync_always().start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| (config.nats.url, config.nats.sync) = (Some(url), sync)).await;
    let reader = unibus.client().await;
    create_room(&reader, "lobby").await;
    let (acknowledged, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let publishing = client(unibus.client().await, number, Arc::clone(&acknowledged), Arc::clone(&stop));
        clients.push(tokio::spawn(publishing));
    }
    // once shorter and once longer than calls wait for a lost connection
    for outage in [Duration::ZERO, Duration::from_secs(3)] {
        grows_by(FINISH_WITHIN, &acknowledged, 3_000).await;
        nats.kill9();
        sleep(outage).await;
        nats.restart().await;
    }
    grows_by(FINISH_WITHIN, &acknowledged, 3_000).await;
    stop.store(true, Ordering::Relaxed);
    let diaries = timeout(FINISH_WITHIN, join_all(clients)).await.expect("the clients end");

    let kept = everything(&reader, "lobby").await;
    assert_eq!(sequences(&kept), Vec::from_iter(1..=kept.len() as u64));
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for message in &kept {
        let payload = String::from_utf8(message.payload.to_vec()).unwrap();
        assert!(message.headers.is_empty());
        let before = places.insert(payload.clone(), message.sequence);
        assert_eq!(before, None, "{payload} was stored twice");
    }
    let (mut unknown, mut told) = (0, 0);
    for diary in diaries {
        let diary = diary.unwrap();
        let mut last = 0;
        for (payload, fate) in &diary.fates {
            let place = places.remove(payload);
            told += 1;
            match fate {
                Fate::Stored(sequence) => assert_eq!(place, Some(*sequence), "{payload}"),
                Fate::NotStored => assert_eq!(place, None, "{payload}"),
                Fate::Unknown => unknown += 1,
            }
            if !payload.ends_with('!')
                && let Some(place) = place
            {
                assert!(place > last, "{payload} at {place} comes after {last}");
                last = place;
            }
        }
        let all: BTreeMap<_, _> = kept
            .iter()
            .map(|message| (String::from_utf8(message.payload.to_vec()).unwrap(), message.sequence))
            .collect();
        for batch in &diary.batches {
            let places: Vec<_> = batch.iter().filter_map(|payload| all.get(payload)).collect();
            assert!(places.is_empty() || places.len() == batch.len(), "{} of {}", places.len(), batch.len());
            assert!(places.windows(2).all(|pair| *pair[0] + 1 == *pair[1]), "{places:?}");
        }
    }
    assert!(places.is_empty(), "nobody published {places:?}");
    assert!(unknown < told / 4, "{unknown} of {told} are unknown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_every_path_the_room_holds_what_was_answered_whatever_happens_to_nats() {
    // Goal: acknowledged is stored once under the sequence answered, refused is not stored, only what is said to be unknown
    // may be either; order within a client holds; atomic batches are whole. Method: six clients publish by a random mix of
    // calls, streams, batches and atomic batches, some with ids and retries, while NATS is killed and restarted twice; then
    // every diary is compared with the room.
    check(NatsSync::Unknown).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_groups_the_room_holds_what_was_answered_whatever_happens_to_nats() {
    // Goal and method: the same, by a service that commits in groups.
    check(NatsSync::Always).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_frozen_server_leaves_open_is_said_to_be_unknown() {
    // Goal: an answer comes in bounded time, and is true. Method: NATS is frozen under a stream, a batch, an atomic batch
    // and unary calls; everything that was sent is unknown or not stored; after the thaw, retries with the same ids are
    // stored once.
    let nats = NatsOptions::new().sync_always().start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| (config.nats.url, config.nats.sync) = (Some(url), NatsSync::Always)).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    nats.freeze().await;
    let requests = |path: &str| (0..100).map(|n| named("lobby", &format!("{path}.{n:03}"))).collect::<Vec<_>>();
    let publish = async || {
        tokio::join!(
            async { by_stream_until(&client, requests("stream")).await.0 },
            by_batch(&client, requests("batch")),
            async {
                match together(&client, requests("atomic")).await {
                    Ok(results) => results.into_iter().map(Ok).collect(),
                    Err(status) => vec![Err(status)],
                }
            },
        )
    };
    let (streamed, batched, atomic) = timeout(Duration::from_secs(12), publish()).await.expect("bounded");
    assert_eq!((streamed.len(), batched.len()), (100, 100));
    for outcome in streamed.iter().chain(&batched).chain(&atomic) {
        assert!(matches!(fate(outcome), Fate::Unknown | Fate::NotStored), "{outcome:?}");
    }
    nats.thaw();
    let (streamed, batched, atomic) = eventually(FINISH_WITHIN, async || {
        let (streamed, batched, atomic) = publish().await;
        let all_stored = streamed.iter().chain(&batched).chain(&atomic).all(Result::is_ok);
        all_stored.then_some((streamed, batched, atomic)).ok_or_else(|| String::from("not all are stored"))
    })
    .await;
    let kept = everything(&client, "lobby").await;
    assert_eq!(kept.len(), 300, "a retry was stored twice");
    let outcomes = streamed.iter().chain(&batched).chain(&atomic);
    let ids = ["stream", "batch", "atomic"].into_iter().flat_map(requests);
    for (outcome, request) in outcomes.zip(ids) {
        let sequence = usize::try_from(outcome.as_ref().unwrap().sequence).unwrap();
        assert_eq!(kept[sequence - 1].message_id, request.message_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_not_to_be_stored_is_not_stored_later() {
    // Goal: "nothing was done" stays true when NATS gets to it in the end. Method: it is frozen under many streams without
    // message ids, with groups and without, until every outcome is told; after the thaw the room holds what was
    // acknowledged, perhaps what is unknown, and nothing that is said not to be stored.
    for sync in [NatsSync::Unknown, NatsSync::Always] {
        let nats = NatsOptions::new().sync_always().start().await;
        let url = nats.url();
        let unibus = Unibus::configured(|config| (config.nats.url, config.nats.sync) = (Some(url), sync)).await;
        let client = unibus.client().await;
        create_room(&client, "lobby").await;
        let requests =
            |stream: usize| (0..4_000).map(move |n| plain("lobby", format!("{stream}.{n}"))).collect::<Vec<_>>();
        let streams = (0..4).map(|stream| {
            let client = client.clone();
            tokio::spawn(async move { by_stream_until(&client, requests(stream)).await.0 })
        });
        let streams: Vec<_> = streams.collect();
        eventually(FINISH_WITHIN, async || {
            let last = page(&client, "lobby", 1, None).await.map_err(|status| status.to_string())?.last_sequence;
            (last > 1_000).then_some(()).ok_or_else(|| format!("{last} are stored"))
        })
        .await;
        nats.freeze().await;
        // the streams go on for longer than a publish may take
        sleep(Duration::from_secs(6)).await;
        nats.thaw();
        let outcomes = timeout(FINISH_WITHIN, join_all(streams)).await.expect("bounded");
        eventually(FINISH_WITHIN, async || {
            let stored = client.clone().publish(plain("lobby", "last")).await;
            stored.map(drop).map_err(|status| status.to_string())
        })
        .await;
        let kept: BTreeMap<_, _> =
            everything(&client, "lobby").await.into_iter().map(|message| (message.payload, message.sequence)).collect();
        let mut unknown = 0;
        for (stream, outcomes) in outcomes.into_iter().enumerate() {
            let outcomes = outcomes.unwrap();
            assert_eq!(outcomes.len(), 4_000);
            for (outcome, request) in outcomes.iter().zip(requests(stream)) {
                let place = kept.get(&request.payload).copied();
                match fate(outcome) {
                    Fate::Stored(sequence) => assert_eq!(place, Some(sequence), "{sync:?}"),
                    Fate::NotStored => assert_eq!(place, None, "{sync:?} {:?}", request.payload),
                    Fate::Unknown => unknown += 1,
                }
            }
        }
        assert!(unknown > 0, "{sync:?}: nothing was under way");
    }
}
