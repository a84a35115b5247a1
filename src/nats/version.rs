//! Versions of nats-server, and the supported ones.

use std::fmt;

/// A version of nats-server, without a suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

/// The oldest version with everything that the service calls (`$JS.API.CONSUMER.RESET`, ADR-60).
pub(crate) const VERSION_MIN: Version = Version { major: 2, minor: 14, patch: 0 };

/// The oldest version whose acknowledgement of a publish is trusted to mean "on disk".
pub(crate) const VERSION_TRUSTED: Version = Version { major: 2, minor: 15, patch: 0 };

impl Version {
    /// Parses the version in a server's greeting. A missing number is 0.
    pub(crate) fn of_server(version: &str) -> Self {
        let mut numbers = version.split(['.', '-']).map_while(|part| part.parse().ok());
        let mut next = || numbers.next().unwrap_or(0);
        Self { major: next(), minor: next(), patch: next() }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
