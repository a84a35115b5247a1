//! Who makes a call.

use std::{sync::Arc, time::SystemTime};

use super::MemberId;
use crate::error::{Error, Result};

/// Who makes a call, as the service has verified it.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Authorisation is off: whoever it is may do everything, and is not named.
    Anyone,
    /// A verified identity.
    Known(Arc<Identity>),
}

/// What a token or a client certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The endpoint id: the name under which the caller is a member of rooms.
    pub id: MemberId,
    /// Whether it may do everything in every room.
    pub administrator: bool,
    /// When the proof ends, and with it what was opened by it.
    pub expires_at: Option<SystemTime>,
}

/// What the verified certificate of a client says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whom it names: the first URI of its alternative names, else the first DNS name, else the common name. Not yet
    /// checked to be a member's id.
    pub id: String,
    /// When it ends. A connection may last longer.
    pub expires_at: SystemTime,
}

impl Caller {
    /// The caller that was found with a call.
    ///
    /// # Errors
    /// `INTERNAL` if there is none: nobody has verified the call, so it must not be served.
    pub fn require(found: Option<&Self>) -> Result<Self> {
        found.cloned().ok_or_else(|| Error::internal().because("a call came without its caller"))
    }

    /// The caller's name; `None` when authorisation is off.
    #[must_use]
    pub fn id(&self) -> Option<&MemberId> {
        match self {
            Self::Anyone => None,
            Self::Known(identity) => Some(&identity.id),
        }
    }
}
