//! The exit statuses of the client commands.

use tonic::Code;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// Any failure without a status of its own.
    Failed,
    /// The command line or the file of profiles is wrong.
    Usage,
    /// No connection.
    Unreachable,
    /// `NOT_FOUND`.
    NotFound,
    /// `PERMISSION_DENIED`.
    PermissionDenied,
    /// `UNAUTHENTICATED`.
    Unauthenticated,
    /// `ALREADY_EXISTS`, `FAILED_PRECONDITION` or `ABORTED`.
    Conflict,
    /// `INVALID_ARGUMENT` or `OUT_OF_RANGE`.
    Invalid,
    /// `RESOURCE_EXHAUSTED`.
    Exhausted,
    /// `UNAVAILABLE`.
    Unavailable,
    /// `DEADLINE_EXCEEDED`.
    Timeout,
    /// The command ended before all of its work was done.
    Incomplete,
    /// A file of an export is damaged, or is none.
    Damaged,
    /// SIGHUP.
    HungUp,
    /// SIGINT, which Ctrl-C sends.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

impl Exit {
    /// All exit statuses, in ascending order.
    pub(crate) const ALL: [Self; 17] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::NotFound,
        Self::PermissionDenied,
        Self::Unauthenticated,
        Self::Conflict,
        Self::Invalid,
        Self::Exhausted,
        Self::Unavailable,
        Self::Timeout,
        Self::Incomplete,
        Self::Damaged,
        Self::HungUp,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number that the shell sees. Signals have 128 and their number, as shells do it.
    pub(crate) const fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotFound => 4,
            Self::PermissionDenied => 5,
            Self::Unauthenticated => 6,
            Self::Conflict => 7,
            Self::Invalid => 8,
            Self::Exhausted => 9,
            Self::Unavailable => 10,
            Self::Timeout => 11,
            Self::Incomplete => 12,
            Self::Damaged => 13,
            Self::HungUp => 129,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    /// The line of the documentation.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "The command did what it was asked for. A reader that closes the output early is no failure.",
            Self::Failed => {
                "Any other failure: `INTERNAL`, `UNIMPLEMENTED`, or a file or the output that cannot be read or written."
            }
            Self::Usage => {
                "The command line, an environment variable or the file of profiles is wrong. Nothing was sent."
            }
            Self::Unreachable => {
                "The service cannot be reached, its certificate is not trusted, or the connection broke. \
                 A change may have taken effect only if the connection broke."
            }
            Self::NotFound => "`NOT_FOUND`: the room, member, subscriber or message does not exist.",
            Self::PermissionDenied => "`PERMISSION_DENIED`: the caller may not do this.",
            Self::Unauthenticated => "`UNAUTHENTICATED`: no valid token or client certificate.",
            Self::Conflict => {
                "`ALREADY_EXISTS`, `FAILED_PRECONDITION` or `ABORTED`: the state of the room does not allow this."
            }
            Self::Invalid => "`INVALID_ARGUMENT` or `OUT_OF_RANGE`: the service refused a value.",
            Self::Exhausted => "`RESOURCE_EXHAUSTED`: a limit, a rate or the storage is used up.",
            Self::Unavailable => "`UNAVAILABLE`: the service or NATS cannot serve now. Nothing was done. Try again.",
            Self::Timeout => "`DEADLINE_EXCEEDED`: no answer in time. The call may have taken effect.",
            Self::Incomplete => "`sub` ended before `--count` messages had come, or `bench` lost messages.",
            Self::Damaged => {
                "`import`: the file is damaged, not whole, of a later version of the format, or no file of `export`."
            }
            Self::HungUp => "SIGHUP ended the command.",
            Self::Interrupted => "SIGINT (Ctrl-C) ended the command.",
            Self::Terminated => "SIGTERM ended the command.",
        }
    }

    /// The exit status for a code of the service.
    pub(super) const fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Done,
            Code::NotFound => Self::NotFound,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Self::Conflict,
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid,
            Code::ResourceExhausted => Self::Exhausted,
            Code::Unavailable => Self::Unavailable,
            Code::DeadlineExceeded | Code::Cancelled => Self::Timeout,
            Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => Self::Failed,
        }
    }

    /// The exit status for the signal with this name.
    pub(super) fn of_signal(name: &str) -> Self {
        match name {
            "SIGINT" => Self::Interrupted,
            "SIGHUP" => Self::HungUp,
            _ => Self::Terminated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn every_exit_status_has_a_number_of_its_own() {
        let numbers = Exit::ALL.map(Exit::status);
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    }
}
