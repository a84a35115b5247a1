//! The wrong fields of a request, gathered into one error.

use super::{Error, Reason, Result, shortened};
use crate::limits::{ERROR_VALUE_BYTES_MAX, VIOLATIONS_BYTES_MAX, VIOLATIONS_MAX};

/// One wrong field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, for example `retention.max_age`.
    pub field: String,
    /// What is wrong with the field, and what to give instead.
    pub description: String,
}

/// Collects the wrong fields of one request, so that one error names all of them: at most [`VIOLATIONS_MAX`] by name,
/// and the number of the others.
#[derive(Debug, Default)]
pub struct Violations {
    found: Vec<Violation>,
    bytes: usize,
    /// The number of wrong fields that are not named.
    more: usize,
    reason: Option<Reason>,
}

impl Violations {
    /// Adds a wrong field.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.push(Violation { field: field.into(), description: description.into() });
    }

    /// Returns the value, or adds the wrong fields of the error.
    pub fn check<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.reason.get_or_insert(error.reason());
                self.more += error.0.more_violations;
                for violation in error.0.violations {
                    self.push(violation);
                }
                None
            }
        }
    }

    fn push(&mut self, Violation { field, description }: Violation) {
        if self.found.len() >= VIOLATIONS_MAX || self.bytes >= VIOLATIONS_BYTES_MAX {
            self.more += 1;
            return;
        }
        let field = shortened(field.into(), ERROR_VALUE_BYTES_MAX).into_owned();
        let description = shortened(description.into(), ERROR_VALUE_BYTES_MAX).into_owned();
        self.bytes += field.len() + description.len();
        self.found.push(Violation { field, description });
    }

    /// Returns the error that names all wrong fields, if there are any.
    pub fn finish(self) -> Result<()> {
        if self.found.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    /// Returns the error that names all wrong fields.
    #[must_use]
    pub fn into_error(self) -> Error {
        let named = self.found.iter().map(|violation| format!("`{}`: {}", violation.field, violation.description));
        let mut message = named.collect::<Vec<_>>().join("; ");
        if self.more > 0 {
            let more = format!("{} more fields are wrong than those named here; ", self.more);
            message.insert_str(0, &more);
        }
        // a more specific reason than INVALID_FIELD is kept for a single field
        let reason = match (self.found.len(), self.reason) {
            (1, Some(reason)) => reason,
            _ => Reason::InvalidField,
        };
        let mut error = Error::new(reason, message);
        error.0.violations = self.found;
        error.0.more_violations = self.more;
        if self.more > 0 { error.with("more_violations", self.more) } else { error }
    }

    /// Sets the reason for an error with a single field.
    #[must_use]
    pub fn because(mut self, reason: Reason) -> Self {
        self.reason = Some(reason);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ERROR_MESSAGE_BYTES_MAX;

    #[test]
    fn what_an_error_says_is_bounded_and_counts_what_it_leaves_out() {
        let mut violations = Violations::default();
        for number in 0..300 {
            violations.add(format!("headers[\"{}\"]", "\u{e9}".repeat(number)), "must not be empty ".repeat(number));
        }
        let error = violations.into_error().with("sequence", "7".repeat(5000));
        assert_eq!(error.reason(), Reason::InvalidField);
        assert!(error.message().len() <= ERROR_MESSAGE_BYTES_MAX, "{}", error.message().len());
        let named = error.violations();
        assert!(!named.is_empty() && named.len() <= VIOLATIONS_MAX, "{}", named.len());
        let bytes: usize = named.iter().map(|found| found.field.len() + found.description.len()).sum();
        assert!(bytes <= VIOLATIONS_BYTES_MAX + 2 * ERROR_VALUE_BYTES_MAX, "{bytes}");
        let more = (300 - named.len()).to_string();
        assert!(error.metadata().iter().any(|(key, value)| *key == "more_violations" && *value == more));
        assert!(error.metadata().iter().all(|(_, value)| value.len() <= ERROR_VALUE_BYTES_MAX));
    }

    #[test]
    fn short_errors_are_left_as_they_are() {
        let mut violations = Violations::default();
        violations.add("room_id", "must not be empty");
        let error = violations.into_error();
        assert_eq!(error.message(), "`room_id`: must not be empty");
        assert!(error.metadata().is_empty());
    }
}
