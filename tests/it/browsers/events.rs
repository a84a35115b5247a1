//! `GET /v1/rooms/{id}/events`: a subscription as server-sent events.

use std::time::Duration;

use reqwest::{Response, StatusCode, header::CONTENT_TYPE};
use serde_json::Value;
use tokio::time::timeout;
use unibus::v1::{DeleteRoomRequest, Role};

use crate::support::{
    Client, Frames, Issuer, Lobby, Nats, Unibus, acknowledge, create_ephemeral, create_room, explicit, floor,
    floor_reaches, listed,
    membership::{add, remove},
    publish, publish_n, sequences,
};

/// How long an event may take.
const EVENT_WAIT: Duration = Duration::from_secs(20);

/// One event: its name, its id and its data.
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

impl Event {
    fn sequence(&self) -> u64 {
        self.data["message"]["sequence"].as_str().expect("a message").parse().expect("a number")
    }

    fn reason(&self) -> &str {
        assert_eq!(self.name, "error", "{self:?}");
        self.data["error"]["reason"].as_str().expect("a reason")
    }
}

/// An open response.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn open(unibus: &Unibus, path: &str, headers: &[(&'static str, &str)]) -> Self {
        let response = get(unibus, path, headers).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        let mut events = Self { response, text: String::new() };
        assert_eq!(events.block().await.as_deref(), Some("retry: 1000"));
        events
    }

    /// The next lines up to an empty one; `None` at the end of the response.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let chunk = timeout(EVENT_WAIT, self.response.chunk()).await.expect("an event in time");
            let Some(chunk) = chunk.expect("a whole body") else {
                assert_eq!(self.text, "", "the response ends within an event");
                return None;
            };
            self.text.push_str(str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next event that is no heartbeat; `None` at the end of the response.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            let mut event = Event::default();
            for line in block.lines() {
                let (field, value) = line.split_once(": ").expect("a field");
                match field {
                    "event" => value.clone_into(&mut event.name),
                    "id" => value.clone_into(&mut event.id),
                    "data" => event.data = serde_json::from_str(value).expect("JSON"),
                    other => panic!("the field {other} in {block}"),
                }
            }
            if event.name != "heartbeat" {
                return Some(event);
            }
        }
    }

    async fn some(&mut self) -> Event {
        self.next().await.expect("an event before the end")
    }

    async fn opened(&mut self) -> Value {
        let opened = self.some().await;
        assert_eq!((&*opened.name, &*opened.id), ("opened", ""));
        opened.data["opened"].clone()
    }

    async fn messages(&mut self, count: usize) -> Vec<Event> {
        let mut messages = Vec::new();
        while messages.len() < count {
            let event = self.some().await;
            match &*event.name {
                "" => messages.push(event),
                "caught_up" | "opened" => {}
                _ => panic!("{event:?}"),
            }
        }
        messages
    }
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(Event::sequence).collect()
}

async fn get(unibus: &Unibus, path: &str, headers: &[(&'static str, &str)]) -> Response {
    let mut request = reqwest::Client::new().get(format!("http://{}{path}", unibus.address()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

/// Status and error of a refused request.
async fn refused(unibus: &Unibus, path: &str, headers: &[(&'static str, &str)]) -> (StatusCode, String, String) {
    let response = get(unibus, path, headers).await;
    let status = response.status();
    let body: Value = serde_json::from_str(&response.text().await.expect("a body")).expect("JSON");
    let error = &body["error"];
    let text = |field: &str| error[field].as_str().expect("a text").to_owned();
    (status, text("reason"), text("message"))
}

async fn lobby(count: usize) -> (Lobby, Client) {
    let (lobby, client) = Lobby::open().await;
    publish_n(&client, "lobby", count).await;
    (lobby, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_connects_again_gets_exactly_the_next_event() {
    // Goal: nothing is lost or doubled over a broken connection. Method: read some events, drop the connection, publish
    // more, connect again with the same address and `Last-Event-ID`, five times; the sequences join.
    let (lobby, client) = lobby(10).await;
    let (mut got, mut last) = (Vec::new(), String::new());
    for round in 0..5 {
        let headers: &[_] = if last.is_empty() { &[] } else { &[("last-event-id", &*last)] };
        let mut events = Events::open(&lobby.unibus, "/v1/rooms/lobby/events?after=2", headers).await;
        assert_eq!(events.opened().await["position"], (2 + round * 3).to_string());
        let messages = events.messages(3).await;
        got.extend(numbers(&messages));
        last.clone_from(&messages[2].id);
        drop(events);
        publish_n(&client, "lobby", 3).await;
    }
    assert_eq!(got, listed(3..=17));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_carry_the_frames_in_proto3_json() {
    // Goal: the data is what any proto3 JSON reader understands. Method: each kind of frame of a persisted room with a hole;
    // payload, header, time and cursor of a message; an ephemeral room has messages without ids.
    let (lobby, client) = lobby(5).await;
    lobby.nats.delete_messages("lobby", [2]).await;
    let path = "/v1/rooms/lobby/events?from=all&until_caught_up=true";
    let mut events = Events::open(&lobby.unibus, path, &[]).await;
    let opened = events.opened().await;
    assert_eq!((&opened["firstSequence"], &opened["lastSequence"]), (&"1".into(), &"5".into()));
    let first = events.some().await;
    let message = &first.data["message"];
    assert_eq!((message["sequence"].as_str(), message["cursor"].as_str()), (Some("1"), Some(&*first.id)));
    assert!(message["publishedAt"].as_str().is_some_and(|time| time.ends_with('Z')), "{message}");
    assert!(message["payload"].is_string(), "{message}");
    let gap = events.some().await;
    assert_eq!((&*gap.name, &*gap.id, &gap.data["gap"]["toSequence"]), ("gap", "", &"2".into()));
    assert_eq!(numbers(&events.messages(3).await), [3, 4, 5]);
    let end = events.some().await;
    assert_eq!((&*end.name, &end.data["caughtUp"]["position"]), ("caught_up", &"5".into()));
    assert!(events.next().await.is_none());

    create_ephemeral(&client, "live").await;
    let mut events = Events::open(&lobby.unibus, "/v1/rooms/live/events", &[]).await;
    events.opened().await;
    publish(&client, "live", "x").await.unwrap();
    let message = events.messages(1).await.remove(0);
    assert_eq!((&*message.id, &message.data["message"]["payload"]), ("", &"eA==".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_query_says_where_to_start() {
    // Goal: every kind of start. Method: each in turn in a room of ten messages; the first that comes.
    let (lobby, client) = lobby(10).await;
    let page = crate::support::page(&client, "lobby", 1, unibus::v1::history_request::Anchor::AfterSequence(3)).await;
    let cursor = page.unwrap().messages.remove(0).cursor;
    for (query, position) in [
        ("", "0"),
        ("?from=all", "0"),
        ("?from=last:3", "7"),
        ("?from=1999-01-01T00:00:00Z", "0"),
        ("?from=2000-01-01T00%3A00%3A00%2B00:00", "0"),
        ("?after=0", "0"),
        ("?after=9", "9"),
        (&*format!("?after={cursor}"), "4"),
        ("?from=new", "10"),
        ("?from=last:3&ack_mode=auto&until_caught_up=false&subscriber=", "7"),
    ] {
        let mut events = Events::open(&lobby.unibus, &format!("/v1/rooms/lobby/events{query}"), &[]).await;
        let opened = events.opened().await;
        assert_eq!(opened["position"].as_str().unwrap_or("0"), position, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_durable_subscriber_resumes_at_its_position() {
    // Goal: `subscriber` means what it means in Subscribe. Method: explicit acknowledgements by the call, and automatic ones;
    // a subscription over gRPC goes on where the events ended, and the reverse.
    let (lobby, client) = lobby(10).await;
    let path = "/v1/rooms/lobby/events?subscriber=ann";
    let mut events = Events::open(&lobby.unibus, path, &[]).await;
    assert_eq!(numbers(&events.messages(6).await), listed(1..=6));
    assert_eq!(acknowledge(&client, "lobby", "ann", 4).await.unwrap(), 4);
    let mut frames = Frames::open(&client, explicit("lobby", "ann")).await.unwrap();
    assert_eq!(frames.opened().position, 4);
    assert_eq!(sequences(&frames.messages(6).await), listed(5..=10));
    let over = last(&mut events).await;
    assert_eq!((over.reason(), &over.data["error"]["metadata"]["position"]), ("TAKEN_OVER", &"10".into()));
    let mut events = Events::open(&lobby.unibus, &format!("{path}&ack_mode=auto"), &[]).await;
    assert_eq!(numbers(&events.messages(6).await), listed(5..=10));
    floor_reaches(&lobby.nats, "lobby", "ann", 10).await;
    let head = reqwest::Client::new().head(format!("http://{}{path}", lobby.unibus.address())).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    publish(&client, "lobby", "x").await.unwrap();
    assert_eq!(numbers(&events.messages(1).await), [11]);
    floor_reaches(&lobby.nats, "lobby", "ann", 11).await;
    assert_eq!(floor(&lobby.nats, "lobby", "ann").await, 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_refused_with_the_name_of_the_parameter() {
    // Goal: a person with curl sees what is wrong. Method: each parameter wrong in turn, and the errors of Subscribe.
    let (lobby, client) = lobby(3).await;
    create_ephemeral(&client, "live").await;
    let path = |query: &str| format!("/v1/rooms/lobby/events?{query}");
    for (query, field) in [
        ("from=yesterday", "from"),
        ("from=last:0", "from"),
        ("from=last:", "from"),
        ("from=all&after=1", "after"),
        ("from=all&from=all", "from"),
        ("ack_mode=none", "ack_mode"),
        ("until_caught_up=1", "until_caught_up"),
        ("subscriber=two%20words", "subscriber"),
        ("last=3", "last"),
    ] {
        let (status, reason, message) = refused(&lobby.unibus, &path(query), &[]).await;
        assert_eq!((status, &*reason), (StatusCode::BAD_REQUEST, "INVALID_FIELD"), "{query}");
        assert!(message.starts_with(&format!("`{field}`: ")), "{query}: {message}");
    }
    for (query, headers) in [("after=x", &[][..]), ("", &[("last-event-id", "7")]), ("", &[("last-event-id", "x y")])] {
        let (status, reason, _) = refused(&lobby.unibus, &path(query), headers).await;
        assert_eq!((status, &*reason), (StatusCode::BAD_REQUEST, "CURSOR_INVALID"), "{query} {headers:?}");
    }
    for (path, status, reason) in [
        ("/v1/rooms/nowhere/events", StatusCode::NOT_FOUND, "ROOM_NOT_FOUND"),
        ("/v1/rooms/%FF/events", StatusCode::BAD_REQUEST, "INVALID_FIELD"),
        ("/v1/rooms/lobby/events?after=4", StatusCode::BAD_REQUEST, "POSITION_AFTER_END"),
        ("/v1/rooms/live/events?subscriber=ann", StatusCode::BAD_REQUEST, "ROOM_NOT_PERSISTED"),
    ] {
        let (got, why, _) = refused(&lobby.unibus, path, &[]).await;
        assert_eq!((got, &*why), (status, reason), "{path}");
    }
    let post = reqwest::Client::new().post(format!("http://{}/v1/rooms/lobby/events", lobby.unibus.address()));
    assert_eq!(post.send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_end_with_the_reason_of_the_subscription() {
    // Goal: a client knows why its events ended. Method: without a token; removal from the room within a second; deletion of
    // the room; stop of the service.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let unibus = issuer.guard(&nats, |_| {}).await;
    let owner = issuer.client(&unibus, "owner").await;
    create_room(&owner, "lobby").await;
    add(&owner, "lobby", "ann", Role::Reader).await.unwrap();
    let path = "/v1/rooms/lobby/events";
    let (status, reason, _) = refused(&unibus, path, &[]).await;
    assert_eq!((status, &*reason), (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"));
    let token = |id: &str| format!("Bearer {}", issuer.token(id));
    let (status, reason, _) = refused(&unibus, path, &[("authorization", &token("bob"))]).await;
    assert_eq!((status, &*reason), (StatusCode::FORBIDDEN, "PERMISSION_DENIED"));

    let mut events = Events::open(&unibus, path, &[("authorization", &token("ann"))]).await;
    events.opened().await;
    remove(&owner, "lobby", "ann").await.unwrap();
    let ended = timeout(Duration::from_secs(1), last(&mut events)).await.expect("within a second");
    assert_eq!(ended.reason(), "PERMISSION_DENIED");

    let mut deleted = Events::open(&unibus, path, &[("authorization", &token("owner"))]).await;
    create_room(&owner, "other").await;
    let other = "/v1/rooms/other/events";
    let mut drained = Events::open(&unibus, other, &[("authorization", &token("owner"))]).await;
    owner.clone().delete_room(DeleteRoomRequest { room_id: "lobby".into() }).await.unwrap();
    assert_eq!(last(&mut deleted).await.reason(), "ROOM_NOT_FOUND");
    let stopped = tokio::spawn(unibus.shutdown());
    assert_eq!(last(&mut drained).await.reason(), "DRAINING");
    stopped.await.unwrap().unwrap();
}

/// The last event. Messages and signs of life before it are passed over.
async fn last(events: &mut Events) -> Event {
    let mut last = events.some().await;
    while let Some(event) = events.next().await {
        last = event;
    }
    last
}
