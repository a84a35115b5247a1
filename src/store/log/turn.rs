//! Turns: one instance at a time updates a stream.
//!
//! nats-server 2.15.1 processes several updates of a stream concurrently, and subscribes to the subject once for each
//! update that adds it. From then on the stream stores every message several times, until the server restarts.
//! (Without turns, two concurrent updates did so in 409 of 500 tries.) So an instance that restores a stream's
//! subject holds a consumer with a fixed name meanwhile. Only one instance can create that consumer. NATS deletes it
//! if the instance does not return.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, pull},
};
use tokio::time::{self, Instant};
use tracing::warn;

use crate::{
    nats::{Nats, error::ApiError},
    store::names::{METADATA_TURN, TURN_CONSUMER},
};

/// A turn that is not given back ends after this time.
const LEASE: Duration = Duration::from_secs(3);
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// The turn to repair a stream. The instance must give it back with [`RepairTurn::end`].
#[derive(Debug)]
#[must_use]
pub(in crate::store) struct RepairTurn {
    nats: Nats,
    stream: String,
}

/// Waits for the stream's turn.
///
/// # Errors
/// If NATS does not answer or refuses the consumer, or if another instance does not give its turn back. If no further
/// consumer is allowed, the turn is taken without one.
///
/// # Cancel safety
/// A turn that is taken while this is dropped ends after [`LEASE`].
pub(in crate::store) async fn take(nats: &Nats, stream: &str) -> Result<RepairTurn, ApiError> {
    let config = pull::Config {
        name: Some(TURN_CONSUMER.to_owned()),
        ack_policy: AckPolicy::None,
        inactive_threshold: LEASE,
        memory_storage: true,
        num_replicas: 1,
        // a random value, because NATS grants a request for an identical consumer
        metadata: HashMap::from([(METADATA_TURN.to_owned(), uuid::Uuid::new_v4().to_string())]),
        ..pull::Config::default()
    };
    let give_up = Instant::now() + 2 * LEASE;
    let taken = loop {
        match nats.create_consumer(stream, config.clone()).await {
            Err(error) if error.is(ErrorCode::CONSUMER_ALREADY_EXISTS) && Instant::now() < give_up => {
                time::sleep(RETRY_DELAY).await;
            }
            Err(error) if error.is(ErrorCode::MAXIMUM_CONSUMERS_LIMIT) => {
                warn!(
                    stream, %error,
                    "NATS has no consumer left to lock the stream, so several instances may change it at once; raise max_consumers"
                );
                break Ok(());
            }
            result => break result.map(drop),
        }
    };
    taken.map(|()| RepairTurn { nats: nats.clone(), stream: stream.to_owned() })
}

impl RepairTurn {
    /// Gives the turn back. If the turn is dropped, or NATS does not get the request, it ends after [`LEASE`].
    pub(in crate::store) async fn end(self) {
        let _ = self.nats.delete_consumer(&self.stream, TURN_CONSUMER).await;
    }
}
