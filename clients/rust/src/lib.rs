//! A client.

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
