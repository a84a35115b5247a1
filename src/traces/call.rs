//! The span of a call, from its arrival to the end of its answer.

use ::http::{HeaderMap, Method, StatusCode};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span as _, SpanBuilder, SpanKind, Tracer},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, Span},
};

use super::current::{Entered, Parent};
use crate::{
    error::Reason,
    limits::TRACESTATE_BYTES_MAX,
    metrics::{GrpcCode, calls::ServedMethod},
};

const TRACEPARENT: &str = "traceparent";
/// Characters of a `traceparent`; one of a later version may be longer (W3C Trace Context, "traceparent Header").
const TRACEPARENT_CHARS_MIN: usize = 55;

/// What was called, in words of a closed set.
#[derive(Debug)]
pub(crate) enum Called<'a> {
    /// An RPC of the service, or the place of all unknown ones.
    Rpc { system: &'static str, called: &'a ServedMethod },
    /// An HTTP request: its method, and the pattern of its path, if there is one.
    Http { method: &'a Method, route: Option<&'static str> },
}

impl Called<'_> {
    fn describe(&self, span: &mut Span) {
        match self {
            Self::Rpc { system, called: ServedMethod { service, method, .. } } => {
                span.update_name(format!("{service}/{method}"));
                span.set_attribute(KeyValue::new("rpc.system", *system));
                span.set_attribute(KeyValue::new("rpc.service", service.clone()));
                span.set_attribute(KeyValue::new("rpc.method", method.clone()));
            }
            Self::Http { method, route } => {
                let method = known(method);
                span.set_attribute(KeyValue::new("http.request.method", method));
                match route {
                    Some(route) => {
                        span.update_name(format!("{method} {route}"));
                        span.set_attribute(KeyValue::new("http.route", *route));
                    }
                    None => span.update_name(method),
                }
            }
        }
    }
}

/// The method, unless a caller invented it.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "PATCH" => "PATCH",
        _ => "_OTHER",
    }
}

/// The span of a call that is traced.
#[derive(Debug)]
pub(crate) struct CallSpan(Parent);

impl CallSpan {
    /// `None`: the call is not traced. `called` is only asked otherwise.
    pub(super) fn start<'a>(
        tracer: &SdkTracer,
        headers: &HeaderMap,
        called: impl FnOnce() -> Called<'a>,
    ) -> Option<Self> {
        let none = Context::new();
        let above = if headers.contains_key(TRACEPARENT) {
            TraceContextPropagator::new().extract_with_context(&none, &TraceHeaders(headers))
        } else {
            none
        };
        let mut span = tracer.build_with_context(SpanBuilder::from_name("").with_kind(SpanKind::Server), &above);
        if !span.is_recording() {
            return None;
        }
        called().describe(&mut span);
        Some(Self(Parent::new(tracer.clone(), span)))
    }

    /// Makes the span current, until the returned guard is dropped.
    pub(crate) fn enter(&self) -> Entered {
        self.0.enter()
    }

    /// Notes the status of an HTTP answer.
    pub(crate) fn set_http_status(&self, status: StatusCode) {
        self.0.set(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            self.0.fail();
        }
    }

    /// Notes the status of an RPC.
    pub(crate) fn set_code(&self, code: GrpcCode) {
        self.0.set(KeyValue::new("rpc.grpc.status_code", code as i64));
        if is_fault(code) {
            self.0.fail();
        }
    }

    /// Notes why the call failed.
    pub(crate) fn set_reason(&self, reason: Reason) {
        self.0.set(KeyValue::new("error.type", reason.name()));
    }

    pub(crate) fn end(self) {
        self.0.end();
    }
}

/// Whether a status is a fault of the service and not of the caller: the convention for spans of servers.
fn is_fault(code: GrpcCode) -> bool {
    match code {
        GrpcCode::Unknown
        | GrpcCode::DeadlineExceeded
        | GrpcCode::Unimplemented
        | GrpcCode::Internal
        | GrpcCode::Unavailable
        | GrpcCode::DataLoss => true,
        GrpcCode::Ok
        | GrpcCode::Canceled
        | GrpcCode::InvalidArgument
        | GrpcCode::NotFound
        | GrpcCode::AlreadyExists
        | GrpcCode::PermissionDenied
        | GrpcCode::ResourceExhausted
        | GrpcCode::FailedPrecondition
        | GrpcCode::Aborted
        | GrpcCode::OutOfRange
        | GrpcCode::Unauthenticated => false,
    }
}

/// The headers of W3C Trace Context. A repeated one is ignored, and a long `tracestate`, which every span would carry.
struct TraceHeaders<'a>(&'a HeaderMap);

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        let value = values.next().filter(|value| value.len() <= TRACESTATE_BYTES_MAX)?;
        // the library would read a version of one digit
        let is_cut_off = key == TRACEPARENT && value.len() < TRACEPARENT_CHARS_MIN;
        if is_cut_off || values.next().is_some() { None } else { value.to_str().ok() }
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ::http::HeaderValue;
    use opentelemetry::trace::TraceContextExt;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The trace and the state that these headers name.
    fn extracted(fields: &[(&'static str, &str)]) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &TraceHeaders(&headers));
        let span = context.span();
        let found = span.span_context();
        found.is_valid().then(|| (found.trace_id().to_string(), found.trace_state().header()))
    }

    #[test]
    fn a_call_belongs_to_the_trace_that_its_headers_name() {
        let trace = "0af7651916cd43dd8448eb211c80319c".to_owned();
        let (short, long) = (format!("a={}", "x".repeat(100)), format!("a={}", "x".repeat(TRACESTATE_BYTES_MAX)));
        assert_eq!(extracted(&[("traceparent", PARENT)]), Some((trace.clone(), String::new())));
        assert_eq!(extracted(&[("traceparent", PARENT), ("tracestate", &short)]), Some((trace.clone(), short)));
        assert_eq!(extracted(&[("traceparent", PARENT), ("tracestate", &long)]), Some((trace, String::new())));
    }

    #[test]
    fn headers_that_name_no_trace_are_ignored() {
        for value in
            ["", "x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", &PARENT.to_uppercase(), &PARENT[1..]]
        {
            assert_eq!(extracted(&[("traceparent", value)]), None, "{value}");
        }
        assert_eq!(extracted(&[("traceparent", PARENT), ("traceparent", PARENT)]), None);
        assert_eq!(extracted(&[("tracestate", "a=b")]), None);
    }
}
