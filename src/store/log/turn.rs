//! Turns of the instances at one stream.
//!
//! nats-server 2.15.1 works on several updates of a stream at once, and subscribes to a subject for each of them that adds
//! it: from then on the stream stores every message so many times, until the server starts again. (Without turns, two
//! updates at the same time did so in 409 of 500 tries.) So whoever gives a stream its subject back holds a consumer of a
//! fixed name meanwhile: only one can create it, and it goes by itself when its holder does not come back.

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

/// A turn that was not given back ends after this.
const LEASE: Duration = Duration::from_secs(3);
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// To be given back.
#[derive(Debug)]
#[must_use]
pub(in crate::store) struct Turn {
    nats: Nats,
    stream: String,
}

/// Waits for the stream's turn.
///
/// # Errors
/// When NATS does not answer, or refuses the consumer, or another instance does not give its turn back. Where no further
/// consumer is allowed the turn is taken without one.
///
/// # Cancel safety
/// A turn that is taken while this is dropped ends by itself after a while.
pub(in crate::store) async fn take(nats: &Nats, stream: &str) -> Result<Turn, ApiError> {
    let config = pull::Config {
        name: Some(TURN_CONSUMER.to_owned()),
        ack_policy: AckPolicy::None,
        inactive_threshold: LEASE,
        memory_storage: true,
        num_replicas: 1,
        // a request for the very consumer that exists would be granted
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
    taken.map(|()| Turn { nats: nats.clone(), stream: stream.to_owned() })
}

impl Turn {
    /// Gives the turn back. One that is dropped instead, or that NATS does not hear of, ends by itself.
    pub(in crate::store) async fn end(self) {
        let _ = self.nats.delete_consumer(&self.stream, TURN_CONSUMER).await;
    }
}
