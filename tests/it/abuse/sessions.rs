//! Sessions that are opened and not read, and floods of their commands, cost their caller alone.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tonic::{Code, Status};
use unibus::v1::{
    ConsumeCredit, ConsumeOpen, ConsumeRequest, OpenSessionRequest, SessionCommandRequest, consume_request::Command,
};

use super::{
    bodies::guarded,
    reading::{LARGE, fill},
};
use crate::support::{
    Client, Consuming, Credentials, Issuer, Nats, Unibus, assert_status, client_with_window_as,
    connect::{Connect, JsonStream, envelope, sent},
    connect_with, create_ephemeral, create_room,
    flood::{Innocent, growth},
    metadata, publish, reason, session_of, subscription,
};

const MIB: u64 = 1024 * 1024;
/// Open calls of a caller that take commands.
const SESSIONS: usize = 128;
/// Commands of a call.
const COMMANDS: usize = 256;

fn open(room: &str) -> ConsumeRequest {
    let open = ConsumeOpen { subscribe: Some(subscription(room, "")), ..ConsumeOpen::default() };
    ConsumeRequest { command: Some(Command::Open(open)) }
}

fn credit() -> ConsumeRequest {
    let credit = ConsumeCredit { room_id: "nowhere".into(), messages: 1, bytes: 0 };
    ConsumeRequest { command: Some(Command::Credit(credit)) }
}

async fn command(client: &Client, id: &str, commands: Vec<ConsumeRequest>) -> Result<(), Status> {
    let request = SessionCommandRequest { session_id: id.into(), commands, number: 0 };
    client.clone().session_command(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_nobody_reads_cost_a_share_and_are_counted() {
    // Goal: a caller holds a bounded part of memory with sessions. Method: eve opens as many sessions as she may, each with as many
    // commands as a call may have, of rooms with and without large messages and of rooms that do not exist, and reads nothing; one
    // more session is refused by its limit; another caller publishes all the while.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let eve = connect_with(service.address(), Credentials::bearer(&issuer.token("eve"))).await;
    fill(&eve, "large", 30, LARGE).await;
    let mut commands = vec![open("large")];
    for number in 0..20 {
        create_ephemeral(&eve, &format!("air-{number}")).await;
        commands.push(open(&format!("air-{number}")));
    }
    commands.extend((commands.len()..COMMANDS).map(|number| open(&format!("nowhere-{number}"))));
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let mut silent = Vec::new();
    for _ in 0..8 {
        let credentials = Credentials::bearer(&issuer.token("eve"));
        let narrow = client_with_window_as(service.address(), 16 * 1024, credentials).await;
        let opened = join_all((0..SESSIONS / 8).map(|_| async {
            narrow.clone().open_session(OpenSessionRequest { commands: commands.clone() }).await.unwrap()
        }));
        silent.extend(opened.await);
    }
    let further = eve.clone().open_session(OpenSessionRequest::default()).await.map(drop);
    let refused = assert_status(further, Code::ResourceExhausted, "LIMIT_REACHED");
    assert_eq!(metadata(&refused, "limit"), "request_streams");
    let grown = growth(&service, before, Duration::from_secs(5)).await;
    assert!(grown < 256 * MIB, "grew by {} MiB", grown / MIB);
    assert_eq!(silent.len(), SESSIONS);
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_commands_is_refused_when_its_session_is_full() {
    // Goal: commands wait in a bounded queue. Method: nobody reads the session, and 120 calls at a time give it as many commands
    // as they may hold; those that do not fit are refused, the process stays small, and another caller's publishes go on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let eve = connect_with(service.address(), Credentials::bearer(&issuer.token("eve"))).await;
    let narrow = client_with_window_as(service.address(), 16 * 1024, Credentials::bearer(&issuer.token("eve"))).await;
    let mut frames = narrow.clone().open_session(OpenSessionRequest::default()).await.unwrap().into_inner();
    let id = session_of(&frames.message().await.unwrap().unwrap()).expect("the session first").id;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let calls = join_all((0..120).map(|_| command(&eve, &id, vec![credit(); COMMANDS])));
    let (outcomes, grown) = tokio::join!(calls, growth(&service, before, Duration::from_secs(5)));
    assert!(grown < 64 * MIB, "grew by {} MiB", grown / MIB);
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).map(reason).collect();
    assert!(failed.iter().all(|reason| reason == "RATE_LIMITED"), "{failed:?}");
    // about as many commands as the queue holds, and as many frames as wait, are taken
    assert!(failed.len() > 80, "{}", failed.len());
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_finds_a_session_by_trying() {
    // Goal: a session is its caller's alone. Method: thousands of commands for sessions of this instance, of another and of ones
    // that do not exist, and for the session of bob, through both instances; each is answered soon and alike, and bob's session
    // goes on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let first = Arc::new(issuer.guard(&nats, |_| {}).await);
    let second = issuer.guard(&nats, |_| {}).await;
    let bob = issuer.client(&first, "bob").await;
    create_room(&bob, "own").await;
    let mut session = Consuming::session(&bob, &bob).await;
    let id = session.session_id().to_owned();
    let (instance, key) = id.split_once('-').unwrap();
    let random = || format!("{:032x}", fastrand::u128(..));
    for unibus in [&*first, &second] as [&Unibus; 2] {
        let eve = issuer.client(unibus, "eve").await;
        for _ in 0..10 {
            let ids: Vec<_> = (0..100)
                .map(|number| match number % 4 {
                    0 => id.clone(),
                    1 => format!("{instance}-{}", random()),
                    2 => format!("{}-{key}", random()),
                    _ => format!("{}-{}", random(), random()),
                })
                .collect();
            for outcome in join_all(ids.iter().map(|id| command(&eve, id, vec![credit()]))).await {
                assert_status(outcome, Code::NotFound, "SESSION_NOT_FOUND");
            }
        }
    }
    session.open(subscription("own", "")).await;
    publish(&bob, "own", "x").await.unwrap();
    assert_eq!(session.messages("own", 1).await[0].payload, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_in_json_are_counted_before_they_are_parsed() {
    // Goal: JSON of many or deep values costs little. Method: commands that are nested deep, empty and many, and more than a call
    // may hold, to both calls; each is refused with its reason, and the process stays small.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let http = Connect::to(service.address()).with_token(&issuer.token("eve"));
    let list = |command: &str, count: usize| format!("{{\"commands\":[{}]}}", vec![command; count].join(","));
    let close = json!({ "close": { "roomId": "a" } }).to_string();
    for (body, expected) in [
        (format!("{{\"commands\":{}", "[".repeat(60_000)), "REQUEST_MALFORMED"),
        (format!("{{\"commands\":[{}", "{\"open\":".repeat(8000)), "REQUEST_MALFORMED"),
        (list("{}", 20_000), "REQUEST_MALFORMED"),
        (list("{\"open\":{\"subscribe\":{}}}", 3000), "REQUEST_MALFORMED"),
        (list(&close, 300), "INVALID_FIELD"),
        (list("{}", 2), "INVALID_FIELD"),
        (list(&close, 5000), "LIMIT_REACHED"),
    ] {
        for _ in 0..20 {
            let open = http.post("OpenSession", "application/connect+json", envelope(0, body.as_bytes()));
            assert_eq!(JsonStream::read(sent(open).await).failure().await.reason, expected, "{body:.60}");
            let with_id = body.replacen('{', &format!("{{\"sessionId\":\"{:032}-{:032}\",", 0, 0), 1);
            let request = http.post("SessionCommand", "application/json", with_id);
            let failure = crate::support::connect::answer(sent(request).await).await.unwrap_err();
            assert_eq!(failure.reason, expected, "{body:.60}");
        }
    }
    let grown = growth(&service, before, Duration::from_millis(500)).await;
    assert!(grown < 64 * MIB, "grew by {} MiB", grown / MIB);
    innocent.assert_unharmed().await;
}
