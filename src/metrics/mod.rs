//! Every metric of the service, with its help text.
//!
//! A group of metrics belongs to one component, which gets it when it is made. Most metrics are counted where something
//! happens. A `Reading` is set when the metrics are scraped (`server/scrape.rs`), so that nothing is paid for it before.
//!
//! No label has values that grow with rooms, members or callers. [`labels`] lists all values.
//!
//! `docs/metrics.md` is made from this file.

pub(crate) mod calls;
mod labels;
mod process;
mod series;

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, prometheus_text, text},
    metrics::MetricType,
    registry::{Metric, Registry},
};

use self::calls::{PerMethod, PerMethodAndCode, ServedMethods};
pub(crate) use self::{
    labels::{
        CredentialsResult, GrpcCode, HttpClass, InstanceLimit, MissingBecause, NatsApi, NatsFailure, NatsLink,
        RefusedConnection, RoomKind, SpanLoss, SubscriptionKind,
    },
    series::{CountReading, Counter, Histogram, PerLabel, Reading, ShardedCounter},
};
use crate::error::Reason;

/// Upper bounds for the duration of a call, in seconds.
const CALL_SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];
/// Upper bounds for the steps of a publish and of a delivery, in seconds.
const STEP_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Upper bounds for numbers of messages.
const MESSAGES: &[f64] = &[0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];

macro_rules! declare {
    ($($(#[doc = $about:literal])+ $group:ident($($argument:ident: $argument_type:ty)?) {
        $($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal, $make:expr;)+
    })+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug)]
            pub(crate) struct $group { $($(#[doc = $help])+ pub $field: $kind,)+ }

            impl $group {
                pub(crate) fn new($($argument: $argument_type)?) -> Self {
                    Self { $($field: $make,)+ }
                }

                fn register(&self, registry: &mut Registry) {
                    $(register(registry, $name, concat!($($help),+), self.$field.clone());)+
                }
            }
        )+
    };
}

// the full stop of a help text is added when it is encoded
declare! {
    /// The calls of the main port.
    CallMetrics(methods: &ServedMethods) {
        /// Calls that began
        started: PerMethod<Counter> = "grpc_server_started_total", PerMethod::new(methods, Counter::default);
        /// Calls that ended, by the status that the client got; `Canceled` for a call that the client gave up
        handled: PerMethodAndCode = "grpc_server_handled_total", PerMethodAndCode::new(methods);
        /// Seconds from the arrival of a call to the end of its answer; for a stream its whole life
        handling: PerMethod<Histogram> = "grpc_server_handling_seconds",
            PerMethod::new(methods, || Histogram::of_durations(CALL_SECONDS));
        /// Calls that are open now
        open: PerMethod<Reading> = "unibus_open_calls", PerMethod::new(methods, Reading::default);
        /// Errors that clients got, by their reason in `ErrorInfo`: as the status of a call, for one message of a
        /// stream or batch, or for one command of a Consume stream
        errors: PerLabel<Reason, Counter> = "unibus_errors_total", PerLabel::default();
        /// Requests of the HTTP endpoints on the main port, by the class of the answer
        http_requests: PerLabel<HttpClass, Counter> = "unibus_http_requests_total", PerLabel::default();
        /// Seconds from the arrival of an HTTP request to the end of its answer
        http_seconds: Histogram = "unibus_http_request_seconds", Histogram::of_durations(CALL_SECONDS);
    }

    /// The connections of clients to the main port.
    ConnectionMetrics() {
        /// Connections of clients that were accepted and got a place
        opened: Counter = "unibus_connections_opened_total", Counter::default();
        /// Connections of clients that ended, of those that had a place
        closed: Counter = "unibus_connections_closed_total", Counter::default();
        /// Connections of clients that were closed before they were served
        refused: PerLabel<RefusedConnection, Counter> = "unibus_connections_refused_total", PerLabel::default();
    }

    /// The credentials of callers.
    AuthMetrics() {
        /// Credentials of calls: tokens whose signature was verified, tokens that were verified earlier (`cached`),
        /// client certificates, expired and other refused credentials. Nothing is counted with `--auth off`
        credentials: PerLabel<CredentialsResult, Counter> = "unibus_credentials_total", PerLabel::default();
    }

    /// The way of messages into NATS.
    PublishMetrics() {
        /// Messages that were stored, or sent in an ephemeral room
        messages: PerLabel<RoomKind, Counter> = "unibus_published_messages_total", PerLabel::default();
        /// Bytes of payloads, headers and message ids of the messages in `unibus_published_messages_total`
        bytes: PerLabel<RoomKind, Counter> = "unibus_published_bytes_total", PerLabel::default();
        /// Messages that were not stored, because a message with the same id was stored earlier
        duplicates: Counter = "unibus_publish_duplicates_total", Counter::default();
        /// Seconds that publishes waited in the queue of their room. Messages that are sent together count once, with
        /// the wait of the oldest
        queue_wait: Histogram = "unibus_publish_queue_wait_seconds", Histogram::of_durations(STEP_SECONDS);
        /// Seconds from the sending of messages to the acknowledgement of JetStream. Messages that are acknowledged
        /// together count once
        ack: Histogram = "unibus_jetstream_ack_seconds", Histogram::of_durations(STEP_SECONDS);
    }

    /// The way of messages to subscribers.
    DeliveryMetrics() {
        /// Messages that were written to subscriptions
        messages: ShardedCounter = "unibus_delivered_messages_total", ShardedCounter::default();
        /// Bytes of the encoded messages in `unibus_delivered_messages_total`
        bytes: ShardedCounter = "unibus_delivered_bytes_total", ShardedCounter::default();
        /// Seconds from the time at which NATS stored a message until it was handed to a subscription that has caught
        /// up. A sample: the oldest message of a batch, and for each subscription at most one in 10 ms
        delay: Histogram = "unibus_delivery_delay_seconds", Histogram::of_durations(STEP_SECONDS);
        /// Gaps that were reported to subscriptions
        gaps: PerLabel<MissingBecause, Counter> = "unibus_gaps_total", PerLabel::default();
        /// Sequences or messages that these gaps name
        missing: PerLabel<MissingBecause, Counter> = "unibus_gap_messages_total", PerLabel::default();
        /// Subscriptions that were opened
        opened: PerLabel<SubscriptionKind, Counter> = "unibus_subscriptions_opened_total", PerLabel::default();
        /// Subscriptions that ended
        closed: PerLabel<SubscriptionKind, Counter> = "unibus_subscriptions_closed_total", PerLabel::default();
        /// Subscriptions of durable subscribers that ended because a newer one took over
        take_overs: Counter = "unibus_take_overs_total", Counter::default();
        /// Messages that an open subscription is behind the newest one that the instance knows in its room. Each scrape
        /// adds one value for each open subscription
        lag: Histogram = "unibus_subscription_lag_messages", Histogram::of_numbers(MESSAGES);
        /// The largest lag of an open subscription now
        lag_max: Reading = "unibus_subscription_lag_max_messages", Reading::default();
        /// Open subscriptions now
        open: PerLabel<SubscriptionKind, Reading> = "unibus_open_subscriptions", PerLabel::default();
        /// Rooms that the instance reads for its subscriptions now
        active_rooms: Reading = "unibus_active_rooms", Reading::default();
    }

    /// The connections to NATS, and the requests to JetStream.
    NatsMetrics() {
        /// Whether the connection to NATS stands. A connection that was never needed has no series
        connected: PerLabel<NatsLink, Reading> = "unibus_nats_connected", PerLabel::default();
        /// Connections to NATS that were made; the first one too
        connects: PerLabel<NatsLink, Counter> = "unibus_nats_connects_total", PerLabel::default();
        /// Connections to NATS that were lost
        disconnects: PerLabel<NatsLink, Counter> = "unibus_nats_disconnects_total", PerLabel::default();
        /// Times that the NATS client dropped messages because the service did not take them fast enough
        slow_consumers: PerLabel<NatsLink, Counter> = "unibus_nats_slow_consumers_total", PerLabel::default();
        /// Errors that a NATS server reported on a connection
        server_errors: PerLabel<NatsLink, Counter> = "unibus_nats_server_errors_total", PerLabel::default();
        /// Requests to the API of JetStream; `PUBLISH`: messages, or messages that are answered together. The writes of
        /// the registry are not counted
        requests: PerLabel<NatsApi, Counter> = "unibus_jetstream_requests_total", PerLabel::default();
        /// Requests to JetStream that failed. `refused` includes answers that the service expects, such as a missing
        /// consumer
        errors: PerLabel<(NatsApi, NatsFailure), Counter> = "unibus_jetstream_errors_total", PerLabel::default();
        /// Seconds until JetStream answered a request, publishes aside
        request_seconds: Histogram = "unibus_jetstream_request_seconds", Histogram::of_durations(STEP_SECONDS);
        /// Times that the embedded nats-server was started again
        restarts: CountReading = "unibus_nats_server_restarts_total", CountReading::default();
        /// Free bytes on the disk of the data directory of the embedded nats-server
        disk_free: Reading = "unibus_disk_free_bytes", Reading::default();
        /// Bytes of this disk
        disk_size: Reading = "unibus_disk_size_bytes", Reading::default();
        /// Free bytes on this disk below which publishes are refused
        disk_reserve: Reading = "unibus_disk_reserve_bytes", Reading::default();
        /// Whether publishes are refused because the NATS server, its account or the disk has no storage left
        storage_full: Reading = "unibus_storage_full", Reading::default();
    }

    /// The export of traces.
    TraceMetrics() {
        /// Spans that the collector has taken
        exported: Counter = "unibus_trace_spans_exported_total", Counter::default();
        /// Spans that were lost: too many waited (`queue`), or the collector did not take them (`export`)
        lost: PerLabel<SpanLoss, Counter> = "unibus_trace_spans_lost_total", PerLabel::default();
    }

    /// What the instance holds now.
    UsageMetrics() {
        /// Whether the instance is ready, as `/readyz` says
        ready: Reading = "unibus_ready", Reading::default();
        /// Rooms in the registry
        rooms: Reading = "unibus_rooms", Reading::default();
        /// Rooms with publishes that wait or are under way
        queues: Reading = "unibus_publish_queues", Reading::default();
        /// Messages in the queues of all rooms
        queued_messages: Reading = "unibus_publish_queued_messages", Reading::default();
        /// Bytes of the messages in the queues of all rooms
        queued_bytes: Reading = "unibus_publish_queued_bytes", Reading::default();
        /// The used part of the queue that is closest to its bounds, from 0 to 1
        fullest_queue: Reading = "unibus_publish_queue_fullest_ratio", Reading::default();
        /// What is in use of a limit of the instance
        limit_used: PerLabel<InstanceLimit, Reading> = "unibus_limit_used", PerLabel::default();
        /// The limit
        limit_max: PerLabel<InstanceLimit, Reading> = "unibus_limit_max", PerLabel::default();
        /// 1, with the version of the service
        build_info: BuildInfo = "unibus_build_info", BuildInfo;
    }

    /// The process. The names are those of all Prometheus clients.
    ProcessMetrics() {
        /// CPU seconds of the process, in user and system mode
        cpu_seconds: CountReading = "process_cpu_seconds_total", CountReading::default();
        /// Bytes of memory of the process that are in RAM
        resident_bytes: Reading = "process_resident_memory_bytes", Reading::default();
        /// Bytes of virtual memory of the process
        virtual_bytes: Reading = "process_virtual_memory_bytes", Reading::default();
        /// Open file descriptors of the process
        open_fds: Reading = "process_open_fds", Reading::default();
        /// File descriptors that the process may open
        max_fds: Reading = "process_max_fds", Reading::default();
        /// Threads of the process
        threads: Reading = "process_threads", Reading::default();
        /// When the process started, in seconds since 1970
        start_time: Reading = "process_start_time_seconds", Reading::default();
    }
}

fn register(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    let name = match metric.metric_type() {
        // the suffix is added when the metric is encoded
        MetricType::Counter => name.strip_suffix("_total").unwrap_or(name),
        MetricType::Gauge | MetricType::Histogram | MetricType::Info | MetricType::Unknown => name,
    };
    registry.register(name, help.trim_ascii(), metric);
}

/// The version of the service.
#[derive(Clone, Debug)]
pub(crate) struct BuildInfo;

impl EncodeMetric for BuildInfo {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        encoder.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1_u64)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// All metrics of one instance. There is no global state: several instances in one process have metrics of their own.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub methods: ServedMethods,
    pub calls: Arc<CallMetrics>,
    pub connections: Arc<ConnectionMetrics>,
    pub auth: Arc<AuthMetrics>,
    pub publish: Arc<PublishMetrics>,
    pub delivery: Arc<DeliveryMetrics>,
    pub nats: Arc<NatsMetrics>,
    pub traces: Arc<TraceMetrics>,
    pub usage: UsageMetrics,
    process: ProcessMetrics,
    registry: Registry,
}

/// The text format of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
    /// `OpenMetrics`, version 1.0.0.
    OpenMetrics,
}

impl MetricsFormat {
    /// The format for a client that sends this `accept` header.
    pub(crate) fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Metrics {
    /// The metrics of an instance that serves these `methods`.
    pub(crate) fn new(methods: ServedMethods) -> Self {
        let metrics = Self {
            calls: Arc::new(CallMetrics::new(&methods)),
            methods,
            connections: Arc::new(ConnectionMetrics::new()),
            auth: Arc::new(AuthMetrics::new()),
            publish: Arc::new(PublishMetrics::new()),
            delivery: Arc::new(DeliveryMetrics::new()),
            nats: Arc::new(NatsMetrics::new()),
            traces: Arc::new(TraceMetrics::new()),
            usage: UsageMetrics::new(),
            process: ProcessMetrics::new(),
            registry: Registry::default(),
        };
        let mut registry = Registry::default();
        metrics.calls.register(&mut registry);
        metrics.connections.register(&mut registry);
        metrics.auth.register(&mut registry);
        metrics.publish.register(&mut registry);
        metrics.delivery.register(&mut registry);
        metrics.nats.register(&mut registry);
        metrics.traces.register(&mut registry);
        metrics.usage.register(&mut registry);
        metrics.process.register(&mut registry);
        Self { registry, ..metrics }
    }

    /// All metrics as text. Reads what the metrics themselves can read; every other `Reading` was set before.
    pub(crate) fn encode(&self, format: MetricsFormat) -> String {
        self.calls.read_open(&self.methods);
        self.delivery.read_open();
        process::read(&self.process);
        let mut encoded = String::new();
        // writing to a `String` does not fail
        let _ = match format {
            MetricsFormat::Prometheus => prometheus_text::encode(&mut encoded, &self.registry),
            MetricsFormat::OpenMetrics => text::encode(&mut encoded, &self.registry),
        };
        encoded
    }
}

impl CallMetrics {
    /// Sets the number of open calls.
    fn read_open(&self, methods: &ServedMethods) {
        for method in methods.indexes() {
            // in this order, so that a call that ends in between is not counted below 0
            let ended = self.handled.sum(method);
            if let (Some(started), Some(open)) = (self.started.of(method), self.open.of(method)) {
                open.set_number(started.get().saturating_sub(ended));
            }
        }
    }
}

impl DeliveryMetrics {
    /// Sets the number of open subscriptions.
    fn read_open(&self) {
        for kind in [SubscriptionKind::Durable, SubscriptionKind::Transient, SubscriptionKind::Ephemeral] {
            let closed = self.closed.of(kind).map_or(0, Counter::get);
            let opened = self.opened.of(kind).map_or(0, Counter::get);
            self.open.set_number(kind, opened.saturating_sub(closed));
        }
    }

    /// Counts a subscription until the result is dropped.
    pub(crate) fn open(self: &Arc<Self>, kind: SubscriptionKind) -> OpenSubscription {
        self.opened.inc(kind);
        OpenSubscription { metrics: Arc::clone(self), kind }
    }
}

/// An open subscription. Dropping it ends the count.
#[derive(Debug)]
pub(crate) struct OpenSubscription {
    metrics: Arc<DeliveryMetrics>,
    kind: SubscriptionKind,
}

impl Drop for OpenSubscription {
    fn drop(&mut self) {
        self.metrics.closed.inc(self.kind);
    }
}

impl ConnectionMetrics {
    /// Counts a connection until the result is dropped.
    pub(crate) fn open(self: &Arc<Self>) -> OpenConnection {
        self.opened.inc();
        OpenConnection(Arc::clone(self))
    }

    /// The number of open connections.
    pub(crate) fn open_now(&self) -> u64 {
        let closed = self.closed.get();
        self.opened.get().saturating_sub(closed)
    }
}

/// An open connection. Dropping it ends the count.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<ConnectionMetrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.closed.inc();
    }
}

impl NatsMetrics {
    /// Counts a failed request.
    pub(crate) fn failed(&self, api: NatsApi, failure: NatsFailure) {
        self.errors.inc((api, failure));
    }
}
