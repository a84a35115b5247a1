//! How long a room remembers message ids.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::room::duration_text;
use crate::{
    error::Violations,
    limits::{DEDUPE_WINDOW_DEFAULT, DEDUPE_WINDOW_MAX, DEDUPE_WINDOW_MIN},
};

/// The origin of the time for which a persisted room remembers a message id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DedupeWindow {
    /// Nobody chose it.
    #[default]
    Default,
    /// The creator or an owner chose it. `max_age` must not be shorter.
    Chosen(#[serde(with = "duration_text")] Duration),
    /// The stream that the room adopted had it. A shorter `max_age` shortens it.
    Adopted(#[serde(with = "duration_text")] Duration),
}

impl DedupeWindow {
    /// How long the room remembers a message id. NATS allows no more than `max_age`.
    #[must_use]
    pub fn length(self, max_age: Option<Duration>) -> Duration {
        let length = match self {
            Self::Default => DEDUPE_WINDOW_DEFAULT,
            Self::Chosen(length) | Self::Adopted(length) => length,
        };
        max_age.map_or(length, |max_age| length.min(max_age))
    }

    /// The choice of a caller; `None` is the default. Adds a problem to `violations`.
    pub fn choose(
        given: Option<Duration>,
        max_age: Option<Duration>,
        field: &str,
        violations: &mut Violations,
    ) -> Self {
        match given {
            Some(given) if given != Self::Default.length(max_age) => {
                if given < DEDUPE_WINDOW_MIN {
                    violations.add(field, "must be at least 2 minutes, or as long as a shorter `retention.max_age`");
                } else if given > DEDUPE_WINDOW_MAX {
                    violations.add(field, "must be at most 24 hours");
                } else if max_age.is_some_and(|max_age| given > max_age) {
                    violations.add(field, "must not be longer than `retention.max_age`; shorten it, or leave it out");
                }
                Self::Chosen(given)
            }
            Some(_) | None => Self::Default,
        }
    }

    /// The window of a room that adopts a stream with this window; `None` if a room cannot have it.
    #[must_use]
    pub fn adopt(found: Duration, max_age: Option<Duration>) -> Option<Self> {
        let is_allowed = (DEDUPE_WINDOW_MIN..=DEDUPE_WINDOW_MAX).contains(&found);
        let is_other = found != DEDUPE_WINDOW_DEFAULT && max_age.is_none_or(|max_age| found <= max_age);
        (is_allowed && is_other).then_some(Self::Adopted(found))
    }

    /// Whether a creator who asks for `wanted` asks for a room with this window.
    #[must_use]
    pub fn is_wanted(self, wanted: Self) -> bool {
        match (self, wanted) {
            (Self::Adopted(_), Self::Default) => true,
            (Self::Adopted(own), Self::Chosen(wanted)) => own == wanted,
            (own, wanted) => own == wanted,
        }
    }

    /// Whether nobody chose the window, and no stream had one.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const NANOSECOND: Duration = Duration::from_nanos(1);

    fn choose(given: Duration, max_age: Option<Duration>) -> Option<DedupeWindow> {
        let mut violations = Violations::default();
        let chosen = DedupeWindow::choose(Some(given), max_age, "dedupe_window", &mut violations);
        violations.finish().ok().map(|()| chosen)
    }

    #[test]
    fn a_choice_lies_between_the_default_and_a_day_and_within_the_lifetime() {
        let chosen = |length| Some(DedupeWindow::Chosen(length));
        assert_eq!(choose(24 * HOUR, None), chosen(24 * HOUR));
        assert_eq!(choose(HOUR, Some(HOUR)), chosen(HOUR));
        assert_eq!(choose(24 * HOUR + NANOSECOND, None), None);
        assert_eq!(choose(HOUR + NANOSECOND, Some(HOUR)), None);
        for too_short in [Duration::ZERO, MINUTE, MINUTE + 59 * MINUTE / 60] {
            assert_eq!(choose(too_short, None), None, "{too_short:?}");
        }
        // what a room without a choice reports is no choice
        assert_eq!(choose(2 * MINUTE, None), Some(DedupeWindow::Default));
        assert_eq!(choose(MINUTE, Some(MINUTE)), Some(DedupeWindow::Default));
        assert_eq!(choose(2 * MINUTE, Some(MINUTE)), None);
    }

    #[test]
    fn the_lifetime_of_messages_bounds_every_window() {
        for window in [DedupeWindow::Default, DedupeWindow::Adopted(HOUR)] {
            assert_eq!(window.length(Some(MINUTE)), MINUTE);
        }
        assert_eq!(DedupeWindow::Default.length(Some(HOUR)), 2 * MINUTE);
        assert_eq!(DedupeWindow::Adopted(HOUR).length(None), HOUR);
    }

    #[test]
    fn a_window_in_bounds_is_adopted() {
        assert_eq!(DedupeWindow::adopt(HOUR, None), Some(DedupeWindow::Adopted(HOUR)));
        assert_eq!(DedupeWindow::adopt(HOUR, Some(MINUTE)), None);
        for other in [MINUTE, 2 * MINUTE, 25 * HOUR] {
            assert_eq!(DedupeWindow::adopt(other, None), None, "{other:?}");
        }
        let adopted = DedupeWindow::Adopted(HOUR);
        assert!(adopted.is_wanted(DedupeWindow::Default) && adopted.is_wanted(DedupeWindow::Chosen(HOUR)));
        assert!(!adopted.is_wanted(DedupeWindow::Chosen(2 * HOUR)));
        assert!(!DedupeWindow::Chosen(HOUR).is_wanted(DedupeWindow::Default));
    }

    #[test]
    fn every_window_is_stored_and_read_again() {
        for window in [DedupeWindow::Default, DedupeWindow::Chosen(HOUR), DedupeWindow::Adopted(MINUTE + HOUR)] {
            let stored = serde_json::to_string(&window).unwrap();
            assert_eq!(serde_json::from_str::<DedupeWindow>(&stored).unwrap(), window, "{stored}");
        }
    }
}
