//! What the clients of an episode saw, and what is stored at its end. Plain data, so that a test can write it by hand.

use std::collections::BTreeMap;

/// Microseconds since the episode began.
pub(crate) type At = u64;

/// One second of [`At`].
pub(crate) const SECOND: At = 1_000_000;

/// Everything that the oracle judges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub rooms: Vec<RoomFacts>,
    pub air: Air,
    /// Every unary call, of whatever room.
    pub calls: Vec<Call>,
    /// When an instance was killed or stopped, and when it listened again.
    pub outages: Vec<Outage>,
    /// When NATS did not reach an instance.
    pub unreached: Vec<Outage>,
    /// Pauses of this program itself: what seems late in them may have been in time.
    pub stalls: Vec<(At, At)>,
    /// `heartbeat_interval` of the subscriptions.
    pub heartbeat: At,
    /// A server, a link or a disk failed: calls may then find NATS away.
    pub disturbed: bool,
    /// The store may be full.
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
    /// The log has copies: a server that was cut off may answer with what it had then.
    pub has_copies: bool,
    pub log: Log,
    pub publishes: Vec<Publish>,
    pub removals: Vec<Removal>,
    pub subscriptions: Vec<Subscription>,
    pub acks: Vec<Ack>,
    pub moves: Vec<Move>,
    pub pages: Vec<Page>,
    pub members: Vec<MemberChange>,
    /// Who did not reach the last message in time, with what it lacked.
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
    /// Of the payload.
    pub digest: u64,
    /// Microseconds since 1970.
    pub time: u64,
}

/// One message that a publisher wanted to be stored once.
#[derive(Clone, Debug)]
pub(crate) struct Publish {
    /// The payload's first word, for people; also the message id, if there is one.
    pub label: String,
    pub digest: u64,
    pub has_id: bool,
    pub expected: Option<u64>,
    /// Whole seconds.
    pub ttl: Option<u64>,
    /// Which member published it, where membership is tested.
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

/// One try to publish a message.
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

/// What the publisher heard.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    Stored {
        sequence: u64,
        duplicate: bool,
    },
    Failed(Failure),
    /// The stream broke before the message's response.
    Unanswered,
}

/// An error as a client sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Failure {
    /// Such as `Unavailable`.
    pub code: String,
    /// Of `ErrorInfo`; empty without it.
    pub reason: String,
    /// `position` or `last_sequence` of `ErrorInfo`'s metadata.
    pub sequence: Option<u64>,
    pub message: String,
}

impl Failure {
    /// Whether it leaves open what was done.
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

/// Something that makes messages go away.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub kind: RemovalKind,
    /// The instance that was asked; `None` for a native client.
    pub instance: Option<usize>,
    pub started: At,
    /// When it was answered with OK.
    pub done: Option<At>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RemovalKind {
    /// Everything up to here; `u64::MAX` when the answer was lost.
    Purge {
        up_to: u64,
    },
    Delete {
        sequence: u64,
    },
    /// The room has bounds from now on: its oldest messages may go at any time.
    Bounds,
}

/// Where a subscription without a name was to start.
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
    /// For people.
    pub reader: String,
    pub durable: Option<String>,
    /// The client acknowledges.
    pub explicit: bool,
    pub start: Start,
    pub until_caught_up: bool,
    pub member: Option<String>,
    /// Messages that the client had allowed in all, where it counts them.
    pub credit: Option<u64>,
    pub instance: usize,
    pub asked: At,
    pub frames: Vec<(At, Frame)>,
    pub end: End,
    pub ended: At,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    Opened { position: u64, first: u64, last: u64, resumed: bool },
    Message { sequence: u64, digest: u64 },
    Gap { from: u64, to: u64, reason: String },
    CaughtUp(u64),
    Heartbeat(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// The client had enough.
    ByClient,
    /// The service ended it with OK.
    Ok,
    Failed(Failure),
    /// The client waited far longer than a heartbeat, and left.
    Silent,
}

/// An acknowledgement.
#[derive(Clone, Debug)]
pub(crate) struct Ack {
    pub durable: String,
    pub sequence: u64,
    pub started: At,
    pub ended: At,
    /// The position, where it was answered with OK.
    pub answer: Result<u64, Failure>,
}

/// What may move a durable's position otherwise than by acknowledgements.
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
    /// The consumer was deleted by a native client.
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
    /// Of the payloads.
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

/// A change of what a member may do.
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

/// A subscription to the ephemeral room. Of its messages the sequence is the number, and the digest what came as sequence.
#[derive(Clone, Debug)]
pub(crate) struct AirSubscription {
    pub instance: usize,
    pub asked: At,
    pub frames: Vec<(At, Frame)>,
    pub end: End,
    pub ended: At,
}
