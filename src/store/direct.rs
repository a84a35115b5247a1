//! Many values of a stream with one request: direct get of the last message of each subject (ADR-31).

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time;

use super::nats::{ApiError, Nats};
use crate::limits::NATS_REQUEST_TIMEOUT;

/// The status that ends what a direct get gives.
const END_OF_BATCH: u16 = 204;

impl Nats {
    /// The last message of each subject that has one, in no order; up to 1024 subjects.
    pub(super) async fn direct_get_last(&self, stream: &str, subjects: &[String]) -> Result<Vec<Message>, ApiError> {
        self.ready().await.map_err(|_| ApiError::Disconnected)?;
        let body =
            serde_json::to_vec(&json!({ "multi_last": subjects })).map_err(|error| ApiError::Other(error.into()))?;
        let inbox = self.client.new_inbox();
        let mut replies = self.client.subscribe(inbox.clone()).await.map_err(|error| ApiError::Other(error.into()))?;
        let request = self.client.publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, body.into());
        request.await.map_err(|error| ApiError::Other(error.into()))?;
        let read = async {
            let mut found = Vec::with_capacity(subjects.len());
            while let Some(reply) = replies.next().await {
                match reply.status {
                    None => found.push(reply),
                    // the end, or none of the subjects has a message
                    Some(StatusCode::NOT_FOUND) => return Ok(found),
                    Some(status) if status.as_u16() == END_OF_BATCH => return Ok(found),
                    Some(StatusCode::NO_RESPONDERS) => return Err(ApiError::NoResponders),
                    Some(status) => return Err(ApiError::Other(format!("status {status} for a direct get").into())),
                }
            }
            Err(ApiError::Disconnected)
        };
        time::timeout(NATS_REQUEST_TIMEOUT, read).await.map_err(|_| ApiError::TimedOut)?
    }
}
