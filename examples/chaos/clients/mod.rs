//! The clients of an episode. As the docs say, they retry temporary failures with the same message id.

mod batches;
mod consume;
mod ephemeral;
mod history;
mod reader;
mod stream;
mod unary;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use unibus::v1::{room_service_client::RoomServiceClient, subscribe_response};

pub(crate) use self::{
    batches::batches,
    consume::consume,
    ephemeral::{AIR, listen, speak},
    history::{history, walk},
    reader::{read, sample, sample_once},
    stream::{flood, stream},
    unary::{Wish, expecting, publish_surely, unary},
};
use crate::oracle::{At, Call, Facts, Failure, Frame, RoomFacts};

/// How long a client waits for the answer to a call: far longer than the service may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long a client waits before it tries again.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

pub(crate) type Client = RoomServiceClient<Channel>;

/// The phases of an episode.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    Run,
    /// Publishers finish their current calls.
    Finish,
    /// Readers read up to these sequences, one for each room.
    Read(Vec<u64>),
    /// All clients end without waiting.
    Over,
}

/// The state that the clients of an episode share.
pub(crate) struct Scene {
    begun: Instant,
    /// One for each instance.
    clients: Vec<Client>,
    addresses: Vec<SocketAddr>,
    token: Option<String>,
    pub rooms: Vec<String>,
    pub ttl: bool,
    phase: watch::Sender<Phase>,
    facts: Mutex<Facts>,
    /// The greatest acknowledged sequence of each room.
    latest: Vec<AtomicU64>,
    numbers: AtomicU64,
}

impl Scene {
    pub(crate) fn new(addresses: Vec<SocketAddr>, token: Option<String>, rooms: &[String], ttl: bool) -> Self {
        let rooms_facts = rooms.iter().map(|room| RoomFacts { room_id: room.clone(), ..RoomFacts::default() });
        Self {
            begun: Instant::now(),
            clients: addresses.iter().map(|address| connect(*address)).collect(),
            addresses,
            token,
            rooms: rooms.to_vec(),
            ttl,
            phase: watch::Sender::new(Phase::Run),
            facts: Mutex::new(Facts { rooms: rooms_facts.collect(), ..Facts::default() }),
            latest: rooms.iter().map(|_| AtomicU64::new(0)).collect(),
            numbers: AtomicU64::new(1),
        }
    }

    /// The time since the episode began.
    pub(crate) fn now(&self) -> At {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn instances(&self) -> usize {
        self.clients.len()
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self, instance: usize) -> Option<Client> {
        self.addresses.get(instance).map(|address| connect(*address))
    }

    /// The client that all unary calls share.
    pub(crate) fn shared(&self, instance: usize) -> Option<Client> {
        self.clients.get(instance).cloned()
    }

    /// A request with the token of the administrator.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        request_as(self.token.as_deref(), message)
    }

    pub(crate) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to the facts of a room.
    pub(crate) fn note(&self, room: usize, note: impl FnOnce(&mut RoomFacts)) {
        if let Some(room) = self.facts().rooms.get_mut(room) {
            note(room);
        }
    }

    pub(crate) fn room_id(&self, room: usize) -> String {
        self.rooms.get(room).cloned().unwrap_or_default()
    }

    /// A number that is unique in this episode.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn latest(&self, room: usize) -> u64 {
        self.latest.get(room).map_or(0, |latest| latest.load(Ordering::Relaxed))
    }

    /// Records an acknowledged sequence.
    pub(crate) fn record_acknowledged(&self, room: usize, sequence: u64) {
        if let Some(latest) = self.latest.get(room) {
            latest.fetch_max(sequence, Ordering::Relaxed);
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn runs(&self) -> bool {
        *self.phase.borrow() == Phase::Run
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.phase.borrow() == Phase::Over
    }

    /// The sequence that readers of this room have to reach; `None` until it is known.
    pub(crate) fn target(&self, room: usize) -> Option<u64> {
        match &*self.phase.borrow() {
            Phase::Read(targets) => targets.get(room).copied(),
            Phase::Over => Some(0),
            Phase::Run | Phase::Finish => None,
        }
    }

    /// Makes a unary call and records its outcome.
    pub(crate) async fn call<T>(
        &self,
        what: &'static str,
        room: usize,
        instance: usize,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let started = self.now();
        let answer = within(call).await.map(Response::into_inner);
        let (ended, failure) = (self.now(), answer.as_ref().err().cloned());
        let room_id = self.room_id(room);
        self.facts().calls.push(Call { what, room_id, instance, started, ended, failure });
        answer
    }
}

/// A request with this message and this token.
pub(crate) fn request_as<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(Ok(value)) = token.map(|token| format!("Bearer {token}").parse()) {
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn connect(address: SocketAddr) -> Client {
    let endpoint = Endpoint::from(http_uri(address))
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5));
    RoomServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(16 * 1024 * 1024)
}

fn http_uri(address: SocketAddr) -> tonic::transport::Uri {
    format!("http://{address}").parse().unwrap_or_default()
}

/// The answer of `call`, or a failure when the client has waited too long.
pub(crate) async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Failure> {
    match timeout(ANSWER_WITHIN, call).await {
        Ok(answer) => answer.map_err(|status| failure(&status)),
        Err(_) => Err(failure(&Status::new(Code::DeadlineExceeded, "no answer within the client's own deadline"))),
    }
}

/// Converts a status for the oracle.
pub(crate) fn failure(status: &Status) -> Failure {
    let info = status.get_details_error_info();
    let sequence = info.as_ref().and_then(|info| {
        ["position", "last_sequence", "sequence"].iter().find_map(|name| info.metadata.get(*name)?.parse().ok())
    });
    Failure {
        code: format!("{:?}", status.code()),
        reason: info.map(|info| info.reason).unwrap_or_default(),
        sequence,
        message: status.message().to_owned(),
    }
}

/// The digest that identifies a payload.
pub(crate) fn digest(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}

/// Waits before the next attempt, at most until the end of the episode.
pub(crate) async fn pause(scene: &Scene) {
    if !scene.is_over() {
        sleep(PAUSE).await;
    }
}

/// Converts the status inside an answer to the status of a call.
pub(crate) fn status(error: &tonic_types::pb::Status) -> Status {
    let code = Code::from(error.code);
    Status::with_details(code, error.message.clone(), prost::Message::encode_to_vec(error).into())
}

/// Converts the first frame of a subscription for the oracle.
fn opened(opened: &unibus::v1::Opened) -> Frame {
    Frame::Opened {
        position: opened.position,
        first: opened.first_sequence,
        last: opened.last_sequence,
        resumed: opened.resumed,
        generation: opened.generation,
    }
}

/// Converts a message for the oracle. The digest is changed if the message has the id or the header of another message.
fn message(message: &unibus::v1::Message) -> Frame {
    let mut digest = digest(&message.payload);
    let label = message.payload.split(|byte| *byte == b' ').next().unwrap_or_default();
    let own = |text: &str| text.is_empty() || text.as_bytes() == label;
    if !own(&message.message_id) || !message.headers.get("label").is_none_or(|value| own(value)) {
        digest = digest.wrapping_add(1);
    }
    Frame::Message { sequence: message.sequence, digest }
}

/// Converts a gap for the oracle.
fn gap(gap: &unibus::v1::Gap) -> Frame {
    Frame::Gap { from: gap.from_sequence, to: gap.to_sequence, reason: gap.reason().as_str_name().to_owned() }
}

/// Converts a frame for the oracle.
pub(crate) fn seen(frame: subscribe_response::Frame) -> Frame {
    use subscribe_response::Frame as Wire;
    match frame {
        Wire::Opened(first) => opened(&first),
        Wire::Message(stored) => message(&stored),
        Wire::Gap(missing) => gap(&missing),
        Wire::CaughtUp(at) => Frame::CaughtUp(at.position),
        Wire::Heartbeat(at) => Frame::Heartbeat(at.position),
    }
}
