//! A client.
mod client;
mod connection;
mod error;
mod ids;
mod members;
mod publish;
mod publisher;
pub use publisher::*;
mod retry;
mod room;
pub use client::*;
pub use error::*;
pub use publish::*;
pub use room::*;
/// s
#[derive(Clone, Debug)]
pub struct Start;
impl From<Start> for unibus::v1::Start {
    fn from(_: Start) -> Self {
        Self::default()
    }
}
