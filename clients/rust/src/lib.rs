//! The client of [unibus](https://github.com/unibus-rs/unibus), a service for rooms over gRPC on NATS JetStream: publish each
//! message once, subscribe for ever, resume, acknowledge.
//!
//! ```no_run
//! use unibus_client::{Client, Error};
//!
//! # async fn example() -> Result<(), Error> {
//! let client = Client::new("http://127.0.0.1:50051")?;
//! client
//!     .room("orders")
//!     .subscribe()
//!     .durable("billing")
//!     .run(async |message| {
//!         println!("{}: {:?}", message.sequence, message.payload);
//!         Ok(())
//!     })
//!     .await
//! # }
//! ```
//!
//! | to | begin with |
//! |---|---|
//! | connect with TLS, certificates and tokens | [`Client::builder`] |
//! | create rooms, see and change them | [`Client::create_room`], [`Room`] |
//! | publish one message, or many | [`Room::publish`], [`Room::publisher`] |
//! | get messages by a handler, or as a `Stream` | [`Room::subscribe`] |
//! | read what is stored | [`Room::history`] |
//! | know what to do after an error | [`Error::class`], [`Error::reason`] |
//!
//! U1 to U29 are the points of [docs/clients.md](https://github.com/unibus-rs/unibus/blob/main/docs/clients.md), which say how
//! every client of unibus behaves. The crate writes no log lines; [`Subscribe::on_event`] reports what happens.

mod client;
mod connection;
mod error;
mod history;
mod ids;
mod members;
mod publish;
mod publisher;
mod retry;
mod room;
mod subscription;

pub use prost_types::Timestamp;
pub use tonic::Code;
pub use unibus::v1::{self, Durability, GapReason, Member, Message, Role, Subscriber};

pub use self::{
    client::{Client, ClientBuilder},
    error::{Class, Error, FieldViolation, Result},
    history::History,
    publish::{NewMessage, Published},
    publisher::{PublishSink, Publisher, PublisherBuilder, Receipt},
    room::{NewRoom, Room},
    subscription::{Event, Messages, Start, Subscribe},
};

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
