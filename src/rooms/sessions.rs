//! Sessions: Consume for clients that cannot send a stream. Commands arrive in calls of their own, at any instance, and
//! are queued for the stream of the session.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    Rooms,
    consume::{ConsumeCommand, Consumed},
};
use crate::{
    domain::{Caller, MemberId},
    error::{Error, Reason, Result},
    limits::{SESSION_QUEUE_COMMANDS_MAX, SESSION_QUEUE_WAIT_MAX},
    store::{
        peers::{IncomingRequest, PeerListener},
        sessions::{CommandsOutcome, ForwardedCommands},
    },
    sync::lock,
};

/// How long to wait before commands are offered again to a full queue.
const FULL_QUEUE_DELAY: Duration = Duration::from_millis(50);
/// Forwarded calls that are served concurrently.
const FORWARDED_AT_ONCE: usize = 32;

/// Reads the commands of an encoded request.
pub(crate) type DecodeCommands = fn(&[u8]) -> Result<Vec<ConsumeCommand>>;

/// The name of a session: the instance that holds it, and a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SessionId {
    instance: String,
    key: String,
}

impl SessionId {
    /// # Errors
    /// `INVALID_FIELD`.
    pub(crate) fn parse(field: &str, id: &str) -> Result<Self> {
        let is_name = |part: &str| part.len() == 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        match id.split_once('-') {
            Some((instance, key)) if is_name(instance) && is_name(key) => {
                Ok(Self { instance: instance.to_owned(), key: key.to_owned() })
            }
            _ => Err(Error::field(field, "must be the id in the first frame of OpenSession")),
        }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.instance, self.key)
    }
}

/// The commands of one call of `SessionCommand`.
#[derive(Debug)]
pub(crate) struct SessionCommands {
    /// The place of the call among the calls of the session, or 0.
    pub number: u64,
    pub commands: Vec<ConsumeCommand>,
    /// The encoded request, for the instance that holds the session.
    pub encoded: Bytes,
}

/// The sessions that this instance holds.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<String, OpenSession>>,
}

#[derive(Debug)]
struct OpenSession {
    /// The id of the caller that opened the session; `None` if authorisation is off.
    owner: Option<MemberId>,
    queue: mpsc::Sender<Result<ConsumeCommand>>,
    /// The number of the last numbered call that was taken.
    taken: u64,
}

impl Sessions {
    fn offer(
        &self,
        key: &str,
        caller: Option<&MemberId>,
        number: u64,
        commands: &mut Vec<ConsumeCommand>,
    ) -> CommandsOutcome {
        let mut open = lock(&self.open);
        let Some(session) = open.get_mut(key).filter(|session| session.owner.as_ref() == caller) else {
            return CommandsOutcome::NotFound;
        };
        if number > 0 && number <= session.taken {
            return CommandsOutcome::Taken;
        }
        if number > session.taken + 1 {
            return CommandsOutcome::TooEarly;
        }
        match session.queue.try_reserve_many(commands.len()) {
            Ok(places) => {
                for (place, command) in places.zip(commands.drain(..)) {
                    place.send(Ok(command));
                }
                session.taken = number.max(session.taken);
                CommandsOutcome::Taken
            }
            Err(TrySendError::Full(())) => CommandsOutcome::Full,
            Err(TrySendError::Closed(())) => CommandsOutcome::NotFound,
        }
    }

    /// Serves the calls that other instances forward, until `stop`.
    pub(super) async fn serve(
        self: Arc<Self>,
        peers: PeerListener<ForwardedCommands>,
        decode: DecodeCommands,
        stop: CancellationToken,
    ) {
        let answer = |call: IncomingRequest<ForwardedCommands>| async {
            let ForwardedCommands { key, caller, number, request } = &call.request;
            let request = BASE64_STANDARD.decode(request).unwrap_or_default();
            let outcome = match decode(&request) {
                Ok(mut commands) => self.offer(key, caller.as_ref(), *number, &mut commands),
                Err(_) => CommandsOutcome::NotFound,
            };
            call.answer(&outcome).await;
        };
        peers.serve(FORWARDED_AT_ONCE, stop, answer).await;
    }
}

/// Removes a session when its stream is dropped.
struct SessionGuard {
    sessions: Arc<Sessions>,
    key: String,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        lock(&self.sessions.open).remove(&self.key);
    }
}

impl Rooms {
    /// Opens a session, and gives it the first `commands`, at most [`SESSION_QUEUE_COMMANDS_MAX`]. The session ends when
    /// the returned stream is dropped.
    pub(crate) fn open_session(
        &self,
        caller: &Caller,
        commands: Vec<ConsumeCommand>,
    ) -> (SessionId, impl Stream<Item = Result<Consumed>> + Send + 'static) {
        let (queue, queued) = mpsc::channel(SESSION_QUEUE_COMMANDS_MAX);
        for command in commands {
            // the queue is empty and has space for all of them
            let _ = queue.try_send(Ok(command));
        }
        let key = uuid::Uuid::new_v4().simple().to_string();
        let session = OpenSession { owner: caller.id().cloned(), queue, taken: 0 };
        lock(&self.sessions.open).insert(key.clone(), session);
        let guard = SessionGuard { sessions: Arc::clone(&self.sessions), key: key.clone() };
        let consumed = self.consume(caller, ReceiverStream::new(queued));
        let consumed = consumed.inspect(move |_| {
            let _open = &guard;
        });
        (SessionId { instance: self.store.instance().to_owned(), key }, consumed)
    }

    /// Queues commands for a session, which may be on another instance.
    ///
    /// # Errors
    /// `SESSION_NOT_FOUND`, `CONFLICT` if a call with a smaller number is missing, `RATE_LIMITED` if the session does not
    /// take its earlier commands, `TIMEOUT`, `NATS_UNAVAILABLE`.
    pub(crate) async fn session_command(
        &self,
        caller: &Caller,
        id: &SessionId,
        commands: SessionCommands,
    ) -> Result<()> {
        let SessionCommands { number, mut commands, encoded } = commands;
        let is_here = id.instance == self.store.instance();
        let forwarded = (!is_here).then(|| ForwardedCommands {
            key: id.key.clone(),
            caller: caller.id().cloned(),
            number,
            request: BASE64_STANDARD.encode(&encoded),
        });
        let end = Instant::now() + SESSION_QUEUE_WAIT_MAX;
        loop {
            let outcome = match &forwarded {
                Some(forwarded) => {
                    // `None`: the instance has stopped, and its sessions with it
                    self.store.peers.ask(&id.instance, forwarded).await?.unwrap_or(CommandsOutcome::NotFound)
                }
                None => self.sessions.offer(&id.key, caller.id(), number, &mut commands),
            };
            match outcome {
                CommandsOutcome::Taken => return Ok(()),
                CommandsOutcome::Full if Instant::now() < end => time::sleep(FULL_QUEUE_DELAY).await,
                CommandsOutcome::Full => {
                    return Err(Error::new(
                        Reason::RateLimited,
                        "earlier commands of the session wait, because its client does not read its frames; read them, \
                         then call again",
                    ));
                }
                CommandsOutcome::TooEarly => {
                    return Err(Error::new(
                        Reason::Conflict,
                        "`number`: a call of this session with a smaller number has not arrived yet; make it first",
                    ));
                }
                CommandsOutcome::NotFound => {
                    return Err(Error::new(
                        Reason::SessionNotFound,
                        "`session_id`: the session has ended, or belongs to another caller; call OpenSession again",
                    ));
                }
            }
        }
    }
}
