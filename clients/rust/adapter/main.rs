//! Drives the client for the conformance suite: JSON lines over standard input and output.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, BufReader, stdin},
    sync::mpsc,
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;
use unibus_client::{
    Class, Client, ClientBuilder, Error, Event, GapReason, History, Message, NewMessage, NewRoom, Published, Role,
    Room, Start, Subscribe,
};

#[allow(dead_code, reason = "an example with a main of its own")]
#[path = "../examples/encryption.rs"]
mod encryption;

/// The window of bytes, where a request sets that of messages.
const BYTES: u32 = 4 * 1024 * 1024;

type Outcome = Result<Value, Failure>;

enum Failure {
    Client(Error),
    Handler,
    Cancelled,
    Adapter(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    fn json(&self) -> Value {
        let other = |code: &str, message: &str, cancelled| {
            json!({"code": code, "reason": "", "class": "final", "outcome_unknown": false, "cancelled": cancelled,
                "message": message, "metadata": {}, "fields": []})
        };
        match self {
            Self::Client(error) => error_json(error),
            Self::Handler => other("HANDLER", "the handler failed", false),
            Self::Cancelled => other("CANCELLED", "the program cancelled", true),
            Self::Adapter(message) => other("ADAPTER", message, false),
        }
    }
}

fn error_json(error: &Error) -> Value {
    let mut code = String::new();
    for letter in format!("{:?}", error.code()).chars() {
        if letter.is_uppercase() && !code.is_empty() {
            code.push('_');
        }
        code.push(letter.to_ascii_uppercase());
    }
    let class = match error.class() {
        Class::Again => "again",
        Class::NewToken => "new_token",
        Class::Final => "final",
    };
    let fields: Vec<_> = error.fields().iter().map(|wrong| &wrong.field).collect();
    json!({"code": code, "reason": error.reason(), "class": class, "outcome_unknown": error.is_outcome_unknown(),
        "cancelled": error.is_cancelled(), "message": error.to_string(), "metadata": error.metadata(), "fields": fields,
        "message_id": error.message_id()})
}

/// A request with typed access to its fields.
#[derive(Clone)]
struct Request(Map<String, Value>);

impl Request {
    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).and_then(Value::as_str).map(str::to_owned)
    }
    fn need(&self, name: &str) -> Result<String, Failure> {
        self.text(name).ok_or_else(|| Failure::Adapter(format!("{name} is missing")))
    }
    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or_default()
    }
    fn number(&self, name: &str) -> Option<u64> {
        let value = self.0.get(name)?;
        value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()))
    }
    fn count(&self, name: &str) -> Option<u32> {
        self.number(name).and_then(|number| number.try_into().ok())
    }
    fn millis(&self, name: &str) -> Option<Duration> {
        self.number(name).map(Duration::from_millis)
    }
    fn bytes(&self, name: &str) -> Result<Vec<u8>, Failure> {
        BASE64.decode(self.need(name)?).map_err(|error| Failure::Adapter(format!("{name}: {error}")))
    }
    fn start(&self) -> Result<Option<Start>, Failure> {
        let Some(start) = self.0.get("start").and_then(Value::as_object).cloned().map(Self) else { return Ok(None) };
        let time = |text: String| text.parse().map_err(|error| Failure::Adapter(format!("{text}: {error}")));
        Ok(if start.flag("all") {
            Some(Start::All)
        } else if start.flag("new") {
            Some(Start::New)
        } else if let Some(cursor) = start.text("after_cursor") {
            Some(Start::AfterCursor(cursor))
        } else if let Some(text) = start.text("since") {
            Some(Start::Since(time(text)?))
        } else {
            let after = start.number("after_sequence").map(Start::AfterSequence);
            after.or(start.number("last").map(Start::Last))
        })
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
        Err(failure) => json!({"id": id, "error": failure.json()}),
    });
}

fn published(published: &Published) -> Value {
    let Published { sequence, duplicate, message_id, .. } = published;
    json!({"sequence": sequence.to_string(), "duplicate": duplicate, "message_id": message_id})
}

#[derive(Clone)]
struct Subscription {
    close: CancellationToken,
    cancel: CancellationToken,
    ended: CancellationToken,
}

#[derive(Default)]
struct Adapter {
    client: Mutex<Option<Client>>,
    publishers: Mutex<HashMap<String, mpsc::Sender<(Value, Request)>>>,
    subscriptions: Mutex<HashMap<String, Subscription>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Adapter {
    fn client(&self) -> Result<Client, Failure> {
        lock(&self.client).clone().ok_or_else(|| Failure::Adapter("not connected".to_owned()))
    }

    async fn handle(&self, op: &str, request: &Request) -> Outcome {
        let room = || Ok::<Room, Failure>(self.client()?.room(request.need("room")?));
        let done = |()| json!({});
        Ok(match op {
            "hello" => json!({"language": "rust", "runtime": format!("rust {}", env!("CARGO_PKG_RUST_VERSION")),
                "library": concat!("unibus-client ", env!("CARGO_PKG_VERSION"), ", tonic 0.14")}),
            "connect" => {
                *lock(&self.client) = Some(connect(request)?);
                json!({})
            }
            "create_room" => {
                let id = request.text("room").unwrap_or_default();
                let new = if request.flag("persist") { NewRoom::persisted(id) } else { NewRoom::ephemeral(id) };
                let new = with(new, request.millis("dedupe_window_ms"), NewRoom::dedupe_window);
                let new = with(new, request.millis("max_age_ms"), NewRoom::max_age);
                let messages = request.number("max_messages").and_then(|messages| messages.try_into().ok());
                let new = with(new, messages, NewRoom::max_messages);
                json!({"room": self.client()?.create_room(new).await?.id()})
            }
            "get_room" => {
                let room = room()?.get().await?;
                let window = room.dedupe_window.and_then(|window| Duration::try_from(window).ok());
                let state = room.state.unwrap_or_default();
                json!({"persist": room.persist, "dedupe_window_ms": window.unwrap_or_default().as_millis(),
                    "first_sequence": state.first_sequence.to_string(), "last_sequence": state.last_sequence.to_string(),
                    "messages": state.messages})
            }
            "delete_room" => room()?.delete().await.map(done)?,
            "purge_room" => match request.number("up_to") {
                Some(sequence) => room()?.purge_up_to(sequence).await.map(|_| json!({}))?,
                None => room()?.purge().await.map(|_| json!({}))?,
            },
            "delete_message" => {
                room()?.delete_message(request.number("sequence").unwrap_or_default()).await.map(done)?
            }
            "publish" => published(&room()?.publish(message(request)?).await?),
            "history" => history(&room()?, request).await?,
            "add_member" => {
                let role = match request.text("role").as_deref() {
                    Some("owner") => Role::Owner,
                    Some("writer") => Role::Writer,
                    _ => Role::Reader,
                };
                room()?.add_member(request.need("member")?, role).await.map(|_| json!({}))?
            }
            "remove_member" => room()?.remove_member(request.need("member")?).await.map(done)?,
            "list_members" => {
                let role = |role: Role| role.as_str_name().trim_start_matches("ROLE_").to_ascii_lowercase();
                let members = room()?.members().await?;
                let members = members.iter().map(|one| json!({"member": one.member_id, "role": role(one.role())}));
                json!({"members": members.collect::<Vec<_>>()})
            }
            "seek" => {
                let start = request.start()?.ok_or_else(|| Failure::Adapter("start is missing".to_owned()))?;
                json!({"position": room()?.seek_subscriber(request.need("subscriber")?, start).await?.to_string()})
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
                let found = lock(&self.subscriptions).get(&request.need("sub")?).cloned();
                let found = found.ok_or_else(|| Failure::Adapter("no such sub".to_owned()))?;
                if op == "cancel" {
                    found.cancel.cancel();
                } else {
                    found.close.cancel();
                }
                found.ended.cancelled().await;
                json!({})
            }
            "seal" | "open" => {
                let key = request.bytes("key")?.try_into();
                let key = key.map_err(|_| Failure::Adapter("key needs 32 bytes".to_owned()))?;
                let (room, sender) = (request.need("room")?, request.need("sender")?);
                let failed = |error: aes_gcm::Error| Failure::Adapter(error.to_string());
                if op == "seal" {
                    let sealed = encryption::seal(&key, &room, &sender, &request.bytes("payload")?).map_err(failed)?;
                    json!({"sealed": BASE64.encode(sealed)})
                } else {
                    let payload = encryption::open(&key, &room, &sender, &request.bytes("sealed")?).map_err(failed)?;
                    json!({"payload": BASE64.encode(payload)})
                }
            }
            "close" => {
                let client = self.client()?;
                client.close().await;
                json!({})
            }
            _ => return Err(Failure::Adapter(format!("unknown op {op}"))),
        })
    }

    /// Starts a subscription, whose lines come without a request.
    fn subscribe(&self, request: &Request, tasks: &mut JoinSet<()>) -> Outcome {
        let (name, room) = (request.need("sub")?, self.client()?.room(request.need("room")?));
        let subscription = Subscription {
            close: CancellationToken::new(),
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let close = subscription.close.clone();
        let sub = name.clone();
        let options = room
            .subscribe()
            .durable(request.text("subscriber").unwrap_or_default())
            .close_on(async move { close.cancelled().await })
            .on_event(move |event| print(&json!({"sub": sub, "event": event_json(event)})));
        let options = with(options, request.count("concurrency"), |options, count| options.concurrency(count as usize));
        let options = with(options, request.start()?, Subscribe::start);
        let options =
            with(options, request.count("prefetch"), |options, count| options.read_ahead(count, BYTES.into()));
        let options = if request.flag("until_caught_up") { options.until_caught_up() } else { options };
        let (sub, pause, fail_at) = (name.clone(), request.millis("handler_ms"), request.number("fail_at"));
        let handler = async move |message: Message| {
            print(&json!({"sub": sub, "message": message_json(&message)}));
            if let Some(pause) = pause {
                time::sleep(pause).await;
            }
            if fail_at == Some(message.sequence) {
                return Err(Failure::Handler);
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
        let Subscription { cancel, ended, .. } = subscription.clone();
        lock(&self.subscriptions).insert(name.clone(), subscription);
        tasks.spawn(async move {
            let outcome = cancel.run_until_cancelled(run).await.unwrap_or(Err(Failure::Cancelled));
            let end = outcome.map_or_else(|failure| json!({"error": failure.json()}), |()| json!({}));
            print(&json!({"sub": name, "ended": end}));
            ended.cancel();
        });
        Ok(json!({}))
    }

    /// Starts a publisher. Its requests are taken in their order.
    fn open_publisher(&self, request: &Request, tasks: &mut JoinSet<()>) -> Outcome {
        let builder = self.client()?.room(request.need("room")?).publisher();
        let builder = with(builder, request.count("window"), |builder, count| builder.window(count, BYTES));
        let (publisher, (sender, mut requests)) =
            (Arc::new(builder.start()), mpsc::channel::<(Value, Request)>(100_000));
        lock(&self.publishers).insert(request.need("publisher")?, sender);
        tasks.spawn(async move {
            let mut waiting = JoinSet::new();
            while let Some((id, request)) = requests.recv().await {
                let publisher = publisher.clone();
                match request.text("op").as_deref() {
                    Some("publisher_send") => {
                        let sent = match message(&request) {
                            Ok(message) => publisher.send(message).await.map_err(Failure::from),
                            Err(failure) => Err(failure),
                        };
                        waiting.spawn(async move {
                            answer(&id, async { Ok(published(&sent?.await?)) }.await);
                        });
                    }
                    Some("publisher_flush") => drop(waiting.spawn(async move {
                        publisher.flush().await;
                        answer(&id, Ok(json!({})));
                    })),
                    _ => drop(waiting.spawn(async move {
                        publisher.close().await;
                        answer(&id, Ok(json!({})));
                    })),
                }
            }
            waiting.join_all().await;
        });
        Ok(json!({}))
    }
}

fn connect(request: &Request) -> Result<Client, Failure> {
    let read = |path: &str| std::fs::read(path).map_err(|error| Failure::Adapter(format!("{path}: {error}")));
    let builder = Client::builder(request.need("address")?);
    let builder = with(builder, request.text("ca").map(|ca| read(&ca)).transpose()?, ClientBuilder::ca_certificate);
    let identity = request.text("cert").zip(request.text("key"));
    let identity = identity.map(|(cert, key)| Ok::<_, Failure>((read(&cert)?, read(&key)?))).transpose()?;
    let builder = with(builder, identity, |builder, (cert, key)| builder.client_certificate(cert, key));
    let builder = with(builder, request.text("token"), ClientBuilder::token);
    let builder = with(builder, request.text("token_file"), |builder, file| {
        builder.token_from(move || tokio::fs::read_to_string(file.clone()))
    });
    let builder = if request.flag("plaintext_token") { builder.allow_plaintext_token() } else { builder };
    let builder = with(builder, request.millis("attempt_ms"), ClientBuilder::attempt_time);
    Ok(with(builder, request.millis("total_ms"), ClientBuilder::total_time).build()?)
}

fn message(request: &Request) -> Result<NewMessage, Failure> {
    let mut message = NewMessage::new(request.bytes("payload")?);
    for (name, value) in request.0.get("headers").and_then(Value::as_object).into_iter().flatten() {
        message = message.header(name, value.as_str().unwrap_or_default());
    }
    let message = with(message, request.text("message_id"), NewMessage::message_id);
    let message = with(message, request.number("expected_last_sequence"), NewMessage::expected_last_sequence);
    Ok(with(message, request.millis("timeout_ms"), NewMessage::within))
}

fn message_json(message: &Message) -> Value {
    let published_at = message.published_at.map(|time| time.to_string()).unwrap_or_default();
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
        Event::Recreated => json!({"type": "recreated"}),
        Event::Disconnected { error, pause } => {
            json!({"type": "disconnected", "error": error_json(&error), "pause_ms": pause.as_millis()})
        }
        _ => json!({"type": "unknown"}),
    }
}

async fn history(room: &Room, request: &Request) -> Outcome {
    let time =
        |text: String| text.parse::<unibus_client::Timestamp>().map_err(|error| Failure::Adapter(error.to_string()));
    let is_backwards = request.text("direction").as_deref() == Some("backwards");
    let history = if is_backwards { room.history().backwards() } else { room.history() };
    let history = with(history, request.number("after_sequence"), History::after_sequence);
    let history = with(history, request.number("before_sequence"), History::before_sequence);
    let history = with(history, request.text("start_time").map(time).transpose()?, History::since);
    let history = with(history, request.text("end_time").map(time).transpose()?, History::until);
    let page_size = request.number("page_size").map(|messages| messages.try_into().unwrap_or(u16::MAX));
    let messages = with(history, page_size, History::page_size).messages();
    let mut messages = messages.take(request.count("max").map_or(usize::MAX, |max| max as usize));
    let (mut digest, mut count, mut first, mut last, mut ordered) = (Sha256::new(), 0_u64, 0, 0, true);
    while let Some(message) = messages.try_next().await? {
        let is_next = count == 0 || if is_backwards { message.sequence < last } else { message.sequence > last };
        (count, last, ordered) = (count + 1, message.sequence, ordered && is_next);
        first = if count == 1 { last } else { first };
        digest.update(format!("{last}\n"));
        digest.update(&message.payload);
    }
    let digest = format!("{:x}", digest.finalize());
    Ok(
        json!({"count": count, "first": first.to_string(), "last": last.to_string(), "ordered": ordered, "digest": digest}),
    )
}

#[tokio::main]
async fn main() {
    let (adapter, mut tasks, mut lines) =
        (Arc::new(Adapter::default()), JoinSet::new(), BufReader::new(stdin()).lines());
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(Value::Object(fields)) = serde_json::from_str(&line) else { continue };
        let (id, request) = (fields.get("id").cloned().unwrap_or_default(), Request(fields));
        let op = request.text("op").unwrap_or_default();
        match op.as_str() {
            "subscribe" => answer(&id, adapter.subscribe(&request, &mut tasks)),
            "publisher_open" => answer(&id, adapter.open_publisher(&request, &mut tasks)),
            "publisher_send" | "publisher_flush" | "publisher_close" => {
                let found = lock(&adapter.publishers).get(&request.text("publisher").unwrap_or_default()).cloned();
                let given = found.map(|publisher| publisher.try_send((id.clone(), request)));
                if !matches!(given, Some(Ok(()))) {
                    answer(&id, Err(Failure::Adapter("no such publisher".to_owned())));
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
