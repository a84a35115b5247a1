//! Exports ended spans by OTLP. Calls never wait for it: beyond a bound of waiting spans, further ones are lost and counted.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_otlp::{ExporterBuildError, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tracing::{info, warn};

use crate::{
    error::{Error, Result},
    limits::{OTLP_BATCH_SPANS_MAX, OTLP_FLUSH_TIMEOUT, OTLP_INTERVAL, OTLP_SPANS_WAITING_MAX, OTLP_TIMEOUT},
    metrics::{Counter, SpanLoss, TraceMetrics},
    sync::lock,
};

/// Minimum time between two warnings of lost spans.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The ended spans that wait for their export.
#[derive(Debug)]
pub(super) struct SpanQueue {
    waiting: Mutex<VecDeque<SpanData>>,
    /// Notified when another batch is full.
    full: Notify,
    metrics: Arc<TraceMetrics>,
}

impl SpanQueue {
    pub(super) fn new(metrics: &Arc<TraceMetrics>) -> Self {
        Self { waiting: Mutex::default(), full: Notify::new(), metrics: Arc::clone(metrics) }
    }

    /// What puts each ended span into the queue.
    pub(super) fn processor(self: &Arc<Self>) -> impl SpanProcessor + use<> {
        Enqueue(Arc::clone(self))
    }

    fn push(&self, span: SpanData) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= OTLP_SPANS_WAITING_MAX {
            drop(waiting);
            self.metrics.lost.inc(SpanLoss::Queue);
            return;
        }
        waiting.push_back(span);
        let is_full = waiting.len().is_multiple_of(OTLP_BATCH_SPANS_MAX);
        drop(waiting);
        if is_full {
            self.full.notify_one();
        }
    }

    /// Takes the oldest spans, at most a batch.
    fn take(&self) -> Vec<SpanData> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.len().min(OTLP_BATCH_SPANS_MAX);
        waiting.drain(..count).collect()
    }

    fn len(&self) -> usize {
        lock(&self.waiting).len()
    }
}

/// The only processor of spans.
#[derive(Debug)]
struct Enqueue(Arc<SpanQueue>);

impl SpanProcessor for Enqueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.push(span);
    }

    // the task of the export sends what waits when the service stops

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task that sends spans to the collector.
pub(super) struct SpanExport {
    exporter: opentelemetry_otlp::SpanExporter,
    queue: Arc<SpanQueue>,
    /// Spans that are being sent.
    under_way: usize,
    losses: Losses,
}

impl fmt::Debug for SpanExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanExport").finish_non_exhaustive()
    }
}

impl SpanExport {
    /// Connects with the first batch.
    pub(super) fn new(endpoint: &str, resource: &Resource, queue: &Arc<SpanQueue>) -> Result<Self> {
        let channel = channel(endpoint)
            .map_err(|error| Error::field("otlp_endpoint", "cannot be used as an endpoint").because(error))?;
        let mut exporter = exporter(channel).map_err(|error| {
            Error::field("otlp_endpoint", format!("a variable of OpenTelemetry cannot be used: {error}"))
        })?;
        exporter.set_resource(resource);
        let losses = Losses { metrics: Arc::clone(&queue.metrics), warned: 0, warned_at: None, problem: None };
        Ok(Self { exporter, queue: Arc::clone(queue), under_way: 0, losses })
    }

    /// Runs until shortly after `stop`. Then the last spans are sent, or lost.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let is_over = async {
            stop.cancelled().await;
            time::sleep(OTLP_FLUSH_TIMEOUT).await;
        };
        tokio::select! {
            () = self.export_until(&stop) => {}
            () = is_over => {}
        }
        let lost = self.under_way + self.queue.len();
        if lost > 0 {
            self.losses.failed(lost, "the service stopped");
            warn!(spans = lost, "spans were lost: the collector did not take them before the service stopped");
        }
    }

    async fn export_until(&mut self, stop: &CancellationToken) {
        loop {
            let is_last = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = self.queue.full.notified() => false,
                () = time::sleep(OTLP_INTERVAL) => false,
            };
            self.export_waiting().await;
            self.losses.warn();
            if is_last {
                return;
            }
        }
    }

    async fn export_waiting(&mut self) {
        loop {
            let batch = self.queue.take();
            if batch.is_empty() {
                return;
            }
            let spans = batch.len();
            self.under_way = spans;
            let exported = time::timeout(OTLP_TIMEOUT, self.exporter.export(batch)).await;
            self.under_way = 0;
            match exported {
                Ok(Ok(())) => self.losses.succeeded(spans),
                Ok(Err(error)) => self.losses.failed(spans, &error.to_string()),
                Err(_) => self.losses.failed(spans, "the collector did not answer in time"),
            }
            self.losses.warn();
        }
    }
}

/// Counts lost spans, and warns of them now and then.
#[derive(Debug)]
struct Losses {
    metrics: Arc<TraceMetrics>,
    /// Lost spans in the last warning.
    warned: u64,
    warned_at: Option<Instant>,
    problem: Option<String>,
}

impl Losses {
    fn succeeded(&mut self, spans: usize) {
        self.metrics.exported.inc_by(spans as u64);
        if self.problem.take().is_some() {
            info!("the collector of traces takes spans again");
        }
    }

    fn failed(&mut self, spans: usize, problem: &str) {
        self.metrics.lost.inc_by(SpanLoss::Export, spans as u64);
        self.problem = Some(problem.to_owned());
    }

    fn warn(&mut self) {
        let counters = [SpanLoss::Queue, SpanLoss::Export].into_iter().filter_map(|why| self.metrics.lost.of(why));
        let in_all = counters.map(Counter::get).sum();
        if in_all == self.warned || self.warned_at.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return;
        }
        let problem = self.problem.as_deref().unwrap_or("more spans ended than the collector took");
        warn!(spans = in_all - self.warned, in_all, problem, "spans were lost; calls are served as before");
        self.warned = in_all;
        self.warned_at = Some(Instant::now());
    }
}

fn channel(endpoint: &str) -> std::result::Result<Channel, tonic::transport::Error> {
    let is_encrypted = endpoint.starts_with("https:");
    let endpoint = Endpoint::from_shared(endpoint.to_owned())?.connect_timeout(OTLP_TIMEOUT).timeout(OTLP_TIMEOUT);
    let endpoint =
        if is_encrypted { endpoint.tls_config(ClientTlsConfig::new().with_native_roots())? } else { endpoint };
    Ok(endpoint.connect_lazy())
}

fn exporter(channel: Channel) -> std::result::Result<opentelemetry_otlp::SpanExporter, ExporterBuildError> {
    opentelemetry_otlp::SpanExporter::builder().with_tonic().with_channel(channel).build()
}
