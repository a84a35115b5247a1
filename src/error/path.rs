//! The path of a wrong field in the message that the client sent.

use super::{Error, shortened};
use crate::limits::ERROR_MESSAGE_BYTES_MAX;

impl Error {
    /// Puts `parent` before the path of every field that the error names, because the client sent the checked value in
    /// that field.
    pub(crate) fn within(mut self, parent: &str) -> Self {
        let inner = &mut *self.0;
        let mut message = inner.message.to_string();
        if inner.violations.is_empty()
            && let Some(field) = message.strip_prefix('`')
        {
            // a message about one field begins with it in backticks
            message = format!("`{parent}.{field}");
        }
        for violation in &mut inner.violations {
            let path = format!("{parent}.{}", violation.field);
            message = message.replacen(&format!("`{}`: ", violation.field), &format!("`{path}`: "), 1);
            violation.field = path;
        }
        inner.message = shortened(message.into(), ERROR_MESSAGE_BYTES_MAX);
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::error::{Error, Reason, Violations};

    #[test]
    fn every_named_field_gets_the_path() {
        let mut violations = Violations::default();
        violations.add("ttl", "is negative");
        violations.add("headers[\"a\"]", "is empty");
        let error = violations.into_error().within("publish");
        let fields: Vec<_> = error.violations().iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["publish.ttl", "publish.headers[\"a\"]"]);
        assert_eq!(error.message(), "`publish.ttl`: is negative; `publish.headers[\"a\"]`: is empty");
        let error = Error::new(Reason::PositionAfterEnd, "`sequence`: lies after the end").within("ack");
        assert_eq!(error.message(), "`ack.sequence`: lies after the end");
        let error = Error::new(Reason::RoomNotFound, "no room").within("ack");
        assert_eq!(error.message(), "no room");
    }
}
