//! What tracing costs: Publish one at a time and with many calls under way, and live fan-out, all with 256 B.
//!
//! Three instances of the service share nats-server: one without traces, which is the baseline, one that traces each call, and
//! one that traces one call of a hundred. The spans go to a collector in the load generator, which decodes and drops them. Its
//! CPU time is the generator's. A Publish has three spans. A subscription has its spans when it opens and when it ends, so
//! the fan-out shows that messages to open subscriptions cost nothing more.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::{CALLERS, fan_out, publish_many::callers};
use crate::{
    client::{self, PAYLOAD_BYTES},
    crowd::Crowd,
    measure::{Measured, Scale, Side, Turn, in_turns, one_at_a_time},
    native,
    processes::{Disk, Nats, Service},
    report::{Line, Outcome, Unit},
};

const CONNECTIONS: usize = 4;
const NAMES: [&str; 3] = ["unibus", "unibus, all traced", "unibus, 1 in 100 traced"];
/// The baseline of each line.
const OFF: &str = "traces off";

pub(crate) async fn run(scale: Scale) -> Result<Outcome> {
    let nats = Nats::start(Disk::Interval).await?;
    let sink = Sink::start().await?;
    let all = ["--otlp-endpoint", &sink.url];
    let some = ["--otlp-endpoint", &sink.url, "--otlp-sample", "0.01"];
    let services = [
        Service::with_flags(&nats, &[]).await?,
        Service::with_flags(&nats, &all).await?,
        Service::with_flags(&nats, &some).await?,
    ];
    let [off, ..] = &services;
    client::create_room(&client::channel(off.url()).await?, "one").await?;
    let mut outcome = Outcome::default();

    let measured = in_turns(&scale, publishing(&nats, &services, &scale).await?).await?;
    let claim = "Publish, one at a time";
    add(&mut outcome, claim, &measured, "p50", &format!("{claim}, p50"), Unit::Seconds)?;

    let mut sides = Vec::new();
    for (name, service) in NAMES.into_iter().zip(&services) {
        let work = callers(service.url(), vec!["one".to_owned()], scale).await?;
        sides.push(Side::new(name, &processes(&nats, service), work));
    }
    let measured = in_turns(&scale, three(sides)?).await?;
    let claim = format!("Publish, {CALLERS} under way on {CONNECTIONS} connections");
    add(&mut outcome, &claim, &measured, "rate", &claim, Unit::PerSecond)?;

    let size = scale.pick(100, 10);
    let measured = in_turns(&scale, fanning_out(&nats, &services, &scale, size).await?).await?;
    let claim = format!("live fan-out to {size}");
    add(&mut outcome, &claim, &measured, "rate", &claim, Unit::PerSecond)?;
    ensure!(sink.spans.load(Relaxed) > 0, "no span has arrived");
    Ok(outcome)
}

/// Adds the lines of both ways of tracing beside no tracing: of the figure, and of the CPU seconds of the service.
fn add(
    outcome: &mut Outcome,
    what: &str,
    measured: &[Measured; 3],
    figure: &str,
    claim: &str,
    unit: Unit,
) -> Result<()> {
    let [off, all, some] = measured;
    outcome.spent(what, &[off, all, some]);
    for (traced, side) in [("all traced", all), ("1 in 100 traced", some)] {
        let claim = format!("{claim}, {traced}");
        outcome.lines.push(Line::new(claim, unit, side.figure(figure)?, (OFF, off.figure(figure)?)));
        let claim = format!("{what}, {traced}, CPU of the service for a million");
        let (ours, beside) = (side.cpu_of(&["service"])?, (OFF, off.cpu_of(&["service"])?));
        outcome.lines.push(Line::new(claim, Unit::CpuSeconds, ours, beside));
    }
    Ok(())
}

fn processes(nats: &Nats, service: &Service) -> [(&'static str, u32); 2] {
    [("service", service.id()), ("nats", nats.id())]
}

fn three(sides: Vec<Side>) -> Result<[Side; 3]> {
    sides.try_into().map_err(|_| anyhow::anyhow!("not three sides"))
}

/// A closed loop of one caller on each instance.
async fn publishing(nats: &Nats, services: &[Service; 3], scale: &Scale) -> Result<[Side; 3]> {
    let (turn, message) = (scale.turn / 2, client::message("one", &client::payload(PAYLOAD_BYTES)));
    let mut sides = Vec::new();
    for (name, service) in NAMES.into_iter().zip(services) {
        let client = client::Client::new(client::channel(service.url()).await?);
        let message = message.clone();
        let work = move || {
            let (client, message) = (client.clone(), message.clone());
            one_at_a_time(turn, move || {
                let (mut client, message) = (client.clone(), message.clone());
                async move { client::publish(&mut client, message).await }
            })
        };
        sides.push(Side::new(name, &processes(nats, service), work));
    }
    three(sides)
}

/// The closed loop of `fan_out.rs` on each instance, in a room of its own.
async fn fanning_out(nats: &Nats, services: &[Service; 3], scale: &Scale, size: usize) -> Result<[Side; 3]> {
    let (duration, window) = (scale.turn, (250_000 / size as u64).clamp(128, 2048));
    let context = native::connect(nats).await?;
    let payload = client::payload(PAYLOAD_BYTES);
    let mut sides = Vec::new();
    for ((name, service), room) in NAMES.into_iter().zip(services).zip(["off", "all", "some"]) {
        let channels = client::channels(service.url(), CONNECTIONS).await?;
        client::create_room(&client::channel(service.url()).await?, room).await?;
        let crowd = Arc::new(Crowd::open(&channels, room, size, true).await?);
        let (stream, subject) = (client::stream_name(room), client::subject(room));
        let publish = fan_out::Publish::natively(&context, &stream, &subject, &payload);
        let work = move || {
            let (crowd, publish) = (Arc::clone(&crowd), publish.clone());
            async move {
                let (messages, elapsed) = fan_out::looped(&crowd, &publish, duration, window).await?;
                Ok(Turn::rate(messages * size as u64, elapsed))
            }
        };
        sides.push(Side::new(name, &processes(nats, service), work));
    }
    three(sides)
}

/// A collector that drops what it gets. It ends when it is dropped.
struct Sink {
    url: String,
    spans: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

struct DropSpans(Arc<AtomicU64>);

#[tonic::async_trait]
impl TraceService for DropSpans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let spans = request.get_ref().resource_spans.iter().flat_map(|of_resource| &of_resource.scope_spans);
        self.0.fetch_add(spans.map(|of_scope| of_scope.spans.len() as u64).sum(), Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Sink {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (url, spans) = (format!("http://{}", listener.local_addr()?), Arc::<AtomicU64>::default());
        let server = Server::builder().add_service(TraceServiceServer::new(DropSpans(Arc::clone(&spans))));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // it ends with the program
            let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
        });
        Ok(Self { url, spans, _serving: serving })
    }
}
