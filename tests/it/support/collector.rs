//! A collector of traces that shows what it was given.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, transport::Server};

use super::eventually;

/// How long spans may take to arrive.
const SOON: Duration = Duration::from_secs(20);

/// Receives OTLP over gRPC on a free port.
pub(crate) struct Collector {
    address: SocketAddr,
    received: Received,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::start_on(0).await
    }

    /// A collector on this port; 0: on a free one.
    pub(crate) async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Received::default());
        let server = Server::builder().add_service(TraceServiceServer::new(received.clone()));
        let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
        let serving = AbortOnDropHandle::new(tokio::spawn(async move { serving.await.expect("a server") }));
        Self { address, received, _serving: serving }
    }

    /// What `--otlp-endpoint` takes.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that has arrived, as text: the fields, and the bytes.
    pub(crate) fn everything(&self) -> Vec<String> {
        let received = self.received.0.lock().unwrap();
        let texts = received.iter().flat_map(|request| {
            [format!("{request:?}"), String::from_utf8_lossy(&request.encode_to_vec()).into_owned()]
        });
        texts.collect()
    }

    /// The attributes of those who sent spans.
    pub(crate) fn resources(&self) -> Vec<BTreeMap<String, String>> {
        let received = self.received.0.lock().unwrap();
        let spans = received.iter().flat_map(|request| &request.resource_spans);
        spans.map(|spans| attributes(&spans.resource.as_ref().expect("a resource").attributes)).collect()
    }

    /// The spans that have arrived.
    pub(crate) fn spans(&self) -> Vec<Collected> {
        let received = self.received.0.lock().unwrap();
        let spans = received.iter().flat_map(|request| &request.resource_spans);
        spans.flat_map(|spans| &spans.scope_spans).flat_map(|spans| &spans.spans).map(Collected::new).collect()
    }

    /// Waits until a trace has a span of a call with this name, and this number of spans; all spans of the trace.
    pub(crate) async fn trace(&self, id: &str, call: &str, count: usize) -> Trace {
        eventually(SOON, async || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace_id == id);
            let has_call = spans.iter().any(|span| span.name == call);
            if has_call && spans.len() >= count { Ok(Trace(spans)) } else { Err(format!("{call}: {spans:#?}")) }
        })
        .await
    }
}

/// A span that has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Collected {
    pub(crate) name: String,
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    /// Empty: none.
    pub(crate) parent_id: String,
    pub(crate) trace_state: String,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) is_error: bool,
    /// In nanoseconds.
    pub(crate) time: (u64, u64),
}

impl Collected {
    fn new(span: &Span) -> Self {
        assert_eq!((span.events.len(), span.links.len()), (0, 0), "{span:?}");
        Self {
            name: span.name.clone(),
            trace_id: hexadecimal(&span.trace_id),
            span_id: hexadecimal(&span.span_id),
            parent_id: hexadecimal(&span.parent_span_id),
            trace_state: span.trace_state.clone(),
            attributes: attributes(&span.attributes),
            is_error: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
        }
    }
}

/// The spans of a trace.
#[derive(Clone, Debug)]
pub(crate) struct Trace(pub(crate) Vec<Collected>);

impl Trace {
    /// The one span with this name.
    #[track_caller]
    pub(crate) fn one(&self, name: &str) -> &Collected {
        let found: Vec<_> = self.0.iter().filter(|span| span.name == name).collect();
        assert_eq!(found.len(), 1, "{name}: {self:#?}");
        found[0]
    }

    /// The names of the parts of the one span with this name, in order.
    #[track_caller]
    pub(crate) fn parts_of(&self, name: &str) -> Vec<&str> {
        let id = &self.one(name).span_id;
        let mut parts: Vec<_> = self.0.iter().filter(|span| span.parent_id == *id).collect();
        parts.sort_by_key(|span| span.time);
        parts.into_iter().map(|span| span.name.as_str()).collect()
    }
}

fn hexadecimal(id: &[u8]) -> String {
    id.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{}: {other:?}", pair.key),
    };
    pairs.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}
