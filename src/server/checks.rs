//! Checks a [`Config`] that a program made without flags.

use std::time::Duration;

use crate::{
    config::Config,
    error::{Result, Violations},
    limits::HEARTBEAT_INTERVAL_MIN,
};

const NOT_ZERO: &str = "must be longer than nothing";
const AT_LEAST_ONE: &str = "must be at least 1";

/// Refuses the values that the flags refuse.
///
/// # Errors
/// `INVALID_FIELD`, which names every invalid field.
pub(super) fn check(config: &Config) -> Result<()> {
    let mut violations = Violations::default();
    for (field, duration) in [
        ("auth_jwks_refresh", config.auth_jwks_refresh),
        ("auth_keys_max_age", config.auth_keys_max_age),
        ("keepalive_interval", config.keepalive_interval),
        ("keepalive_timeout", config.keepalive_timeout),
        ("idle_timeout", config.idle_timeout),
    ] {
        if duration == Duration::ZERO {
            violations.add(field, NOT_ZERO);
        }
    }
    for (field, number) in [
        ("max_connections", Some(config.max_connections)),
        ("max_streams_per_connection", Some(config.max_streams_per_connection)),
        ("max_subscriptions", Some(config.max_subscriptions)),
        ("payload_max", Some(config.payload_max)),
        ("limit_publishes", config.limit_publishes),
        ("limit_publish_bytes", config.limit_publish_bytes),
    ] {
        if number == Some(0) {
            violations.add(field, AT_LEAST_ONE);
        }
    }
    if config.heartbeat_interval < HEARTBEAT_INTERVAL_MIN {
        violations.add("heartbeat_interval", format!("must be at least {HEARTBEAT_INTERVAL_MIN:?}"));
    }
    if !matches!(config.registry_replicas, 1 | 3 | 5) {
        violations.add("registry_replicas", "must be 1, 3 or 5");
    }
    violations.finish()
}
