//! Rooms over gRPC on NATS JetStream: create a room, publish, subscribe with resume, read history.
//!
//! The binary is the service. The library has two parts: the generated client and messages of the contract ([`v1`]), and the
//! service itself for the tests of other projects ([`Server`]).
//!
//! # A client
//!
//! ```no_run
//! use unibus::v1::{
//!     CreateRoomRequest, PublishRequest, SubscribeRequest, room_service_client::RoomServiceClient,
//!     subscribe_response::Frame,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = RoomServiceClient::connect("http://127.0.0.1:50051").await?;
//! client.create_room(CreateRoomRequest { room_id: "general".into(), persist: true, ..Default::default() }).await?;
//!
//! let message = PublishRequest { room_id: "general".into(), payload: "hello".into(), ..Default::default() };
//! let stored = client.publish(message).await?.into_inner();
//! println!("stored as {}", stored.sequence);
//!
//! // a durable subscription: it resumes after the last acknowledgement
//! let laptop = SubscribeRequest { room_id: "general".into(), subscriber: "laptop".into(), ..Default::default() };
//! let mut frames = client.subscribe(laptop).await?.into_inner();
//! while let Some(response) = frames.message().await? {
//!     if let Some(Frame::Message(message)) = response.frame {
//!         println!("{}: {:?}", message.sequence, message.payload);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # The service in a test
//!
//! [`Server::bind`] starts the service in the test's process, with an embedded nats-server. The example uses free ports
//! and a new data directory, so tests can run in parallel. A `nats-server` program must be on the `PATH`, or
//! `UNIBUS_NATS_SERVER` or [`EmbeddedNatsConfig::nats_server`] must name it.
//!
//! ```no_run
//! use unibus::{Config, EmbeddedNatsConfig, Server, v1::room_service_client::RoomServiceClient};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let data_dir = tempfile::tempdir()?;
//! let server = Server::bind(Config {
//!     listen: ([127, 0, 0, 1], 0).into(),
//!     admin_listen: ([127, 0, 0, 1], 0).into(),
//!     embedded: EmbeddedNatsConfig { data_dir: data_dir.path().into(), ..Default::default() },
//!     ..Config::default()
//! })
//! .await?;
//! let client = RoomServiceClient::connect(format!("http://{}", server.local_addr())).await?;
//! // the body of the test
//! # drop(client);
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/embedded.rs` is a whole test of this kind. `ARCHITECTURE.md` has the map of the code, its invariants and its
//! glossary; `docs/` has the guarantees, errors and limits.

#[cfg(feature = "server")]
mod auth;
#[cfg(feature = "server")]
mod check;
#[cfg(feature = "server")]
mod config_file;
#[cfg(feature = "server")]
mod delivery;
#[cfg(feature = "server")]
mod domain;
#[cfg(feature = "server")]
mod error;
#[cfg(feature = "server")]
mod flags;
#[cfg(feature = "server")]
mod grpc;
#[cfg(feature = "server")]
mod healthcheck;
#[cfg(feature = "server")]
mod http;
#[cfg(feature = "server")]
mod limits;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod nats;
#[cfg(feature = "server")]
mod rooms;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod shutdown;
#[cfg(feature = "server")]
mod store;
#[cfg(feature = "server")]
mod subscriptions;
#[cfg(feature = "server")]
mod sync;
#[cfg(feature = "server")]
mod tokens;
#[cfg(feature = "server")]
mod traces;

#[cfg(feature = "server")]
#[doc(hidden)]
pub use self::server::other::OtherService;
#[cfg(feature = "server")]
pub use self::{
    auth::{AuthConfig, AuthMode},
    check::{CheckCommand, CheckReport},
    config_file::{FlagChange, FlagSources},
    error::{Code, Error, Reason, Result, Violation},
    healthcheck::Healthcheck,
    limits::LOG_LINES_MAX,
    nats::{
        connect::{NatsConfig, NatsSync},
        embedded::EmbeddedNatsConfig,
    },
    rooms::{RoomsConfig, quotas::CallerLimits},
    server::{
        Server,
        config::{Config, LogFormat},
        console::ConsoleConfig,
        cors::CorsConfig,
        places::{ConnectionsConfig, KeepaliveConfig},
        tls::files::{ClientAuth, TlsConfig},
    },
    shutdown::{ReloadSignals, StopSignals},
    tokens::TokenCommand,
    traces::TracesConfig,
};

/// The generated client and messages of the contract, package `unibus.v1`.
#[allow(
    missing_docs,
    clippy::doc_lazy_continuation,
    clippy::pedantic,
    reason = "generated; the documentation is the contract's"
)]
pub mod v1 {
    tonic::include_proto!("unibus.v1");

    /// The contract as a descriptor set, with the documentation of every field.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("unibus_descriptor");
}
