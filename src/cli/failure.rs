//! What a failed command reports: what failed, why, and what to do.

use std::{error::Error as StdError, fmt::Write, io, iter, time::Duration};

use prost::Message as _;
use serde_json::{Map, Value, json};
use tonic::{Code, Status, TimeoutExpired};
use tonic_types::StatusExt;

use super::{
    connection::innermost,
    exit::Exit,
    hints,
    printable::safe,
    style::{self, Style},
};

/// The outcome of a part of a command.
pub(crate) type CliResult<T = ()> = Result<T, Failure>;

/// Why a command ends without success.
#[derive(Debug)]
pub(crate) struct Failure(Box<Report>);

#[derive(Debug)]
struct Report {
    exit: Exit,
    /// What failed and why. Empty: nothing is printed.
    message: String,
    /// The code of the service.
    code: Option<Code>,
    /// The reason of `google.rpc.ErrorInfo`.
    reason: Option<String>,
    metadata: Map<String, Value>,
    /// The wrong fields, each with its problem.
    fields: Vec<(String, String)>,
    hint: Option<String>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that the service did not report.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self(Box::new(Report {
            exit,
            message: message.into(),
            code: None,
            reason: None,
            metadata: Map::new(),
            fields: Vec::new(),
            hint: None,
            retry_after: None,
        }))
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A signal ended the command.
    pub(crate) fn signal(name: &str) -> Self {
        Self::new(Exit::of_signal(name), "")
    }

    /// The output cannot be written. Nothing is wrong if its reader has closed it.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Done, "");
        }
        Self::new(Exit::Failed, format!("cannot write the output: {error}"))
    }

    /// A call failed. `what` says what the command cannot do, such as `create the room`.
    pub(crate) fn call(what: &str, status: &Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else { return Self::without_reason(what, status) };
        let fields = details.bad_request().map(|wrong| wrong.field_violations.as_slice()).unwrap_or_default();
        let fields: Vec<_> = fields.iter().map(|field| (field.field.clone(), field.description.clone())).collect();
        let why = if fields.is_empty() { status.message() } else { "the service refuses these values" };
        let metadata: Map<_, _> = info.metadata.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let mut failure = Self::new(Exit::of(status.code()), format!("cannot {what}: {why}"));
        let report = &mut *failure.0;
        report.code = Some(status.code());
        report.reason = Some(info.reason.clone());
        report.hint = hints::of(&info.reason, &info.metadata, status);
        report.metadata = metadata;
        report.fields = fields;
        report.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        failure
    }

    /// A call failed without `google.rpc.ErrorInfo`: not the service, but something before it, ended the call.
    fn without_reason(what: &str, status: &Status) -> Self {
        let message = match status.source() {
            Some(source) => format!("cannot {what}: {}", innermost(source)),
            None => format!("cannot {what}: {}", status.message()),
        };
        let mut failure = match status.code() {
            Code::DeadlineExceeded | Code::Cancelled if !is_cut_off(status) => {
                let text = format!("cannot {what}: no answer within --timeout; the call may have taken effect");
                Self::new(Exit::Timeout, text)
            }
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => Self::new(
                Exit::Unreachable,
                message,
            )
            .hint(
                "The connection broke. Is --server the address of a unibus service? A service with TLS has a URL that \
                 begins with https://.",
            ),
            code => Self::new(Exit::of(code), message),
        };
        failure.0.code = Some(status.code());
        failure
    }

    /// Adds what to do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Puts this before the message.
    pub(crate) fn within(mut self, place: &str) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }

    /// The exit status of the command.
    pub(crate) fn exit(&self) -> Exit {
        self.0.exit
    }

    /// The reason of the service.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.reason.as_deref()
    }

    /// A value of `google.rpc.ErrorInfo`.
    pub(crate) fn metadata(&self, name: &str) -> Option<&str> {
        self.0.metadata.get(name)?.as_str()
    }

    /// Whether it is open what a call has done.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.reason(), None | Some("OUTCOME_UNKNOWN" | "TIMEOUT" | "INTERNAL"))
    }

    /// When the same call may succeed with the same credentials.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after.filter(|_| self.reason() != Some("CREDENTIALS_EXPIRED"))
    }

    /// Whether there is something to print.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.message.is_empty()
    }

    /// The message in one line, without fields and hint.
    pub(crate) fn summary(&self) -> String {
        let Report { message, reason, .. } = &*self.0;
        match reason {
            Some(reason) => format!("{} ({reason})", safe(message)),
            None => safe(message).into_owned(),
        }
    }

    /// The lines for people.
    pub(crate) fn text(&self, is_coloured: bool) -> String {
        let report = &*self.0;
        let mut text = format!("{} {}", style::paint(Style::Error, "error:", is_coloured), safe(&report.message));
        if let (Some(code), Some(reason)) = (report.code, &report.reason) {
            let code = code_name(code);
            let named = if code == reason { code.to_owned() } else { format!("{code}, {reason}") };
            let _ = write!(text, " {}", style::paint(Style::Faint, &format!("({named})"), is_coloured));
        }
        for (field, problem) in &report.fields {
            let field = hints::flag_of(field).unwrap_or(field);
            let _ = write!(text, "\n  {}: {}", style::paint(Style::Strong, &safe(field), is_coloured), safe(problem));
        }
        if let Some(hint) = &report.hint {
            let _ = write!(text, "\n  {} {}", style::paint(Style::Faint, "hint:", is_coloured), safe(hint));
        }
        text.push('\n');
        text
    }

    /// The same for scripts.
    pub(crate) fn json(&self) -> Value {
        let report = &*self.0;
        let fields = report.fields.iter().map(|(field, problem)| json!({ "field": field, "description": problem }));
        json!({ "error": {
            "message": report.message,
            "code": report.code.map(code_name),
            "reason": report.reason,
            "metadata": report.metadata,
            "fields": fields.collect::<Vec<_>>(),
            "hint": report.hint,
            "retryAfterMs": report.retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            "exitStatus": report.exit.status(),
        } })
    }
}

/// Whether the connection ended before the service answered. The gRPC library reports this with the same code as a
/// time-out of its own.
fn is_cut_off(status: &Status) -> bool {
    let mut causes = iter::successors(status.source(), |&cause| cause.source());
    status.code() == Code::Cancelled && !causes.any(<dyn StdError>::is::<TimeoutExpired>)
}

/// A status that a stream carries in a message, as the status of a call.
pub(crate) fn status_of(carried: &tonic_types::pb::Status) -> Status {
    Status::with_details(Code::from(carried.code), carried.message.clone(), carried.encode_to_vec().into())
}

/// The name of a code in the gRPC specification.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
