//! The collector of traces.

use std::time::Duration;

use tokio::{net::TcpStream, time};

use super::Finding;
use crate::{server::config::Config, traces};

/// How long the collector may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CHECK: &str = "--otlp-endpoint";

/// Nothing without an endpoint. The service serves without a collector, so a missing one is no failure.
pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let Some((host, port)) = config.traces.endpoint.as_deref().and_then(traces::authority) else { return Vec::new() };
    let address = format!("{host}:{port}");
    let fix = "start the collector, or correct the flag; the service serves without it, and loses the spans";
    vec![match time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Finding::ok(CHECK, format!("{address} accepts connections")),
        Ok(Err(error)) => Finding::warn(CHECK, format!("{address} cannot be reached: {error}"), fix),
        Err(_) => {
            Finding::warn(CHECK, format!("{address} did not accept a connection within {CONNECT_TIMEOUT:?}"), fix)
        }
    }]
}
