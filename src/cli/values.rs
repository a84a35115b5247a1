//! The values that a person writes on a command line: sizes, times, positions and pairs.

use std::{str::FromStr, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use unibus::v1::{Start, start::At};

/// Units of bytes, each with its factor.
const UNITS: [(&str, u64); 10] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("b", 1),
    ("", 1),
];

/// Parses a number of bytes, such as `4096`, `64KiB` or `10GB`.
pub(crate) fn bytes(given: &str) -> Result<u64, String> {
    let digits = given.find(|c: char| !c.is_ascii_digit()).unwrap_or(given.len());
    let (number, unit) = given.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let number = number.parse::<u64>().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| "must be a number of bytes, such as 4096, 64KiB or 10GB".to_owned())
}

/// A bound that can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limitation<T> {
    /// No bound.
    None,
    /// This bound.
    AtMost(T),
}

impl<T> Limitation<T> {
    /// The bound; `None` if there is none.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::None => None,
            Self::AtMost(bound) => Some(bound),
        }
    }
}

fn bound<T>(given: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Limitation<T>, String> {
    if given == "none" { Ok(Limitation::None) } else { parse(given).map(Limitation::AtMost) }
}

/// Parses a bound on an age, or `none`.
pub(crate) fn age_bound(given: &str) -> Result<Limitation<Duration>, String> {
    bound(given, duration)
}

/// Parses a bound on bytes, or `none`.
pub(crate) fn bytes_bound(given: &str) -> Result<Limitation<u64>, String> {
    bound(given, bytes)
}

/// Parses a bound on a count, or `none`.
pub(crate) fn count_bound(given: &str) -> Result<Limitation<u64>, String> {
    bound(given, |given| given.parse().map_err(|_| "must be a number or `none`".to_owned()))
}

/// Parses a duration, such as `500ms`, `30s` or `1h 30m`.
pub(crate) fn duration(given: &str) -> Result<Duration, String> {
    humantime::parse_duration(given).map_err(|error| format!("{error}; write 500ms, 30s, 5m, 1h or 7d"))
}

/// Parses `NAME=VALUE`.
pub(crate) fn pair(given: &str) -> Result<(String, String), String> {
    let (name, value) = given.split_once('=').ok_or("must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Parses a time: RFC 3339, a date and time or a date in the local time zone, or a duration, which lies in the past.
pub(crate) fn time(given: &str) -> Result<Timestamp, String> {
    time_from(given, Timestamp::now(), &TimeZone::system())
}

fn time_from(given: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, String> {
    if given == "now" {
        return Ok(now);
    }
    if let Ok(time) = given.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(local) = given.parse::<DateTime>() {
        return local.to_zoned(zone.clone()).map(|time| time.timestamp()).map_err(|error| error.to_string());
    }
    let ago = given.trim_end_matches("ago").trim();
    let wrong = || {
        "must be a time such as 2026-11-27T10:00:00Z, 2026-11-27 10:00 or 2026-11-27, or a duration such as 10m"
            .to_owned()
    };
    let ago = humantime::parse_duration(ago).map_err(|_| wrong())?;
    now.checked_sub(ago).map_err(|_| wrong())
}

/// A time as the contract has it.
pub(crate) fn proto_time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}

/// A duration as the contract has it.
pub(crate) fn proto_duration(duration: Duration) -> prost_types::Duration {
    // longer than any duration that the service accepts
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos().cast_signed() }
}

/// The message with which a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromPlace {
    /// Only later messages.
    Newest,
    /// The oldest stored message.
    First,
    /// The message with this sequence.
    Sequence(u64),
    /// So many of the newest messages.
    Last(u64),
    /// The first message that was stored at or after this time.
    Since(Timestamp),
    /// The message after the one with this cursor.
    Cursor(String),
}

impl FromPlace {
    /// The start as the contract has it.
    pub(crate) fn start(&self) -> Start {
        let at = match self {
            Self::Newest => At::New(()),
            Self::First => At::All(()),
            Self::Sequence(sequence) => At::AfterSequence(sequence.saturating_sub(1)),
            Self::Last(count) => At::Last(*count),
            Self::Since(time) => At::Since(proto_time(*time)),
            Self::Cursor(cursor) => At::AfterCursor(cursor.clone()),
        };
        Start { at: Some(at) }
    }
}

impl FromStr for FromPlace {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        match given {
            "newest" | "new" => return Ok(Self::Newest),
            "first" | "all" => return Ok(Self::First),
            _ => {}
        }
        if let Ok(sequence) = given.parse() {
            return Ok(Self::Sequence(sequence));
        }
        if let Some(count) = given.strip_prefix("last:") {
            let count = count.parse().ok().filter(|count| *count > 0);
            return count.map(Self::Last).ok_or_else(|| "last: needs a number of at least 1".to_owned());
        }
        if let Some(cursor) = given.strip_prefix("cursor:") {
            return Ok(Self::Cursor(cursor.to_owned()));
        }
        time(given).map(Self::Since).map_err(|_| {
            "must be newest, first, a sequence, last:COUNT, cursor:CURSOR, a time such as 2026-11-27T10:00:00Z, \
             or a duration such as 10m"
                .to_owned()
        })
    }
}

/// A place in the log: a sequence or a cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogPlace {
    /// A sequence.
    Sequence(u64),
    /// A cursor.
    Cursor(String),
}

impl FromStr for LogPlace {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        if given.is_empty() {
            return Err("must be a sequence or a cursor".to_owned());
        }
        Ok(given.parse().map_or_else(|_| Self::Cursor(given.to_owned()), Self::Sequence))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{FromPlace, Limitation, LogPlace, TimeZone, age_bound, bytes, bytes_bound, time_from};

    #[test]
    fn bytes_have_units() {
        for (given, expected) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("64KiB", Some(65_536)),
            ("10 mb", Some(10_000_000)),
            ("1GiB", Some(1 << 30)),
            ("", None),
            ("KiB", None),
            ("-1", None),
            ("1.5MB", None),
            ("1XB", None),
            ("99999999TiB", None),
        ] {
            assert_eq!(bytes(given).ok(), expected, "{given}");
        }
        assert_eq!(bytes_bound("none"), Ok(Limitation::None));
        assert_eq!(bytes_bound("1kb"), Ok(Limitation::AtMost(1000)));
        assert!(age_bound("soon").is_err());
    }

    #[test]
    fn a_time_is_absolute_local_or_in_the_past() {
        let now = "2026-11-27T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (given, expected) in [
            ("now", "2026-11-27T12:00:00Z"),
            ("2026-11-27T10:00:00Z", "2026-11-27T10:00:00Z"),
            ("2026-11-27T10:00:00+02:00", "2026-11-27T08:00:00Z"),
            ("2026-11-27 10:00", "2026-11-27T09:00:00Z"),
            ("2026-11-27", "2026-11-26T23:00:00Z"),
            ("10m", "2026-11-27T11:50:00Z"),
            ("1h 30m ago", "2026-11-27T10:30:00Z"),
        ] {
            assert_eq!(time_from(given, now, &zone).unwrap().to_string(), expected, "{given}");
        }
        for wrong in ["", "yesterday", "10", "2026-13-01", "ago"] {
            assert!(time_from(wrong, now, &zone).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_place_is_a_word_a_number_a_time_or_a_cursor() {
        for (given, expected) in [
            ("newest", FromPlace::Newest),
            ("first", FromPlace::First),
            ("7", FromPlace::Sequence(7)),
            ("last:3", FromPlace::Last(3)),
            ("cursor:AbC_-", FromPlace::Cursor("AbC_-".to_owned())),
            ("2026-11-27T10:00:00Z", FromPlace::Since("2026-11-27T10:00:00Z".parse().unwrap())),
        ] {
            assert_eq!(given.parse(), Ok(expected), "{given}");
        }
        for wrong in ["", "last", "last:0", "last:x", "-1", "somewhere"] {
            assert!(wrong.parse::<FromPlace>().is_err(), "{wrong}");
        }
        assert!(matches!("10m".parse(), Ok(FromPlace::Since(_))));
        assert_eq!("7".parse(), Ok(LogPlace::Sequence(7)));
        assert_eq!("AbC".parse(), Ok(LogPlace::Cursor("AbC".to_owned())));
    }
}
