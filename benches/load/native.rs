//! NATS without the service: what the direct baselines are made of.

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

/// JetStream over a connection of its own, with room for every window that is used here.
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

/// A stream on files for one subject, as the service makes them.
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

/// Returns when the server has taken what this connection sent before, subscriptions above all.
pub(crate) async fn settled(client: &async_nats::Client) {
    // async-nats's flush ends at the socket; a question that nobody answers comes back from the server
    let _ = client.request("nobody.listens.here", Bytes::new()).await;
}

/// Sequence of the newest message that a stream has stored.
pub(crate) async fn last_sequence(context: &jetstream::Context, stream: &str) -> Result<u64> {
    Ok(context.get_stream(stream).await?.cached_info().state.last_sequence)
}

/// Returns when a stream has stored everything up to this sequence. Core subscriptions are told of a message before it
/// is stored, so without this a publisher that follows them would leave that work to whatever comes next.
pub(crate) async fn stored(context: &jetstream::Context, stream: &str, sequence: u64) -> Result<()> {
    let all = async {
        while last_sequence(context, stream).await? < sequence {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    within(PATIENCE, "storing what was published", all).await
}

/// Stores so many messages, pipelined.
pub(crate) async fn fill(context: &jetstream::Context, subject: &str, payload: &Bytes, count: u64) -> Result<()> {
    windowed(Duration::from_secs(60), count, 1024, |_| send(context, subject.to_owned(), payload.clone())).await?;
    Ok(())
}

/// Publishes with this window on each connection, to one subject after the other: the figure `rate`.
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

/// Where a publisher's message goes, of so many places: a step that meets every place, from another one for each.
pub(crate) fn spread(publisher: usize, number: u64, places: usize) -> usize {
    // the step is a prime, and so has no factor in common with the number of places
    (publisher * 17 + number as usize * 7919) % places.max(1)
}

/// Sends one message; what is given back waits for its acknowledgement.
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
