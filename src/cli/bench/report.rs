//! What a benchmark prints.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    tally::{PERCENTILES, SideTotal, Totals},
    workload::Workload,
};
use crate::cli::{
    failure::CliResult,
    output::{Form, Printer},
    style::Style,
    text,
};

/// The share of `--rate` from which on the rate counts as reached.
const RATE_REACHED: f64 = 0.95;

/// The result of a run.
pub(super) struct BenchReport<'a> {
    pub(super) workload: &'a Workload,
    pub(super) room_ids: &'a [String],
    pub(super) is_persisted: bool,
    pub(super) totals: &'a Totals,
    /// Whether the run came to its planned end. Otherwise messages that were under way are not lost.
    pub(super) is_complete: bool,
}

impl BenchReport<'_> {
    /// Prints the result in the form that was asked for.
    pub(super) fn print(&self, out: &Printer) -> CliResult {
        match out.form() {
            Form::People => self.table(out),
            Form::Json => out.value(&self.json()),
            Form::Quiet => Ok(()),
        }
    }

    fn table(&self, out: &Printer) -> CliResult {
        let mut headings = vec!["", "MESSAGES", "PER SECOND", "BYTES/S"];
        headings.extend(PERCENTILES.map(|(_, name, _)| name));
        headings.push("MAX");
        let mut rows = vec![self.row("publish", &self.totals.publish)];
        if self.workload.subscribers > 0 {
            rows.push(self.row("deliver", &self.totals.deliver));
        }
        out.table(&headings, rows)?;
        out.line(&self.verdict(out))
    }

    fn row(&self, name: &str, side: &SideTotal) -> Vec<String> {
        let mut row = vec![name.to_owned(), text::grouped(side.messages), text::rate(side.rate())];
        row.push(text::bytes(text::rounded(side.rate() * text::as_float(self.workload.size as u64))));
        row.extend(PERCENTILES.map(|(share, _, _)| latency(side.latencies.quantile(share))));
        row.push(latency(side.latencies.max()));
        row
    }

    /// One line that says what went wrong, if anything did.
    fn verdict(&self, out: &Printer) -> String {
        let totals = self.totals;
        let mut wrong = Vec::new();
        if self.is_complete && totals.lost > 0 {
            wrong.push(format!("{} of {} deliveries lost", text::grouped(totals.lost), text::grouped(totals.expected)));
        }
        if totals.duplicated > 0 {
            wrong.push(format!("{} duplicated", text::grouped(totals.duplicated)));
        }
        wrong.extend(totals.errors.iter().map(|(reason, count)| format!("{} {reason}", text::grouped(*count))));
        let rate = self.workload.rate.filter(|rate| totals.publish.rate() < text::as_float(*rate) * RATE_REACHED);
        if let (Some(rate), true) = (rate, self.is_complete) {
            wrong.push(format!("the rate of {}/s was not reached", text::grouped(rate)));
        }
        match (wrong.is_empty(), self.is_complete) {
            (true, true) => out.paint(Style::Good, "complete: no errors, nothing lost, nothing duplicated"),
            (true, false) => out.paint(Style::Warning, "ended early: messages that were under way are not counted"),
            (false, true) => out.paint(Style::Warning, &format!("complete: {}", wrong.join(", "))),
            (false, false) => out.paint(Style::Warning, &format!("ended early: {}", wrong.join(", "))),
        }
    }

    fn json(&self) -> Value {
        let Self { workload, totals, .. } = self;
        let size = workload.size as u64;
        let errors: Map<_, _> = totals.errors.iter().map(|(reason, count)| (reason.clone(), json!(count))).collect();
        json!({
            "rooms": self.room_ids,
            "persisted": self.is_persisted,
            "publishers": workload.publishers_of_all_rooms(),
            "subscribers": workload.subscribers_of_all_rooms(),
            "connections": workload.connections,
            "sizeBytes": size,
            "rate": workload.rate,
            "window": workload.window,
            "unary": workload.unary,
            "complete": self.is_complete,
            "sent": totals.sent,
            "publish": totals.publish.json(size),
            "deliver": totals.deliver.json(size),
            "expectedDeliveries": totals.expected,
            "lost": self.is_complete.then_some(totals.lost),
            "duplicated": totals.duplicated,
            "errors": errors,
        })
    }
}

/// A latency of this number of microseconds, to three digits.
fn latency(micros: Option<u64>) -> String {
    let Some(micros) = micros else { return "-".to_owned() };
    let millis = Duration::from_micros(micros).as_secs_f64() * 1e3;
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..10_000 => format!("{millis:.2} ms"),
        10_000..100_000 => format!("{millis:.1} ms"),
        100_000..1_000_000 => format!("{millis:.0} ms"),
        _ => format!("{:.2} s", millis / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::latency;

    #[test]
    fn a_latency_has_three_digits() {
        for (micros, expected) in [
            (None, "-"),
            (Some(0), "0 µs"),
            (Some(999), "999 µs"),
            (Some(1_234), "1.23 ms"),
            (Some(12_345), "12.3 ms"),
            (Some(123_456), "123 ms"),
            (Some(12_345_678), "12.35 s"),
        ] {
            assert_eq!(latency(micros), expected);
        }
    }
}
