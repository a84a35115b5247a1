//! Rules for the values of flags that several components share. Each rule is here once, for the
//! parser of a flag and for the value that a program sets.

use std::{ops::RangeFrom, time::Duration};

use clap::builder::RangedI64ValueParser;

use crate::error::Violations;

/// The numbers that count something without which the service cannot work.
const COUNTS: RangeFrom<i64> = 1..;

/// Returns the parser of a number that is at least 1.
pub(crate) fn count() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(COUNTS)
}

/// Adds the field to `wrong`, unless [`count`] accepts its number.
pub(crate) fn check_count(field: &str, number: u32, wrong: &mut Violations) {
    if !COUNTS.contains(&i64::from(number)) {
        wrong.add(field, format!("must be at least {}", COUNTS.start));
    }
}

/// Parses a duration.
pub(crate) fn duration(given: &str) -> Result<Duration, String> {
    humantime::parse_duration(given).map_err(|error| error.to_string())
}

/// Parses a duration that must not be zero.
pub(crate) fn positive_duration(given: &str) -> Result<Duration, String> {
    duration(given).and_then(positive)
}

/// The rule of [`positive_duration`].
fn positive(duration: Duration) -> Result<Duration, String> {
    if duration.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(duration) }
}

/// Adds the field to `wrong`, unless [`positive_duration`] accepts its duration.
pub(crate) fn check_positive(field: &str, duration: Duration, wrong: &mut Violations) {
    check(field, positive(duration), wrong);
}

/// Adds the field to `wrong` if its value breaks a rule.
pub(crate) fn check<T>(field: &str, outcome: Result<T, String>, wrong: &mut Violations) {
    if let Err(problem) = outcome {
        wrong.add(field, problem);
    }
}

/// Returns the bound in force; `None`: no bound. A flag that is not set means `by_default` where callers must
/// authenticate, and no bound elsewhere. 0 means no bound.
pub(crate) fn bound<T: PartialEq + From<u8>>(given: Option<T>, by_default: T, is_enforced: bool) -> Option<T> {
    given.or_else(|| is_enforced.then_some(by_default)).filter(|bound| *bound != T::from(0))
}

#[cfg(test)]
mod tests {
    use super::bound;

    #[test]
    fn a_bound_is_given_or_depends_on_authentication() {
        for (given, is_enforced, expected) in [
            (None, true, Some(7)),
            (None, false, None),
            (Some(0), true, None),
            (Some(0), false, None),
            (Some(3), true, Some(3)),
            (Some(3), false, Some(3)),
        ] {
            assert_eq!(bound(given, 7_u32, is_enforced), expected, "{given:?} {is_enforced}");
        }
    }
}
