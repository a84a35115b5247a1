//! NATS without the service, for the direct baselines.

use std::time::Duration;

use anyhow::Result;
use async_nats::jetstream::{
    self,
    context::ContextBuilder,
    stream::{Config, Republish, Stream},
};
use bytes::Bytes;

use crate::{
    measure::{PATIENCE, Turn, windowed, within},
    processes::Nats,
};

/// JetStream over a new connection, with buffers for every window that the rows use.
pub(crate) async fn connect(nats: &Nats) -> Result<jetstream::Context> {
    let client = async_nats::connect(nats.url()).await?;
    Ok(ContextBuilder::new().timeout(Duration::from_secs(10)).max_ack_inflight(16_384).build(client))
}

pub(crate) async fn connections(nats: &Nats, count: usize) -> Result<Vec<jetstream::Context>> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(connect(nats).await?);
    }
    Ok(connections)
}

/// Creates a file-backed stream for one subject, with the settings of the service.
pub(crate) async fn create_stream(
    context: &jetstream::Context,
    name: &str,
    subject: &str,
    republish: Option<Republish>,
) -> Result<Stream> {
    let config = Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        max_consumers: 100_000,
        allow_direct: true,
        republish,
        ..Config::default()
    };
    context.create_stream(config).await?;
    Ok(context.get_stream(name).await?)
}

/// Waits until the server has processed everything that this connection sent before, such as subscriptions.
pub(crate) async fn settled(client: &async_nats::Client) {
    // the flush of async-nats ends at the socket; a request without a responder gets an answer from the server
    let _ = client.request("nobody.listens.here", Bytes::new()).await;
}

/// The sequence of the newest message in a stream.
pub(crate) async fn last_sequence(context: &jetstream::Context, stream: &str) -> Result<u64> {
    Ok(context.get_stream(stream).await?.cached_info().state.last_sequence)
}

/// Waits until a stream has stored all messages up to `sequence`. A core subscription receives a message before it is
/// stored. So without this wait, a publisher that follows core subscriptions would leave the storing to the next turn.
pub(crate) async fn stored(context: &jetstream::Context, stream: &str, sequence: u64) -> Result<()> {
    let all = async {
        while last_sequence(context, stream).await? < sequence {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    within(PATIENCE, "storing what was published", all).await
}

/// Stores `count` messages, pipelined.
pub(crate) async fn fill(context: &jetstream::Context, subject: &str, payload: &Bytes, count: u64) -> Result<()> {
    windowed(Duration::from_secs(60), count, 1024, |_| send(context, subject.to_owned(), payload.clone())).await?;
    Ok(())
}

/// Publishes to one subject after the other, with a window on each connection. Returns the figure `rate`.
pub(crate) async fn publish_windowed(
    connections: Vec<jetstream::Context>,
    subjects: std::sync::Arc<Vec<String>>,
    payload: Bytes,
    (duration, most): (Duration, u64),
    window: usize,
) -> Result<Turn> {
    let started = std::time::Instant::now();
    let mut publishers = tokio::task::JoinSet::new();
    for (first, context) in connections.into_iter().enumerate() {
        let (subjects, payload) = (std::sync::Arc::clone(&subjects), payload.clone());
        publishers.spawn(async move {
            let send = |number: u64| {
                let at = spread(first, number, subjects.len());
                send(&context, subjects.get(at).cloned().unwrap_or_default(), payload.clone())
            };
            windowed(duration, most, window, send).await
        });
    }
    let mut total = 0;
    while let Some(done) = publishers.join_next().await {
        total += done??.0;
    }
    Ok(Turn::rate(total, started.elapsed()))
}

/// The index, below `places`, for message `number` of `publisher`. A publisher visits every index before it repeats
/// one, and each publisher starts at another index.
pub(crate) fn spread(publisher: usize, number: u64, places: usize) -> usize {
    // the step is a prime, and so has no factor in common with the number of places
    (publisher * 17 + number as usize * 7919) % places.max(1)
}

/// Sends one message, and returns the future of its acknowledgement.
pub(crate) async fn send(
    context: &jetstream::Context,
    subject: String,
    payload: Bytes,
) -> Result<impl Future<Output = Result<()>> + use<>> {
    let acknowledgement = context.publish(subject, payload).await?;
    Ok(async move {
        acknowledgement.await?;
        Ok(())
    })
}

/// Publishes one message and waits until it is stored.
pub(crate) async fn publish(context: &jetstream::Context, subject: &str, payload: &Bytes) -> Result<()> {
    send(context, subject.to_owned(), payload.clone()).await?.await
}
