//! Values of the contract as people read them.

use jiff::{Timestamp, tz::TimeZone};
use unibus::v1::{Durability, GapReason, Role};

/// A time in the local time zone, to the second; `-` if it is unset.
pub(crate) fn local_time(time: Option<&prost_types::Timestamp>) -> String {
    let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    let local = time.map(|time| time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string());
    local.unwrap_or_else(|| "-".to_owned())
}

/// A duration such as `1h 30m`.
pub(crate) fn duration(duration: &prost_types::Duration) -> String {
    let given = std::time::Duration::try_from(*duration).unwrap_or_default();
    humantime::format_duration(given).to_string()
}

/// A number of bytes such as `1.5 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // a whole number of tenths of the unit, so that nothing is rounded up to 1024.0
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = None;
    for name in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) if tenths % 10 == 0 => format!("{} {unit}", tenths / 10),
        Some(unit) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// A number and its noun, in the plural unless it is 1.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The same with commas between groups of three digits.
pub(crate) fn count_grouped(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{} {noun}s", grouped(number)) }
}

/// A number with commas between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number for ratios and rates.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
pub(crate) fn as_float(number: u64) -> f64 {
    number as f64
}

/// A rate such as `0.3`, `25.0` or `1,234`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second < 999.95 { format!("{per_second:.1}") } else { grouped(rounded(per_second)) }
}

/// The nearest whole number; 0 for a negative one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast keeps to the range of its type")]
pub(crate) fn rounded(number: f64) -> u64 {
    number.round() as u64
}

/// `yes` or `no`.
pub(crate) fn yes_no(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

/// The name of a role.
pub(crate) fn role(role: i32) -> &'static str {
    match Role::try_from(role).unwrap_or_default() {
        Role::Unspecified | Role::Reader => "reader",
        Role::Writer => "writer",
        Role::Owner => "owner",
    }
}

/// What a stored message survives, as an addition to a sentence.
pub(crate) fn durability(durability: i32) -> &'static str {
    match Durability::try_from(durability).unwrap_or_default() {
        Durability::Unspecified => "durability unknown",
        Durability::None => "not stored",
        Durability::Buffered => "written, not synced",
        Durability::Synced => "synced to disk",
        Durability::Quorum => "written by a majority",
        Durability::QuorumSynced => "synced by a majority",
    }
}

/// Why messages are missing.
pub(crate) fn gap_reason(reason: i32) -> &'static str {
    match GapReason::try_from(reason).unwrap_or_default() {
        GapReason::Unspecified => "for an unknown reason",
        GapReason::Expired => "expired",
        GapReason::Purged => "purged",
        GapReason::Deleted => "deleted",
        GapReason::SlowReader => "this reader was too slow",
        GapReason::Disconnected => "the service lost its NATS connection",
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, grouped, rate};

    #[test]
    fn digits_are_in_groups_of_three() {
        for (given, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(given), expected);
        }
        assert_eq!([0.0, 0.26, 999.94, 999.96, 12_345.6].map(rate), ["0.0", "0.3", "999.9", "1,000", "12,346"]);
    }

    #[test]
    fn bytes_are_short_and_never_1024() {
        for (given, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1024 * 1024, "1 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(given), expected);
        }
        assert_eq!((count(1, "message"), count(0, "message")), ("1 message".to_owned(), "0 messages".to_owned()));
    }
}
