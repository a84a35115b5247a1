//! The nouns of the service as validated types. Refuses to know tonic and async-nats.

mod caller;
mod characters;
mod cursor;
mod member;
mod message;
mod names;
mod nats_names;
mod position;
mod room;
mod subject;

pub use caller::{Caller, ClientCertificate, Identity};
pub use cursor::Cursor;
pub use member::{Member, Membership, Role, Visible};
pub use message::{Acknowledged, Draft, Durability, Headers, Message};
pub use names::{MemberId, RoomId, SubscriberId};
pub use nats_names::{NatsName, StreamName};
pub use position::{AckMode, Anchor, Gap, GapReason, Page, PageRequest, Removals, Start};
pub(crate) use room::rfc3339;
pub use room::{Labels, NewRoom, Purged, Retention, Room, RoomState};
pub use subject::Subject;
