//! Commands of sessions that reach another instance than the one that holds the session.

use serde::{Deserialize, Serialize};

use super::{names::session_commands_to, peers::PeerCall};
use crate::domain::MemberId;

/// Commands for a session of the receiving instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ForwardedCommands {
    /// The session's secret name on its instance.
    pub key: String,
    /// The id of the caller; `None` if authorisation is off.
    pub caller: Option<MemberId>,
    /// The place of the call among the calls of the session, or 0.
    pub number: u64,
    /// The encoded request, in base64.
    pub request: String,
}

/// What became of forwarded commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CommandsOutcome {
    /// The commands are queued, or were queued by an earlier call with the same number.
    Taken,
    /// The session's queue has no space for them now.
    Full,
    /// A call with a smaller number is missing.
    TooEarly,
    /// The session has ended, or belongs to another caller.
    NotFound,
}

impl PeerCall for ForwardedCommands {
    type Reply = CommandsOutcome;

    fn subject(instance: &str) -> String {
        session_commands_to(instance)
    }
}
