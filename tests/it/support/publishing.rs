//! The ways to publish, behind one word each, so that they can be compared.

use tonic::{Code, Status};
use unibus::v1::{
    BatchMessage, PublishBatchRequest, PublishOutcome, PublishRequest, PublishResponse, PublishStreamRequest,
    publish_outcome, publish_stream_response,
};

use super::{Client, errors::status};

/// What became of one message.
pub(crate) type Outcome = Result<PublishResponse, Status>;

/// Publishes one after the other by unary calls.
pub(crate) async fn by_calls(client: &Client, requests: Vec<PublishRequest>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(requests.len());
    for request in requests {
        outcomes.push(client.clone().publish(request).await.map(tonic::Response::into_inner));
    }
    outcomes
}

/// Publishes by one stream, all at once; asserts that there is one response for each request, in order, and then OK.
pub(crate) async fn by_stream(client: &Client, requests: Vec<PublishRequest>) -> Vec<Outcome> {
    let outcomes = by_stream_until(client, requests.clone()).await;
    let (outcomes, end) = outcomes;
    assert_eq!(end.code(), Code::Ok, "{end:?}");
    assert_eq!(outcomes.len(), requests.len());
    outcomes
}

/// As [`by_stream`], for a stream that may break: the outcomes that came, and how it ended.
pub(crate) async fn by_stream_until(client: &Client, requests: Vec<PublishRequest>) -> (Vec<Outcome>, Status) {
    const FIRST_ID: u64 = 7_000;
    let requests = (FIRST_ID..).zip(requests);
    let requests = requests
        .map(|(correlation_id, publish)| PublishStreamRequest {
            correlation_id,
            publish: Some(publish),
            ..PublishStreamRequest::default()
        })
        .collect::<Vec<_>>();
    let mut responses = match client.clone().publish_stream(futures_util::stream::iter(requests)).await {
        Ok(responses) => responses.into_inner(),
        Err(status) => return (Vec::new(), status),
    };
    let mut outcomes = Vec::new();
    loop {
        match responses.message().await {
            Ok(Some(response)) => {
                assert_eq!(response.correlation_id, FIRST_ID + outcomes.len() as u64);
                outcomes.push(match response.outcome.expect("an outcome") {
                    publish_stream_response::Outcome::Result(result) => Ok(result),
                    publish_stream_response::Outcome::Error(error) => Err(status(&error)),
                    publish_stream_response::Outcome::Through(through) => panic!("nobody asked for {through:?}"),
                });
            }
            Ok(None) => return (outcomes, Status::new(Code::Ok, "")),
            Err(status) => return (outcomes, status),
        }
    }
}

/// A batch of these messages, which are all of one room.
pub(crate) fn batch(requests: Vec<PublishRequest>, atomic: bool) -> PublishBatchRequest {
    let room_id = requests.first().map(|request| request.room_id.clone()).unwrap_or_default();
    let messages = requests.into_iter().map(|request| BatchMessage {
        payload: request.payload,
        headers: request.headers,
        message_id: request.message_id,
        expected_last_sequence: request.expected_last_sequence,
        ttl: request.ttl,
    });
    PublishBatchRequest { room_id, messages: messages.collect(), atomic }
}

/// Publishes by one batch in which each message stands for itself.
pub(crate) async fn by_batch(client: &Client, requests: Vec<PublishRequest>) -> Vec<Outcome> {
    let count = requests.len();
    let outcomes = client.clone().publish_batch(batch(requests, false)).await.expect("a batch of messages");
    let outcomes: Vec<_> = outcomes.into_inner().results.into_iter().map(outcome).collect();
    assert_eq!(outcomes.len(), count);
    outcomes
}

/// Publishes all or nothing.
pub(crate) async fn together(client: &Client, requests: Vec<PublishRequest>) -> Result<Vec<PublishResponse>, Status> {
    let count = requests.len();
    let outcomes = client.clone().publish_batch(batch(requests, true)).await?.into_inner().results;
    let results: Vec<_> = outcomes.into_iter().map(|result| outcome(result).expect("stored with all others")).collect();
    assert_eq!(results.len(), count);
    Ok(results)
}

fn outcome(outcome: PublishOutcome) -> Outcome {
    match outcome.outcome.expect("an outcome") {
        publish_outcome::Outcome::Result(result) => Ok(result),
        publish_outcome::Outcome::Error(error) => Err(status(&error)),
    }
}

/// A message that is nothing but its payload.
pub(crate) fn plain(room_id: &str, payload: impl Into<String>) -> PublishRequest {
    let payload = payload.into().into();
    PublishRequest { room_id: room_id.into(), payload, ..PublishRequest::default() }
}

/// A message that has its payload as its message id.
pub(crate) fn named(room_id: &str, id: &str) -> PublishRequest {
    PublishRequest { message_id: id.into(), ..plain(room_id, id) }
}
