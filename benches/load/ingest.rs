//! Fast ingest of JetStream (ADR-50): a batch of messages on one connection with cumulative acknowledgements.
//!
//! The reply subject of each message controls the batch: `<inbox>.<batch>.<flow>.fail.<sequence>.<operation>.$FI`. The
//! server reports every few messages that all messages up to a sequence of the batch are stored. The last message of a
//! batch is empty and is not stored. Its answer has the number of stored messages.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::{self, stream::Config};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use serde::Deserialize;

use crate::{
    measure::{PATIENCE, Turn, within},
    native,
};

/// The most messages between two acknowledgements that the server accepts.
const FLOW_MAX: u64 = 500;

/// What a message does with its batch.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Start = 0,
    Append = 1,
    /// Ends the batch without a message.
    End = 3,
}

/// An answer of the server. Its fields tell its kind.
#[derive(Debug, Deserialize)]
struct Answer {
    /// `ack`, `gap` or `err`; missing in the answer to the last message.
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    seq: u64,
    /// The number of stored messages, in the answer to the last message.
    count: Option<u64>,
    error: Option<serde_json::Value>,
}

/// Creates a file-backed stream for one subject that accepts such batches, with the other settings of the service.
pub(crate) async fn create_stream(context: &jetstream::Context, name: &str, subject: &str) -> Result<()> {
    native::create_stream(context, name, subject, None).await?;
    allow(context, name).await
}

/// Makes a stream accept such batches.
pub(crate) async fn allow(context: &jetstream::Context, name: &str) -> Result<()> {
    let current = context.get_stream(name).await?.cached_info().config.clone();
    context.update_stream(Config { allow_batch_publish: true, ..current }).await?;
    Ok(())
}

/// Turns of one batch each.
pub(crate) fn turns(
    context: jetstream::Context,
    subject: &str,
    payload: Bytes,
    (duration, most): (Duration, u64),
    window: u64,
) -> impl FnMut() -> BoxFuture<'static, Result<Turn>> + use<> {
    let subject = subject.to_owned();
    move || {
        let (context, subject, payload) = (context.clone(), subject.clone(), payload.clone());
        Box::pin(async move {
            let started = Instant::now();
            let stored = batch(&context, &subject, &payload, (duration, most), window).await?;
            Ok(Turn::rate(stored, started.elapsed()))
        })
    }
}

/// Stores messages for `duration`, at most `most` of them, in one batch, with at most `window` that are not reported
/// as stored. Returns their number.
pub(crate) async fn batch(
    context: &jetstream::Context,
    subject: &str,
    payload: &Bytes,
    (duration, most): (Duration, u64),
    window: u64,
) -> Result<u64> {
    let client = context.client();
    let inbox = client.new_inbox();
    let name = inbox.rsplit('.').next().unwrap_or_default().to_owned();
    let flow = (window / 4).clamp(1, FLOW_MAX);
    let reply =
        |sequence: u64, operation: Operation| format!("{inbox}.{name}.{flow}.fail.{sequence}.{}.$FI", operation as u8);
    let mut answers = client.subscribe(format!("{inbox}.>")).await?;
    let started = Instant::now();
    let (mut sent, mut stored) = (0, 0);
    while sent < most && (sent == 0 || started.elapsed() < duration) {
        while sent - stored >= window {
            let answer = within(PATIENCE, "an acknowledgement", next(&mut answers)).await?;
            ensure!(answer.kind.as_deref() == Some("ack"), "the batch ended early: {answer:?}");
            stored = stored.max(answer.seq);
        }
        let operation = if sent == 0 { Operation::Start } else { Operation::Append };
        sent += 1;
        client.publish_with_reply(subject.to_owned(), reply(sent, operation), payload.clone()).await?;
    }
    client.publish_with_reply(subject.to_owned(), reply(sent + 1, Operation::End), Bytes::new()).await?;
    let last = async {
        loop {
            if let Some(count) = next(&mut answers).await?.count {
                return Ok(count);
            }
        }
    };
    let count = within(PATIENCE, "the end of the batch", last).await?;
    ensure!(count == sent, "{count} messages are stored instead of {sent}");
    Ok(sent)
}

async fn next(answers: &mut async_nats::Subscriber) -> Result<Answer> {
    let message = answers.next().await.context("the connection is gone")?;
    let answer: Answer = serde_json::from_slice(&message.payload)
        .with_context(|| String::from_utf8_lossy(&message.payload).into_owned())?;
    if answer.error.is_some() || matches!(answer.kind.as_deref(), Some("gap" | "err")) {
        bail!("fast ingest: {}", String::from_utf8_lossy(&message.payload));
    }
    Ok(answer)
}
