//! Drives the client for the conformance suite: JSON lines over standard input and output.

#![allow(clippy::needless_pass_by_value, clippy::unit_arg, reason = "shorter, and nobody else calls it")]

use std::{
    collections::HashMap,
    fmt,
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    sync::mpsc,
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;
use unibus_client::{
    Client, ClientBuilder, Error, Event, GapReason, History, Message, NewMessage, NewRoom, Published, Publisher, Role,
    Room, Start, Subscribe, Timestamp,
};

#[allow(dead_code, reason = "an example with a main of its own")]
#[path = "../examples/encryption.rs"]
mod encryption;

/// The window of bytes, where a request sets that of messages.
const BYTES: u32 = 4 * 1024 * 1024;

type Outcome<T = Value> = Result<T, Failure>;

/// An error as the suite reads it.
struct Failure(Value);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error_json(&error))
    }
}

/// A failure that is none of the client.
fn failure(code: &str, message: impl fmt::Display) -> Failure {
    Failure(json!({"code": code, "class": "final", "cancelled": code == "CANCELLED", "message": message.to_string()}))
}

fn wrong(message: impl fmt::Display) -> Failure {
    failure("ADAPTER", message)
}

fn error_json(error: &Error) -> Value {
    let fields: Vec<_> = error.fields().iter().map(|wrong| &wrong.field).collect();
    json!({"code": snake(error.code()).to_ascii_uppercase(), "reason": error.reason(), "class": snake(error.class()),
        "outcome_unknown": error.is_outcome_unknown(), "cancelled": error.is_cancelled(), "message": error.to_string(),
        "metadata": error.metadata(), "fields": fields, "message_id": error.message_id()})
}

/// The name of a variant, such as `new_token`.
fn snake(variant: impl fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{variant:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// A request with typed access to its fields.
#[derive(Clone)]
struct Request(Value);

impl Request {
    fn field(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }
    fn option(&self, name: &str) -> Option<String> {
        self.field(name).as_str().map(str::to_owned)
    }
    fn text(&self, name: &str) -> String {
        self.option(name).unwrap_or_default()
    }
    fn flag(&self, name: &str) -> bool {
        self.field(name).as_bool().unwrap_or_default()
    }
    fn number<T: TryFrom<u64>>(&self, name: &str) -> Option<T> {
        let value = self.field(name);
        value.as_u64().or_else(|| value.as_str()?.parse().ok())?.try_into().ok()
    }
    fn millis(&self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_millis)
    }
    fn bytes(&self, name: &str) -> Outcome<Vec<u8>> {
        BASE64.decode(self.text(name)).map_err(wrong)
    }
    fn time(&self, name: &str) -> Outcome<Option<Timestamp>> {
        self.option(name).map(|text| text.parse().map_err(wrong)).transpose()
    }
    fn start(&self) -> Outcome<Option<Start>> {
        let start = Self(self.field("start").clone());
        let flag = |name, value| start.flag(name).then_some(value);
        Ok(flag("all", Start::All)
            .or(flag("new", Start::New))
            .or(start.option("after_cursor").map(Start::AfterCursor))
            .or(start.number("after_sequence").map(Start::AfterSequence))
            .or(start.number("last").map(Start::Last))
            .or(start.time("since")?.map(Start::Since)))
    }
}

/// Sets an option of a builder, if the request has it.
fn with<B, T>(builder: B, value: Option<T>, set: impl FnOnce(B, T) -> B) -> B {
    match value {
        Some(value) => set(builder, value),
        None => builder,
    }
}

fn print(line: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn answer(id: &Value, outcome: Outcome) {
    print(&match outcome {
        Ok(ok) => json!({"id": id, "ok": ok}),
        Err(Failure(error)) => json!({"id": id, "error": error}),
    });
}

/// The answer to a request that answers nothing.
fn done<T>(_: T) -> Value {
    json!({})
}

fn published(Published { sequence, duplicate, message_id, .. }: &Published) -> Value {
    json!({"sequence": sequence.to_string(), "duplicate": duplicate, "message_id": message_id})
}

#[derive(Clone, Default)]
struct Subscription {
    close: CancellationToken,
    cancel: CancellationToken,
    ended: CancellationToken,
}

#[derive(Default)]
struct Adapter {
    client: Mutex<Option<Client>>,
    publishers: Mutex<HashMap<String, mpsc::Sender<Request>>>,
    subscriptions: Mutex<HashMap<String, Subscription>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Adapter {
    fn client(&self) -> Outcome<Client> {
        lock(&self.client).clone().ok_or_else(|| wrong("not connected"))
    }

    fn room(&self, request: &Request) -> Outcome<Room> {
        Ok(self.client()?.room(request.text("room")))
    }

    async fn handle(&self, op: &str, request: &Request) -> Outcome {
        let (room, text) = (|| self.room(request), |name| request.text(name));
        Ok(match op {
            "hello" => json!({"language": "rust", "runtime": concat!("rust ", env!("CARGO_PKG_RUST_VERSION")),
                "library": concat!("unibus-client ", env!("CARGO_PKG_VERSION"), ", tonic 0.14")}),
            "connect" => done(lock(&self.client).insert(connect(request)?)),
            "close" => done(self.client()?.close().await),
            "create_room" => json!({"room": self.client()?.create_room(new_room(request)).await?.id()}),
            "get_room" => {
                let room = room()?.get().await?;
                let window = room.dedupe_window.and_then(|window| Duration::try_from(window).ok());
                let state = room.state.unwrap_or_default();
                json!({"persist": room.persist, "dedupe_window_ms": window.unwrap_or_default().as_millis(),
                    "first_sequence": state.first_sequence.to_string(), "last_sequence": state.last_sequence.to_string(),
                    "messages": state.messages})
            }
            "delete_room" => done(room()?.delete().await?),
            "purge_room" => match request.number("up_to") {
                Some(sequence) => done(room()?.purge_up_to(sequence).await?),
                None => done(room()?.purge().await?),
            },
            "delete_message" => done(room()?.delete_message(request.number("sequence").unwrap_or_default()).await?),
            "publish" => published(&room()?.publish(message(request)?).await?),
            "history" => history(&room()?, request).await?,
            "add_member" => {
                let role = Role::from_str_name(&format!("ROLE_{}", text("role").to_ascii_uppercase()));
                done(room()?.add_member(text("member"), role.unwrap_or_default()).await?)
            }
            "remove_member" => done(room()?.remove_member(text("member")).await?),
            "list_members" => {
                let members = room()?.members().await?;
                let members = members.iter().map(|one| json!({"member": one.member_id, "role": snake(one.role())}));
                json!({"members": members.collect::<Vec<_>>()})
            }
            "seek" => {
                let start = request.start()?.ok_or_else(|| wrong("start is missing"))?;
                json!({"position": room()?.seek_subscriber(text("subscriber"), start).await?.to_string()})
            }
            "list_subscribers" => {
                let subscribers = room()?.subscribers().await?;
                let subscribers = subscribers.iter().map(|one| {
                    json!({"subscriber": one.subscriber, "position": one.position.to_string(), "lag": one.lag.to_string(),
                        "open": one.open})
                });
                json!({"subscribers": subscribers.collect::<Vec<_>>()})
            }
            "unsubscribe" | "cancel" => {
                let found = lock(&self.subscriptions).get(&text("sub")).cloned();
                let found = found.ok_or_else(|| wrong("no such sub"))?;
                let end = if op == "cancel" { &found.cancel } else { &found.close };
                end.cancel();
                done(found.ended.cancelled().await)
            }
            "seal" | "open" => {
                let key = request.bytes("key")?.try_into().map_err(|_| wrong("key needs 32 bytes"))?;
                let (crypt, from, to): (fn(_, _, _, _) -> _, _, _) = match op {
                    "seal" => (encryption::seal, "payload", "sealed"),
                    _ => (encryption::open, "sealed", "payload"),
                };
                let bytes = crypt(&key, &text("room"), &text("sender"), &request.bytes(from)?).map_err(wrong)?;
                json!({to: BASE64.encode(bytes)})
            }
            _ => return Err(wrong(format!("unknown op {op}"))),
        })
    }

    /// Starts a subscription, whose lines come without a request.
    fn subscribe(&self, request: &Request, tasks: &mut JoinSet<()>) -> Outcome {
        let (name, subscription) = (request.text("sub"), Subscription::default());
        let Subscription { close, cancel, ended } = subscription.clone();
        let sub = name.clone();
        let options = self
            .room(request)?
            .subscribe()
            .durable(request.text("subscriber"))
            .close_on(close.cancelled_owned())
            .on_event(move |event| print(&json!({"sub": sub, "event": event_json(event)})));
        let options = with(options, request.number("concurrency"), Subscribe::concurrency);
        let options = with(options, request.start()?, Subscribe::start);
        let options =
            with(options, request.number("prefetch"), |options, count| options.read_ahead(count, BYTES.into()));
        let options = if request.flag("until_caught_up") { options.until_caught_up() } else { options };
        let (sub, pause, fail_at) = (name.clone(), request.millis("handler_ms"), request.number("fail_at"));
        let handler = async move |message: Message| {
            print(&json!({"sub": sub, "message": message_json(&message)}));
            time::sleep(pause.unwrap_or_default()).await;
            if fail_at == Some(message.sequence) {
                return Err(failure("HANDLER", "the handler failed"));
            }
            print(&json!({"sub": sub, "done": message.sequence.to_string()}));
            Ok(())
        };
        let is_iterator = request.flag("iterator");
        let run = async move {
            if !is_iterator {
                return options.run(handler).await;
            }
            let mut messages = options.messages();
            while let Some(message) = messages.try_next().await? {
                if let Err(failure) = handler(message).await {
                    messages.close().await?;
                    return Err(failure);
                }
            }
            Ok(())
        };
        lock(&self.subscriptions).insert(name.clone(), subscription);
        tasks.spawn(async move {
            let outcome = cancel.run_until_cancelled(run).await;
            let outcome = outcome.unwrap_or_else(|| Err(failure("CANCELLED", "the program cancelled")));
            let end = outcome.map_or_else(|Failure(error)| json!({"error": error}), done);
            print(&json!({"sub": name, "ended": end}));
            ended.cancel();
        });
        Ok(json!({}))
    }

    /// Starts a publisher. Its requests are taken in their order.
    fn open_publisher(&self, request: &Request, tasks: &mut JoinSet<()>) -> Outcome {
        let builder = self.room(request)?.publisher();
        let builder = with(builder, request.number("window"), |builder, count| builder.window(count, BYTES));
        let (publisher, (sender, mut requests)) = (Arc::new(builder.start()), mpsc::channel(100_000));
        lock(&self.publishers).insert(request.text("publisher"), sender);
        tasks.spawn(async move {
            let mut waiting = JoinSet::new();
            while let Some(request) = requests.recv().await {
                let receipt = match request.text("op").as_str() {
                    "publisher_send" => Some(send(&publisher, &request).await),
                    _ => None,
                };
                let publisher = publisher.clone();
                waiting.spawn(async move {
                    let outcome = match receipt {
                        Some(Ok(receipt)) => receipt.await.map(|stored| published(&stored)).map_err(Failure::from),
                        Some(Err(failure)) => Err(failure),
                        None if request.text("op") == "publisher_flush" => Ok(done(publisher.flush().await)),
                        None => Ok(done(publisher.close().await)),
                    };
                    answer(request.field("id"), outcome);
                });
            }
            waiting.join_all().await;
        });
        Ok(json!({}))
    }
}

async fn send(publisher: &Publisher, request: &Request) -> Outcome<unibus_client::Receipt> {
    Ok(publisher.send(message(request)?).await?)
}

fn connect(request: &Request) -> Outcome<Client> {
    let read = |name| request.option(name).map(std::fs::read).transpose().map_err(wrong);
    let builder = with(Client::builder(request.text("address")), read("ca")?, ClientBuilder::ca_certificate);
    let builder =
        with(builder, read("cert")?.zip(read("key")?), |builder, (cert, key)| builder.client_certificate(cert, key));
    let builder = with(builder, request.option("token"), ClientBuilder::token);
    let builder = with(builder, request.option("token_file"), |builder, file| {
        builder.token_from(move || tokio::fs::read_to_string(file.clone()))
    });
    let builder = if request.flag("plaintext_token") { builder.allow_plaintext_token() } else { builder };
    let builder = with(builder, request.millis("attempt_ms"), ClientBuilder::attempt_time);
    Ok(with(builder, request.millis("total_ms"), ClientBuilder::total_time).build()?)
}

fn new_room(request: &Request) -> NewRoom {
    let new = if request.flag("persist") { NewRoom::persisted } else { NewRoom::ephemeral };
    let room = with(new(request.text("room")), request.millis("dedupe_window_ms"), NewRoom::dedupe_window);
    let room = with(room, request.millis("max_age_ms"), NewRoom::max_age);
    with(room, request.number("max_messages"), NewRoom::max_messages)
}

fn message(request: &Request) -> Outcome<NewMessage> {
    let mut message = NewMessage::new(request.bytes("payload")?);
    for (name, value) in request.field("headers").as_object().into_iter().flatten() {
        message = message.header(name, value.as_str().unwrap_or_default());
    }
    let message = with(message, request.option("message_id"), NewMessage::message_id);
    let message = with(message, request.number("expected_last_sequence"), NewMessage::expected_last_sequence);
    Ok(with(message, request.millis("timeout_ms"), NewMessage::within))
}

fn message_json(message: &Message) -> Value {
    let published_at = message.published_at.map(|time| time.to_string());
    json!({"sequence": message.sequence.to_string(), "payload": BASE64.encode(&message.payload), "headers": message.headers,
        "message_id": message.message_id, "sender": message.sender, "cursor": message.cursor, "published_at": published_at})
}

fn event_json(event: Event) -> Value {
    match event {
        Event::Opened { position, resumed } => {
            json!({"type": "opened", "position": position.to_string(), "resumed": resumed})
        }
        Event::CaughtUp { position } => json!({"type": "caught_up", "position": position.to_string()}),
        Event::Gap { from_sequence, to_sequence, reason, dropped } => {
            let reason = GapReason::as_str_name(&reason).trim_start_matches("GAP_REASON_");
            json!({"type": "gap", "from": from_sequence.to_string(), "to": to_sequence.to_string(), "reason": reason,
                "dropped": dropped.to_string()})
        }
        Event::Moved { position } => json!({"type": "moved", "position": position.to_string()}),
        Event::Disconnected { error, pause } => {
            json!({"type": "disconnected", "error": error_json(&error), "pause_ms": pause.as_millis()})
        }
        other => json!({"type": snake(other)}),
    }
}

async fn history(room: &Room, request: &Request) -> Outcome {
    let is_backwards = request.text("direction") == "backwards";
    let history = if is_backwards { room.history().backwards() } else { room.history() };
    let history = with(history, request.number("after_sequence"), History::after_sequence);
    let history = with(history, request.number("before_sequence"), History::before_sequence);
    let history = with(history, request.time("start_time")?, History::since);
    let history = with(history, request.time("end_time")?, History::until);
    let messages = with(history, request.number("page_size"), History::page_size).messages();
    let mut messages = messages.take(request.number("max").unwrap_or(usize::MAX));
    let (mut digest, mut sequences) = (Sha256::new(), Vec::new());
    while let Some(message) = messages.try_next().await? {
        digest.update(format!("{}\n", message.sequence));
        digest.update(&message.payload);
        sequences.push(message.sequence);
    }
    let is_ordered = sequences.is_sorted_by(|one, next| if is_backwards { one > next } else { one < next });
    let place = |sequence: Option<&u64>| sequence.copied().unwrap_or_default().to_string();
    Ok(json!({"count": sequences.len(), "first": place(sequences.first()), "last": place(sequences.last()),
        "ordered": is_ordered, "digest": format!("{:x}", digest.finalize())}))
}

#[tokio::main]
async fn main() {
    let (adapter, mut tasks) = (Arc::new(Adapter::default()), JoinSet::new());
    let mut lines = BufReader::new(stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(request) = serde_json::from_str(&line).map(Request) else { continue };
        let (id, op) = (request.field("id").clone(), request.text("op"));
        match op.as_str() {
            "subscribe" => answer(&id, adapter.subscribe(&request, &mut tasks)),
            "publisher_open" => answer(&id, adapter.open_publisher(&request, &mut tasks)),
            "publisher_send" | "publisher_flush" | "publisher_close" => {
                let found = lock(&adapter.publishers).get(&request.text("publisher")).cloned();
                if found.is_none_or(|publisher| publisher.try_send(request).is_err()) {
                    answer(&id, Err(wrong("no such publisher")));
                }
            }
            _ => {
                let adapter = adapter.clone();
                tasks.spawn(async move { answer(&id, adapter.handle(&op, &request).await) });
            }
        }
    }
    let client = lock(&adapter.client).take();
    if let Some(client) = client {
        let _ = time::timeout(Duration::from_secs(10), client.close()).await;
    }
}
