//! Rooms over gRPC on NATS JetStream: create a room, publish, subscribe with resume, read history.
//!
//! The binary is the service. The library is the same service for the tests of other projects ([`Server`]), and the
//! contract's generated client and messages ([`v1`]).
//!
//! # Architecture
//!
//! Dependencies point one way:
//!
//! ```text
//! main -> { server, tokens } -> { grpc, http, auth } -> rooms -> { delivery, store } -> { domain, error, limits, sync }
//! ```
//!
//! | place | owns | refuses to know |
//! |---|---|---|
//! | `server` | composition, listeners, TLS, health, the drain | |
//! | `tokens` | the commands that make keys and tokens, for trying the service | the service |
//! | `grpc` | the generated types: read a request, make one call, convert the answer; every status | async-nats |
//! | `http` | the JSON history endpoint, liveness and readiness | async-nats |
//! | `auth` | who makes a call: tokens, keys, client certificates | tonic, async-nats, what a caller may do |
//! | `rooms` | the use cases: rooms, publishing, subscriptions, positions, history | tonic, async-nats |
//! | `delivery` | the subscription as state machines without I/O | tonic, async-nats |
//! | `store` | NATS: streams, consumers, the registry, the own nats-server; alone names async-nats | tonic |
//! | `domain`, `error`, `limits`, `sync` | the nouns, the closed set of reasons, every bound, locking | everything else |
//!
//! `tests/it/architecture.rs` keeps these arrows.
//!
//! What holds it together:
//!
//! - **The service is stateless.** What must survive lives in JetStream: rooms in a key-value bucket that every instance
//!   watches, messages in one stream for each persisted room, a subscriber's position as the ack floor of a durable
//!   consumer. Any instance serves any call.
//! - **The durable is the bookmark, not the pipe.** Messages do not flow through a subscriber's durable consumer. A
//!   subscription reads the room's log from the position on, and moves the position by consumer reset.
//! - **One upstream for each active room.** An instance reads a room once, encodes a message once, and keeps the newest in a
//!   ring that all its subscriptions share. The ring and the log speak of the same sequences, so a subscription's position
//!   alone says whether the ring has all that it lacks; who is behind reads the log until it has.
//! - **One owner for a subscriber.** Positions are moved by one instance at a time; others ask it.
//! - **One place decides who may do what**, from memory: members are watched like rooms, so a decision costs no round trip,
//!   and what is open holds a signal that fires when its caller may no longer have it.
//! - **Names are claimed by compare-and-set.** A room's key stands for its id alone, and its name in NATS is claimed in a key
//!   of its own: two ids that map to one NATS name never block each other (`domain::nats_names`).
//! - **One queue for each room.** What is published to a persisted room is sent by one worker, so that order holds around
//!   retries, and what waits can be committed together.
//! - **One answer never proves an absence.** Where a log has copies, an answer that knows less than this instance is stale and
//!   asked for again (`store::logs`).
//! - **Reading has connections of its own.** Neither a slow reader nor a message that the NATS client cannot parse costs a
//!   publisher its connection (`store::nats`).
//! - **A publish acknowledgement is believed only if it names the room's stream**, and a lost one is said to be lost.
//!
//! Deliberately absent: any look into a payload; a database; state that an instance would have to hand over; a `NATS`
//! trait with one implementation; a simulated NATS in tests.

mod auth;
mod config;
mod delivery;
mod domain;
mod error;
mod grpc;
mod http;
mod limits;
mod rooms;
mod server;
mod shutdown;
mod store;
mod sync;
mod tokens;

pub use crate::{
    config::{AuthMode, ClientAuth, Config, LogFormat, NatsSync},
    error::{Code, Error, Reason, Result, Violation},
    server::Server,
    shutdown::StopSignals,
    tokens::Command,
};

/// The generated client and messages of the contract, package `unibus.v1`.
#[allow(missing_docs, clippy::pedantic, reason = "generated; the documentation is the contract's")]
pub mod v1 {
    tonic::include_proto!("unibus.v1");

    /// The contract as a descriptor set, with the documentation of every field.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("unibus_descriptor");
}
