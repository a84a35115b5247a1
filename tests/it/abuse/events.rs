//! Readers of server-sent events that do not read, strangers, half requests and nonsense on the path of events.

use std::time::Duration;

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use super::{
    bodies::guarded,
    reading::{LARGE, fill},
};
use crate::support::{
    Credentials, Issuer, Nats, Random, Scrape, connect_with, create_room, eventually,
    flood::{Attacker, Innocent, STRANGER_BYTES, assert_bounded, growth},
    http2::{END_HEADERS, END_STREAM, HEADERS, frame, literal},
    publish,
};

const MIB: u64 = 1024 * 1024;

/// The frames of a request for the events of this room.
fn get(stream: u32, room: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let path = format!("/v1/rooms/{room}/events");
    let own = [(":method", "GET"), (":scheme", "http"), (":path", &*path), (":authority", "a")];
    let block: Vec<u8> = own.iter().chain(headers).flat_map(|(name, value)| literal(name, value)).collect();
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_events_that_read_nothing_cost_a_share() {
    // Goal: what waits for silent readers is bounded for all of them together. Method: a room of large messages; eve opens 500
    // streams of its events on ten connections that read nothing, and closes none; another caller publishes all the while.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let eve = connect_with(service.address(), Credentials::bearer(&issuer.token("eve"))).await;
    fill(&eve, "large", 30, LARGE).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let token = format!("Bearer {}", issuer.token("eve"));
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let requests = (0..50).flat_map(|number| get(2 * number + 1, "large", &[("authorization", &token)]));
        deaf.push(Attacker::deaf(service.address(), requests.collect()).await);
    }
    let grown = growth(&service, before, Duration::from_secs(6)).await;
    assert!(grown < 256 * MIB, "grew by {} MiB", grown / MIB);
    let opened = Scrape::at(service.admin_address()).await;
    assert!(opened.value("unibus_open_subscriptions", &[("kind", "transient")]) > 100.0, "the attack was none");
    innocent.until_published(100).await;
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_on_the_path_of_events_cost_a_bounded_amount() {
    // Goal: without a token there is nothing to hold. Method: on 64 connections thousands of requests without a token, read
    // and not read; a request by HTTP/1.1 is answered 401; the process stays small, and another caller's publishes go on.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    let before = service.resident_bytes();
    let innocent = Innocent::publishing(client, "lobby");
    let requests: Vec<u8> = (0..1500).flat_map(|number| get(2 * number + 1, "lobby", &[])).collect();
    let mut attackers = Vec::new();
    for number in 0..64 {
        attackers.push(match number % 2 {
            0 => Attacker::deaf(service.address(), requests.clone()).await,
            _ => Attacker::send(service.address(), requests.clone()).await,
        });
    }
    assert_bounded(&service, before, Duration::from_secs(5), STRANGER_BYTES).await;
    drop(attackers);
    let url = format!("http://{}/v1/rooms/lobby/events", service.address());
    let refused = reqwest::get(url).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let body: serde_json::Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!(body["error"]["reason"], "UNAUTHENTICATED");
    innocent.until_published(50).await;
    innocent.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_requests_for_events_end() {
    // Goal: nobody keeps a connection by not going on. Method: half heads, a head that goes on byte by byte, and a request that
    // announces a body that never comes, with and without a token; the connections of those without one end in time, and so do
    // those without a whole head; what is a whole request of a caller is a subscription, and stays.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let args = ["--keepalive-interval=2s", "--keepalive-timeout=2s", "--idle-timeout=4s", "--heartbeat-interval=1s"];
    let (service, _client) = guarded(&nats, &issuer, &args).await;
    let token = issuer.token("ann");
    let head = "GET /v1/rooms/lobby/events HTTP/1.1\r\nhost: a\r\n";
    let authorized = format!("{head}authorization: Bearer {token}\r\n");
    let mut open = Vec::new();
    for first in [
        "GET /v1/rooms/lobby/eve".to_owned(),
        head.to_owned(),
        authorized.clone(),
        format!("{authorized}last-event-id: "),
        format!("{head}content-length: 1000\r\n\r\nhalf"),
    ]
    .iter()
    .cycle()
    .take(50)
    {
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        open.push(stream);
    }
    let mut whole = TcpStream::connect(service.address()).await.unwrap();
    whole.write_all(format!("{authorized}content-length: 1000\r\n\r\nhalf").as_bytes()).await.unwrap();
    let ends = open.into_iter().map(|mut stream| async move {
        let mut sink = [0; 1024];
        loop {
            let _ = stream.write_all(b"a").await;
            match timeout(Duration::from_millis(300), stream.read(&mut sink)).await {
                Ok(Ok(1..)) | Err(_) => {}
                Ok(Ok(0) | Err(_)) => return,
            }
        }
    });
    let begun = Instant::now();
    timeout(Duration::from_secs(30), futures_util::future::join_all(ends)).await.expect("all are closed");
    crate::support::note(format_args!("closed after {:?}", begun.elapsed()));
    // what came meanwhile, and then a heartbeat
    let mut sink = vec![0; 1 << 20];
    let came = timeout(Duration::from_secs(5), whole.read(&mut sink)).await.expect("the events").unwrap();
    assert!(sink[..came].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&sink[..came.min(200)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_last_event_ids_are_answered_and_leave_nothing() {
    // Goal: a `Last-Event-ID` is any text. Method: true ones, damaged ones, ones of another room, long ones and random ones, two
    // thousand in all; each is answered with events or a documented error, and at the end no subscription and no consumer is left.
    let (nats, issuer) = (Nats::start().await, Issuer::new());
    let (service, client) = guarded(&nats, &issuer, &[]).await;
    create_room(&client, "other").await;
    publish(&client, "other", "x").await.unwrap();
    let http = reqwest::Client::new();
    let token = issuer.token("ann");
    let events = async |id: &str| {
        let url = format!("http://{}/v1/rooms/lobby/events?from=new&until_caught_up=true", service.address());
        let answer = http.get(url).bearer_auth(&token).header("last-event-id", id).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    let cursor = async |room: &str| {
        let url = format!("http://{}/v1/rooms/{room}/events?from=last:1&until_caught_up=true", service.address());
        let text = http.get(url).bearer_auth(&token).send().await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id").to_owned()
    };
    let (own, other) = (cursor("lobby").await, cursor("other").await);
    assert_eq!(events(&own).await.0, StatusCode::OK);
    assert_eq!(events(&other).await.0, StatusCode::BAD_REQUEST);
    let mut random = Random::seeded();
    for number in 0..2000 {
        let id = match number % 4 {
            0 => own.clone(),
            1 => {
                let mut damaged = own.clone().into_bytes();
                let place = random.count(0..damaged.len());
                damaged[place] = b"aZ09-_"[random.count(0..6)];
                String::from_utf8(damaged).unwrap()
            }
            2 => "a".repeat(random.count(1..4000)),
            _ => (0..random.count(1..80))
                .map(|_| char::from(b' ' + u8::try_from(random.count(1..94)).unwrap()))
                .collect(),
        };
        let (status, text) = events(&id).await;
        if status != StatusCode::OK {
            let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text}"));
            let reason = body["error"]["reason"].as_str().unwrap();
            assert!(
                ["CURSOR_INVALID", "CURSOR_EXPIRED", "POSITION_AFTER_END", "INVALID_FIELD"].contains(&reason),
                "{id} {text}"
            );
        }
        assert!(number % 4 != 0 || status == StatusCode::OK, "{text}");
    }
    eventually(Duration::from_secs(10), async || {
        let open =
            Scrape::at(service.admin_address()).await.value("unibus_open_subscriptions", &[("kind", "transient")]);
        (open == 0.0).then_some(()).ok_or_else(|| format!("{open} are open"))
    })
    .await;
    eventually(Duration::from_secs(60), async || {
        let left = nats.stream("lobby").await.cached_info().state.consumer_count;
        (left == 0).then_some(()).ok_or_else(|| format!("{left} consumers"))
    })
    .await;
}
