//! Traces for OpenTelemetry: what a call did, and how long each part of it took.
//!
//! A span is made only by the functions of this module. Its name and its attributes come from closed sets, or are numbers. So
//! nothing that a caller chose can be in a span: no id, no header, no payload. The one exception is the trace to which the
//! call belongs, which its headers `traceparent` and `tracestate` name. The lines of the log, and the spans that the log
//! shows, are separate: they are not exported, and the filter of the log does not concern the spans here.
//!
//! The span of a call is current while the call is polled. A step of the call finds it there, and is a part of it. A step
//! without a current span makes no span. So the work that the service does for itself is not traced, and a service without
//! `--otlp-endpoint` makes no span at all.

mod call;
mod config;
mod current;
mod export;
mod step;

use std::sync::Arc;

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

pub use self::config::TracesConfig;
use self::export::{SpanExport, SpanQueue};
pub(crate) use self::{
    call::{CallSpan, Called},
    config::authority,
    current::{Entered, Parent, current, under},
    step::{StepSpan, TraceStep, publish_steps, step, traced},
};
use crate::{error::Result, metrics::TraceMetrics};

/// Makes the spans of calls. Without an endpoint it makes none. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Option<SdkTracer>);

impl Traces {
    /// Starts the export of spans, if the configuration names an endpoint. The task of the export ends soon after `stop`, with
    /// the last spans. A collector that cannot be reached is no error.
    ///
    /// # Errors
    /// `INVALID_FIELD` if the endpoint, or a variable of OpenTelemetry, cannot be used.
    pub(crate) fn open(
        config: &TracesConfig,
        metrics: &Arc<TraceMetrics>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let Some(endpoint) = &config.endpoint else { return Ok(Self::default()) };
        let resource = resource();
        let queue = Arc::new(SpanQueue::new(metrics));
        let export = SpanExport::new(endpoint, &resource, &queue)?;
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
            .with_span_processor(queue.processor())
            .with_resource(resource)
            .build();
        tasks.spawn(export.run(stop.clone()));
        info!(endpoint, sample = config.sample, "traces are exported");
        Ok(Self(Some(provider.tracer(env!("CARGO_PKG_NAME")))))
    }

    /// Starts the span of a call, if the call is to be traced. Only then `called` is asked.
    pub(crate) fn call<'a>(
        &self,
        headers: &::http::HeaderMap,
        called: impl FnOnce() -> Called<'a>,
    ) -> Option<CallSpan> {
        CallSpan::start(self.0.as_ref()?, headers, called)
    }
}

/// Who exports. The variables of OpenTelemetry win.
fn resource() -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        ])
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()))
        .build()
}
