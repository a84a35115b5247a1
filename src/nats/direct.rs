//! Direct gets (ADR-31): reads many messages of a stream with one request, from any replica.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, header};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::json;
use tokio::time;

use super::{Nats, error::ApiError};
use crate::{
    limits::NATS_REQUEST_TIMEOUT,
    metrics::NatsApi,
    traces::{self, TraceStep},
};

/// The status of the last reply of a direct get.
const END_OF_BATCH: u16 = 204;

/// The answer of a direct get, in the order of the stream.
#[derive(Debug, Default)]
pub(crate) struct DirectAnswer {
    pub messages: Vec<Message>,
    /// Number of messages that the replica has after the last of these.
    pub pending: u64,
    /// The sequence up to which the replica knew the stream. Present only in answers for the last messages of
    /// subjects.
    pub up_to: Option<u64>,
}

impl Nats {
    /// Returns the messages that match `request`. Fails if no reply arrives for `silence_max`, or if the connection
    /// breaks.
    pub(crate) async fn direct_get(
        &self,
        stream: &str,
        request: &(impl Serialize + Sync),
        silence_max: Duration,
    ) -> Result<DirectAnswer, ApiError> {
        let (begun, span) = (time::Instant::now(), traces::step(TraceStep::JetStream(NatsApi::DirectGet)));
        // boxed, because it would make the futures of its callers larger
        let answer = Box::pin(self.read_directly(stream, request, silence_max)).await;
        self.count(NatsApi::DirectGet, begun, &answer, span);
        answer
    }

    async fn read_directly(
        &self,
        stream: &str,
        request: &(impl Serialize + Sync),
        silence_max: Duration,
    ) -> Result<DirectAnswer, ApiError> {
        self.ready().await.map_err(|_| ApiError::Disconnected)?;
        let mut connections = self.connections();
        connections.mark_unchanged();
        let body = serde_json::to_vec(request).map_err(|error| ApiError::Other(error.into()))?;
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(|error| ApiError::Other(error.into()))?;
        let request = self.client.publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, body.into());
        request.await.map_err(|error| ApiError::Other(error.into()))?;
        let mut found = DirectAnswer::default();
        let read = async {
            loop {
                let reply = tokio::select! {
                    biased;
                    reply = time::timeout(silence_max, replies.next()) => reply.map_err(|_| ApiError::TimedOut)?,
                    _ = connections.changed() => return Err(ApiError::Disconnected),
                };
                let Some(reply) = reply else { return Err(ApiError::Disconnected) };
                match reply.status {
                    None => found.messages.push(reply),
                    // no message matches
                    Some(StatusCode::NOT_FOUND) => return Ok(()),
                    Some(StatusCode::NO_RESPONDERS) => return Err(ApiError::NoResponders),
                    Some(status) if status.as_u16() == END_OF_BATCH => {
                        found.pending = number(reply.headers.as_ref(), "Nats-Num-Pending").unwrap_or(0);
                        found.up_to = number(reply.headers.as_ref(), "Nats-UpTo-Sequence");
                        return Ok(());
                    }
                    Some(status) => return Err(ApiError::Other(format!("status {status} for a direct get").into())),
                }
            }
        };
        time::timeout(NATS_REQUEST_TIMEOUT, read).await.map_err(|_| ApiError::TimedOut)??;
        Ok(found)
    }

    /// The last message of each subject, in no order. Subjects without messages are missing. At most 1024 subjects.
    pub(crate) async fn direct_get_last(&self, stream: &str, subjects: &[String]) -> Result<DirectAnswer, ApiError> {
        let request = json!({ "multi_last": subjects });
        self.direct_get(stream, &request, NATS_REQUEST_TIMEOUT).await
    }
}

/// Reads a number from the headers of an answer. The server appends its own headers to those of a stored message, so
/// the last value of a repeated name is the server's.
pub(crate) fn number(headers: Option<&HeaderMap>, name: impl header::IntoHeaderName) -> Option<u64> {
    headers?.get_last(name)?.as_str().parse().ok()
}
