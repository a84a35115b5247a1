//! The same message gets the same answer by whichever call it is published, alone or in a group.

use std::collections::HashMap;

use tonic::Status;
use unibus::{
    NatsSync,
    v1::{CreateRoomRequest, Durability, PublishRequest},
};

use crate::support::{
    Client, Lobby, Nats, Unibus, history, persisted,
    publishing::{Outcome, by_batch, by_calls, by_stream, plain},
    reason,
};

/// Messages around the cases, so that a service that commits in groups does so.
const FILLERS: u64 = 100;

/// A room's answer: sequence and whether it is a duplicate's, or the reason of the refusal.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Stored(u64),
    Duplicate(u64),
    Refused(&'static str),
}

/// A message, and the answer where the room's last sequence was `base`.
fn cases(base: u64, ttl_allowed: bool) -> Vec<(PublishRequest, Answer)> {
    use Answer::{Duplicate, Refused, Stored};
    let room = "lobby";
    let id = |id: &str, payload: &str| PublishRequest { message_id: id.into(), ..plain(room, payload) };
    let expecting =
        |last: u64, request: PublishRequest| PublishRequest { expected_last_sequence: Some(last), ..request };
    let brief = |request| PublishRequest { ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }), ..request };
    let with_header = |name: &str| PublishRequest {
        headers: HashMap::from([(name.to_owned(), "x".to_owned())]),
        ..plain(room, "header")
    };
    let with_ttl = |sequence| if ttl_allowed { Stored(sequence) } else { Refused("TTL_NOT_ALLOWED") };
    let next = base + if ttl_allowed { 7 } else { 5 };
    vec![
        (id("a", "first"), Stored(base + 1)),
        (id("a", "again"), Duplicate(base + 1)),
        (plain(room, "no id"), Stored(base + 2)),
        (expecting(base + 2, plain(room, "met")), Stored(base + 3)),
        (expecting(base + 2, plain(room, "not met")), Refused("SEQUENCE_MISMATCH")),
        (expecting(base + 3, id("b", "met, with id")), Stored(base + 4)),
        (expecting(base + 3, id("b", "a retry of it")), Duplicate(base + 4)),
        (expecting(base + 4, id("a", "known, though met")), Duplicate(base + 1)),
        (expecting(base + 2, id("a", "known, not met")), Refused("SEQUENCE_MISMATCH")),
        (expecting(u64::MAX, id("c", "never met")), Refused("SEQUENCE_MISMATCH")),
        (brief(plain(room, "brief")), with_ttl(base + 5)),
        (brief(id("d", "brief, with id")), with_ttl(base + 6)),
        (id("a b", "bad id"), Refused("INVALID_FIELD")),
        (with_header("Nats-TTL"), Refused("INVALID_FIELD")),
        (plain(room, "x".repeat(1024 * 1024)), Refused("PAYLOAD_TOO_LARGE")),
        (id("c", "nothing was stored by this id"), Stored(next)),
        (with_header("name"), Stored(next + 1)),
        (id("c", "but now"), Duplicate(next)),
    ]
}

fn answer(outcome: &Outcome) -> Answer {
    match outcome {
        Ok(stored) if stored.duplicate => Answer::Duplicate(stored.sequence),
        Ok(stored) => Answer::Stored(stored.sequence),
        Err(status) => Answer::Refused(known(status)),
    }
}

fn known(status: &Status) -> &'static str {
    let reason = reason(status);
    let known = ["TTL_NOT_ALLOWED", "SEQUENCE_MISMATCH", "INVALID_FIELD", "PAYLOAD_TOO_LARGE"];
    known.into_iter().find(|known| *known == reason).unwrap_or_else(|| panic!("{status:?}"))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Path {
    Calls,
    Stream,
    Batch,
}

async fn by(path: Path, client: &Client, requests: Vec<PublishRequest>) -> Vec<Outcome> {
    match path {
        Path::Calls => by_calls(client, requests).await,
        Path::Stream => by_stream(client, requests).await,
        Path::Batch => by_batch(client, requests).await,
    }
}

/// Publishes the cases with fillers around them, and checks every answer, and that the room holds what was answered.
async fn check(path: Path, sync: NatsSync, durability: Durability, ttl_allowed: bool, fillers: u64) {
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| (config.nats.url, config.nats.sync) = (Some(url), sync)).await;
    let mut client = unibus.client().await;
    let request = CreateRoomRequest { allow_message_ttl: ttl_allowed, ..persisted("lobby") };
    client.create_room(request).await.unwrap();

    let filler = |number: u64| (plain("lobby", "filler"), Answer::Stored(number));
    let mut cases: Vec<_> = (1..=fillers).map(filler).chain(cases(fillers, ttl_allowed)).collect();
    let stored = cases.iter().filter(|(_, answer)| matches!(answer, Answer::Stored(_))).count() as u64;
    cases.extend((stored + 1..=stored + fillers).map(filler));
    let (requests, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();

    let outcomes = by(path, &client, requests.clone()).await;
    let case = format!("{path:?} {sync:?} ttl {ttl_allowed} fillers {fillers}");
    for ((outcome, expected), request) in outcomes.iter().zip(&expected).zip(&requests) {
        let payload = &request.payload[..request.payload.len().min(30)];
        assert_eq!(answer(outcome), *expected, "{case}: {payload:?}");
        if let Ok(stored) = outcome {
            assert_eq!(stored.durability(), durability, "{case}");
        }
    }
    let kept = history(&client, "lobby", 1000).await.messages;
    let answered = requests.iter().zip(&expected).filter_map(|(request, answer)| match answer {
        Answer::Stored(sequence) => Some((*sequence, request)),
        Answer::Duplicate(_) | Answer::Refused(_) => None,
    });
    let answered: Vec<_> = answered.collect();
    assert_eq!(kept.len(), answered.len(), "{case}");
    for (kept, (sequence, request)) in kept.iter().zip(answered) {
        assert_eq!(kept.sequence, sequence, "{case}");
        assert_eq!(kept.payload, request.payload, "{case}");
        assert_eq!(kept.message_id, request.message_id, "{case}");
        // those of a batch of NATS are not among them
        assert_eq!(kept.headers, request.headers, "{case}");
    }
    let stream = nats.stream("lobby").await;
    let mut grouped = 0;
    for sequence in 1..=kept.len() as u64 {
        let native = stream.get_raw_message(sequence).await.unwrap();
        grouped += usize::from(native.headers.get("Nats-Batch-Id").is_some());
    }
    let groups = sync == NatsSync::Always && fillers > 0 && path != Path::Calls;
    assert_eq!(grouped > 0, groups, "{case}: {grouped} were committed in groups");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_gives_the_same_answers() {
    // Goal: message id, expected sequence, duplicates, lifetime and bad input mean the same everywhere. Method: one table of
    // messages and answers, by unary calls, by a stream at once and by a batch, in a room with lifetimes and in one
    // without, where messages are committed one by one, and in groups together with a hundred others.
    for path in [Path::Calls, Path::Stream, Path::Batch] {
        for (sync, durability) in [(NatsSync::Unknown, Durability::Unspecified), (NatsSync::Always, Durability::Synced)]
        {
            let fillers = if path == Path::Calls { 0 } else { FILLERS };
            Box::pin(check(path, sync, durability, true, 0)).await;
            Box::pin(check(path, sync, durability, false, fillers)).await;
            Box::pin(check(path, sync, durability, true, fillers)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ephemeral_rooms_take_streams_and_batches() {
    // Goal: what a room without a log can give, every path gives, and refuses the rest for the message alone. Method: a
    // message that is sent, and one of each kind that needs a log, by each path.
    let (_lobby, client) = Lobby::without_room().await;
    crate::support::create_ephemeral(&client, "live").await;
    for path in [Path::Calls, Path::Stream, Path::Batch] {
        let mut frames = crate::support::Frames::transient(&client, "live").await;
        frames.until_caught_up().await;
        let mut requests = vec![plain("live", "sent"); 4];
        requests[1].message_id = "id".into();
        requests[2].expected_last_sequence = Some(0);
        requests.push(plain("live", "last"));
        requests[3].ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let outcomes = by(path, &client, requests).await;
        for (index, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Ok(sent) => {
                    assert!(index == 0 || index == 4, "{path:?} {index}");
                    assert_eq!((sent.sequence, sent.durability()), (0, Durability::None));
                }
                Err(status) => {
                    assert!((1..4).contains(&index), "{path:?} {index}: {status:?}");
                    assert_eq!(reason(status), "ROOM_NOT_PERSISTED");
                }
            }
        }
        let read = frames.messages(2).await;
        assert_eq!(crate::support::payloads(&read), ["sent", "last"]);
    }
}
