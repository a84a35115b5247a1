//! The facts of an episode: what its clients saw, and which messages are stored at its end. Plain data, so that a test
//! can write facts by hand.

use std::collections::BTreeMap;

/// Microseconds since the episode began.
pub(crate) type At = u64;

/// One second of [`At`].
pub(crate) const SECOND: At = 1_000_000;

/// All facts of an episode.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub rooms: Vec<RoomFacts>,
    pub air: Air,
    /// Every unary call, for all rooms.
    pub calls: Vec<Call>,
    /// When an instance was killed or stopped, and when it listened again.
    pub outages: Vec<Outage>,
    /// When an instance had no connection to NATS.
    pub unreached: Vec<Outage>,
    /// Stalls of this program itself: an event that seems late in a stall may have been in time.
    pub stalls: Vec<(At, At)>,
    /// `heartbeat_interval` of the subscriptions.
    pub heartbeat: At,
    /// Whether a server, a link or a disk failed, so that calls may fail because NATS is unreachable.
    pub disturbed: bool,
    /// Whether the store may have been full.
    pub full: bool,
}

/// An instance that did not run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub instance: usize,
    pub from: At,
    pub to: At,
}

/// One room.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomFacts {
    pub room_id: String,
    /// Whether the log has replicas, so that a server that was cut off may answer with an older state.
    pub has_copies: bool,
    pub log: Log,
    pub publishes: Vec<Publish>,
    pub removals: Vec<Removal>,
    pub subscriptions: Vec<Subscription>,
    pub acks: Vec<Ack>,
    pub moves: Vec<Move>,
    pub pages: Vec<Page>,
    pub members: Vec<MemberChange>,
    /// The readers that did not reach the last message in time, with the missing messages.
    pub unfinished: Vec<String>,
}

/// The room's stream as a native client reads it at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub first: u64,
    pub last: u64,
    pub messages: BTreeMap<u64, Stored>,
}

/// A stored message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    /// The digest of the payload.
    pub digest: u64,
    /// Microseconds since 1970.
    pub time: u64,
}

/// A message that a publisher wanted to store once.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    /// The first word of the payload, which evidence shows. It is also the message id, if there is one.
    pub label: String,
    pub digest: u64,
    pub has_id: bool,
    pub expected: Option<u64>,
    /// Whole seconds.
    pub ttl: Option<u64>,
    /// The member that published the message, where membership is tested.
    pub member: Option<String>,
    /// Its place in an atomic batch.
    pub group: Option<Group>,
    pub attempts: Vec<Attempt>,
}

/// A place in an atomic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub batch: u64,
    pub index: u64,
    pub size: u64,
}

/// One attempt to publish a message.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    /// Messages of one `PublishStream` or `PublishBatch` have the same number.
    pub call: u64,
    /// The message's place in that call.
    pub place: u64,
    pub instance: usize,
    pub started: At,
    pub ended: At,
    pub outcome: Outcome,
}

/// The answer that the publisher received.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Stored {
        sequence: u64,
        duplicate: bool,
    },
    /// Covered by a cumulative acknowledgement, whose last message is stored as `last` if the service knew it.
    StoredBefore {
        last: Option<u64>,
    },
    Failed(Failure),
    /// The stream broke before the message's response.
    Unanswered,
}

/// An error as a client sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Failure {
    /// The code of the status, such as `Unavailable`.
    pub code: String,
    /// The reason in `ErrorInfo`; empty without one.
    pub reason: String,
    /// `position` or `last_sequence` of `ErrorInfo`'s metadata.
    pub sequence: Option<u64>,
    pub message: String,
}

impl Failure {
    /// Whether the failure leaves open whether the call took effect.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.reason.as_str(), "" | "OUTCOME_UNKNOWN" | "TIMEOUT" | "INTERNAL")
    }

    /// Whether the docs say that the same call may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self.reason.as_str(),
            "" | "OUTCOME_UNKNOWN" | "TIMEOUT" | "NATS_UNAVAILABLE" | "DRAINING" | "CONFLICT" | "RATE_LIMITED"
        )
    }
}

/// A change that removes messages.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub kind: RemovalKind,
    /// The instance that was asked; `None` for a native client.
    pub instance: Option<usize>,
    pub started: At,
    /// When the call was answered with `OK`.
    pub done: Option<At>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RemovalKind {
    /// All messages up to this sequence; `u64::MAX` when the answer was lost.
    Purge {
        up_to: u64,
    },
    Delete {
        sequence: u64,
    },
    /// The room has bounds from now on, so its oldest messages may be removed at any time.
    Bounds,
}

/// The requested start of a subscription without a durable name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    All,
    New,
    After(u64),
    Last(u64),
    /// Microseconds since 1970.
    Since(u64),
}

/// One subscription, from the call to its end.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// The name of the reader in evidence.
    pub reader: String,
    pub durable: Option<String>,
    /// Whether the client acknowledges.
    pub explicit: bool,
    pub start: Start,
    pub until_caught_up: bool,
    pub member: Option<String>,
    /// The total credit in messages that the client has granted; `None` without credit.
    pub credit: Option<u64>,
    pub instance: usize,
    pub asked: At,
    pub frames: Vec<(At, Frame)>,
    pub end: End,
    pub ended: At,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    Opened { position: u64, first: u64, last: u64, resumed: bool, generation: u64 },
    Message { sequence: u64, digest: u64 },
    Gap { from: u64, to: u64, reason: String },
    CaughtUp(u64),
    Heartbeat(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// The client left, because it had read enough.
    ByClient,
    /// The service ended the subscription with `OK`.
    Ok,
    Failed(Failure),
    /// The client left after a silence far longer than a heartbeat interval.
    Silent,
}

/// An acknowledgement.
#[derive(Clone, Debug)]
pub(crate) struct Ack {
    pub durable: String,
    pub sequence: u64,
    /// That of the subscription that delivered the message.
    pub generation: Option<u64>,
    pub started: At,
    pub ended: At,
    /// The position, if the call was answered with `OK`.
    pub answer: Result<u64, Failure>,
}

/// A change of a durable subscriber's position other than an acknowledgement.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    pub durable: String,
    pub kind: MoveKind,
    pub started: At,
    pub done: Option<At>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MoveKind {
    Seek {
        position: u64,
    },
    /// A native client deleted the consumer.
    Deleted,
}

/// A page of History.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub instance: usize,
    pub asked: At,
    pub answered: At,
    pub anchor: Anchor,
    pub limit: usize,
    pub messages: Vec<(u64, u64)>,
    /// The bytes of all payloads.
    pub bytes: usize,
    pub has_older: bool,
    pub has_newer: bool,
    pub older_cursor: bool,
    pub last_sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Anchor {
    Newest,
    Before(u64),
    After(u64),
}

/// A change of a member's permissions.
#[derive(Clone, Debug)]
pub(crate) struct MemberChange {
    pub member: String,
    pub may_read: bool,
    pub may_publish: bool,
    /// The instance that was asked.
    pub instance: usize,
    pub started: At,
    pub done: Option<At>,
}

/// A unary call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub what: &'static str,
    pub room_id: String,
    pub instance: usize,
    pub started: At,
    pub ended: At,
    pub failure: Option<Failure>,
}

/// An ephemeral room.
#[derive(Clone, Debug, Default)]
pub(crate) struct Air {
    pub messages: Vec<AirMessage>,
    pub subscriptions: Vec<AirSubscription>,
}

/// A number that was published once.
#[derive(Clone, Debug)]
pub(crate) struct AirMessage {
    pub number: u64,
    pub instance: usize,
    pub started: At,
    pub ended: At,
    pub failure: Option<Failure>,
}

/// A subscription to the ephemeral room. In its messages, `sequence` holds the published number, and `digest` holds the
/// received sequence.
#[derive(Clone, Debug)]
pub(crate) struct AirSubscription {
    pub instance: usize,
    pub asked: At,
    pub frames: Vec<(At, Frame)>,
    pub end: End,
    pub ended: At,
}
