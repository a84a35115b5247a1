//! The caller of an RPC or HTTP request.

use std::{sync::Arc, time::SystemTime};

use super::MemberId;
use crate::error::{Error, Result};

/// The verified caller of a call.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Authorisation is off: the caller has no id and may do everything.
    Anyone,
    /// A verified identity.
    Known(Arc<Identity>),
}

/// The caller that a token or a client certificate identifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The authenticated id. The caller is a member of rooms under this id.
    pub id: MemberId,
    /// Whether the caller is an administrator, who may do everything in every room.
    pub administrator: bool,
    /// When the token or certificate expires. Open streams of the caller end then.
    pub expires_at: Option<SystemTime>,
}

/// The id and the expiry of a verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The id that the certificate gives: the first URI of its alternative names, else the first DNS name, else the
    /// common name. It may not be a valid member id.
    pub id: String,
    /// When the certificate expires. A connection may last longer.
    pub expires_at: SystemTime,
}

impl Caller {
    /// Returns the caller of a call.
    ///
    /// # Errors
    /// `INTERNAL` if there is none: nothing has verified the call, so it must not be served.
    pub fn require(found: Option<&Self>) -> Result<Self> {
        found.cloned().ok_or_else(|| Error::internal().because("a call came without its caller"))
    }

    /// The authenticated id of the caller; `None` if authorisation is off.
    #[must_use]
    pub fn id(&self) -> Option<&MemberId> {
        match self {
            Self::Anyone => None,
            Self::Known(identity) => Some(&identity.id),
        }
    }
}
