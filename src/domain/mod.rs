//! The nouns of the service as validated types. Refuses to know tonic and async-nats.

mod caller;
mod characters;
mod cursor;
mod dedupe;
mod member;
mod message;
mod names;
mod nats_names;
mod position;
mod room;
mod subject;

pub use self::caller::{Caller, ClientCertificate, Identity};
pub use self::cursor::Cursor;
pub use self::dedupe::DedupeWindow;
pub use self::member::{Member, Membership, Role, Visible};
pub use self::message::{Acknowledged, Draft, Durability, Headers, Message, PublishAcks};
pub use self::names::{MemberId, RoomId, SubscriberId};
pub use self::nats_names::{NatsName, StreamName};
pub use self::position::{
    AckMode, Acknowledgement, Anchor, Gap, GapReason, Page, PageRequest, Removals, Start, SubscriberToken,
};
pub(crate) use self::room::rfc3339;
pub use self::room::{Labels, NewRoom, Purged, Retention, Room, RoomState};
pub use self::subject::Subject;
