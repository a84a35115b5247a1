//! The limits of the NATS account in JetStream, and what is used of them.

use async_nats::jetstream::ErrorCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time;

use super::{ANSWER_TIMEOUT, Probe};
use crate::nats::error::ApiError;

/// What is used and what is allowed; `None`: no limit of the account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    pub used: u64,
    pub allowed: Option<u64>,
}

/// The limits of the account, or of one of its tiers.
#[derive(Debug)]
pub(crate) struct JetStreamLimits {
    /// The name of the tier, such as `R3`. Empty: the whole account.
    pub tier: String,
    pub file_bytes: Amount,
    pub memory_bytes: Amount,
    pub streams: Amount,
    pub consumers: Amount,
    /// Whether every stream must have a `max_bytes`, which the service does not set.
    pub requires_max_bytes: bool,
}

#[derive(Deserialize)]
struct AccountAnswer {
    #[serde(flatten)]
    all: UsedAndAllowed,
    #[serde(default)]
    tiers: std::collections::BTreeMap<String, UsedAndAllowed>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UsedAndAllowed {
    memory: u64,
    storage: u64,
    streams: u64,
    consumers: u64,
    limits: Allowed,
}

/// -1: no limit.
#[derive(Deserialize)]
#[serde(default)]
struct Allowed {
    max_memory: i64,
    max_storage: i64,
    max_streams: i64,
    max_consumers: i64,
    max_bytes_required: bool,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { max_memory: -1, max_storage: -1, max_streams: -1, max_consumers: -1, max_bytes_required: false }
    }
}

impl Probe {
    /// The limits of the account and of its tiers. `None`: the account has no JetStream.
    ///
    /// # Errors
    /// If JetStream does not answer.
    pub(crate) async fn account(&self) -> Result<Option<Vec<JetStreamLimits>>, ApiError> {
        let request = json!({});
        let asked = self.nats.api::<_, AccountAnswer>("INFO".to_owned(), &request);
        let answer = match time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(ApiError::Refused(error)))
                if matches!(
                    error.error_code(),
                    ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
                ) =>
            {
                return Ok(None);
            }
            Ok(Err(ApiError::NoResponders)) if !self.nats.client.server_info().jetstream => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(ApiError::TimedOut),
        };
        let AccountAnswer { all, tiers } = answer;
        // with tiers, the limits of the whole account are empty
        let whole = tiers.is_empty().then_some((String::new(), all));
        Ok(Some(whole.into_iter().chain(tiers).map(|(tier, found)| limits(tier, &found)).collect()))
    }
}

fn limits(tier: String, found: &UsedAndAllowed) -> JetStreamLimits {
    let amount = |used, allowed: i64| Amount { used, allowed: u64::try_from(allowed).ok() };
    JetStreamLimits {
        tier,
        file_bytes: amount(found.storage, found.limits.max_storage),
        memory_bytes: amount(found.memory, found.limits.max_memory),
        streams: amount(found.streams, found.limits.max_streams),
        consumers: amount(found.consumers, found.limits.max_consumers),
        requires_max_bytes: found.limits.max_bytes_required,
    }
}
