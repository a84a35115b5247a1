//! The findings, as a table or as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckStatus {
    Ok,
    /// The service works, but not as well as it should.
    Warn,
    /// The service cannot start, or cannot work.
    Fail,
    /// Not checked.
    Skip,
}

impl CheckStatus {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }

    /// The code of its colour in a terminal.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Warn => "33",
            Self::Fail => "31",
            Self::Skip => "2",
        }
    }
}

/// What one check has found.
#[derive(Debug)]
pub(super) struct Finding {
    check: String,
    status: CheckStatus,
    found: String,
    /// What to do.
    fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, CheckStatus::Ok, found.into(), None)
    }

    pub(super) fn warn(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, CheckStatus::Warn, found.into(), Some(fix.into()))
    }

    pub(super) fn fail(check: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(check, CheckStatus::Fail, found.into(), Some(fix.into()))
    }

    pub(super) fn skip(check: &str, found: impl Into<String>) -> Self {
        Self::new(check, CheckStatus::Skip, found.into(), None)
    }

    fn new(check: &str, status: CheckStatus, found: String, fix: Option<String>) -> Self {
        Self { check: check.to_owned(), status, found, fix }
    }
}

/// What `unibus check` has found.
#[derive(Debug)]
pub struct CheckReport {
    pub(super) findings: Vec<Finding>,
    pub(super) json: bool,
}

impl CheckReport {
    /// The report, in JSON, if the command line or the configuration file cannot be used. Nothing else was checked.
    #[must_use]
    pub fn of_wrong_arguments(problem: impl Into<String>) -> Self {
        let fix = "change the flag, the variable or the line of the file";
        Self { findings: vec![Finding::fail("configuration", problem, fix)], json: true }
    }

    /// Whether a check failed. Warnings are no failures.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.status == CheckStatus::Fail)
    }

    /// The text for standard output: a table, with colours if `is_terminal`, or JSON if the command asks for it.
    #[must_use]
    pub fn text(&self, is_terminal: bool) -> String {
        if self.json { self.as_json() } else { self.as_table(is_terminal && std::env::var_os("NO_COLOR").is_none()) }
    }

    fn as_json(&self) -> String {
        let findings = self.findings.iter().map(|finding| {
            let Finding { check, status, found, fix } = finding;
            json!({ "check": check, "status": status.name(), "found": found, "fix": fix })
        });
        let findings: Vec<Value> = findings.collect();
        let status = if self.has_failed() { CheckStatus::Fail } else { CheckStatus::Ok };
        format!("{:#}\n", json!({ "status": status.name(), "findings": findings }))
    }

    fn as_table(&self, with_colours: bool) -> String {
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
        let mut text = String::new();
        for Finding { check, status, found, fix } in &self.findings {
            let name = status.name();
            let padded = format!("{name:4}");
            let shown = if with_colours { format!("\u{1b}[{}m{padded}\u{1b}[0m", status.colour()) } else { padded };
            // writing to a String cannot fail
            let _ = writeln!(text, "{shown}  {check:width$}  {found}");
            if let Some(fix) = fix {
                let _ = writeln!(text, "{:4}  {:width$}  -> {fix}", "", "");
            }
        }
        let count = |status| self.findings.iter().filter(|finding| finding.status == status).count();
        let (failures, warnings) = (count(CheckStatus::Fail), count(CheckStatus::Warn));
        let _ = writeln!(text, "\n{failures} failed, {warnings} with a warning, {} in all", self.findings.len());
        text
    }
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", count / size, count % size * 10 / size),
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_with_the_largest_unit_that_fits() {
        for (count, expected) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }

    #[test]
    fn a_warning_is_no_failure_and_a_failure_is() {
        let report = |findings| CheckReport { findings, json: false };
        assert!(
            !report(vec![Finding::ok("a", "b"), Finding::warn("a", "b", "c"), Finding::skip("a", "b")]).has_failed()
        );
        let failed = report(vec![Finding::ok("a", "b"), Finding::fail("port", "taken", "choose another")]);
        assert!(failed.has_failed());
        assert_eq!(
            failed.text(false),
            "ok    a     b\nfail  port  taken\n            -> choose another\n\n1 failed, 0 with a warning, 2 in all\n"
        );
    }
}
