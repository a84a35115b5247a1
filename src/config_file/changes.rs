//! What changes when the file is read again.

use std::{collections::BTreeMap, fmt};

use clap::{ArgMatches, Command};

use super::flags;

/// The flags whose values change while the service runs. A change of the others needs a restart.
pub(super) const LIVE: &[&str] = &[
    "auth-admin-claim",
    "auth-admins",
    "auth-audience",
    "auth-issuer",
    "auth-leeway",
    "cors-origins",
    "limit-calls",
    "limit-durable-subscribers",
    "limit-publish-bytes",
    "limit-publishes",
    "limit-read-bytes",
    "limit-reads",
    "limit-rooms",
    "limit-stored-bytes",
    "limit-subscriptions",
    "log",
    "max-subscriptions",
];

/// The values of the flags that are in force.
#[derive(Default)]
pub(super) struct FlagsInForce(BTreeMap<String, FlagValue>);

#[derive(Clone, Default, PartialEq, Eq)]
struct FlagValue {
    text: String,
    is_secret: bool,
}

/// Secrets are not shown.
impl fmt::Display for FlagValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_secret { "(secret)" } else { &self.text })
    }
}

/// A flag that got another value. Secrets are not shown.
#[derive(Debug)]
pub struct FlagChange {
    /// The flag, with its dashes.
    pub flag: String,
    /// The value in force. Empty: none.
    pub old: String,
    /// The new value. Empty: none.
    pub new: String,
    /// Whether the new value is only used after a restart.
    pub needs_restart: bool,
    value: FlagWritten,
}

/// Without `Debug` of the text, which may be a secret.
struct FlagWritten(FlagValue);

impl fmt::Debug for FlagWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FlagsInForce {
    pub(super) fn of(command: &Command, matches: &ArgMatches) -> Self {
        let mut values = BTreeMap::new();
        for (name, flag) in flags::settable(command) {
            let given = matches.try_get_raw(flag.get_id().as_str()).ok().flatten();
            let given: Vec<_> = given.into_iter().flatten().map(|value| value.to_string_lossy()).collect();
            let is_secret = given.iter().any(|value| flags::is_secret(flag, value));
            values.insert(name.to_owned(), FlagValue { text: given.join(","), is_secret });
        }
        Self(values)
    }

    /// The flags whose values differ in `new`.
    pub(super) fn changes(&self, new: &Self) -> Vec<FlagChange> {
        let none = FlagValue::default();
        let changed = new.0.iter().filter_map(|(name, value)| {
            let old = self.0.get(name).unwrap_or(&none);
            (old != value).then(|| FlagChange {
                flag: format!("--{name}"),
                old: old.to_string(),
                new: value.to_string(),
                needs_restart: !LIVE.contains(&name.as_str()),
                value: FlagWritten(value.clone()),
            })
        });
        changed.collect()
    }

    pub(super) fn apply(&mut self, changes: &[FlagChange]) {
        for change in changes.iter().filter(|change| !change.needs_restart) {
            self.0.insert(change.flag.trim_start_matches('-').to_owned(), change.value.0.clone());
        }
    }
}
