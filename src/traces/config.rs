//! Where traces go, and how many.

use ::http::{
    Uri,
    uri::{Authority, Scheme},
};
use clap::Args;

use crate::{error::Violations, flags};

/// The export of traces.
#[derive(Clone, Debug, PartialEq, Args)]
pub struct TracesConfig {
    /// URL of the OpenTelemetry collector that gets traces by OTLP over gRPC, such as `http://127.0.0.1:4317`. Unset: no
    /// traces
    #[arg(long = "otlp-endpoint", env = "UNIBUS_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    pub endpoint: Option<String>,

    /// Share of the calls that are traced, from 0 to 1, where the caller does not decide it with `traceparent`
    #[arg(long = "otlp-sample", env = "UNIBUS_OTLP_SAMPLE", value_name = "RATIO", default_value_t = 1.0, value_parser = ratio)]
    pub sample: f64,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self { endpoint: None, sample: 1.0 }
    }
}

impl TracesConfig {
    /// Adds the fields to `wrong` whose values break the rules of their flags.
    pub(crate) fn check(&self, wrong: &mut Violations) {
        if let Some(given) = &self.endpoint {
            flags::check("otlp_endpoint", endpoint(given).map(drop), wrong);
        }
        flags::check("otlp_sample", share(self.sample).map(drop), wrong);
    }
}

/// Parses the URL of a collector. A path would be ignored: OTLP over gRPC has paths of its own.
fn endpoint(given: &str) -> Result<String, String> {
    const FORM: &str = "must be http://host:port or https://host:port, without a user and without a path";
    let url: Uri = given.parse().map_err(|_| FORM)?;
    let is_known = [&Scheme::HTTP, &Scheme::HTTPS].map(Some).contains(&url.scheme());
    let has_host = url.authority().is_some_and(|authority| {
        // `Authority` has no port where the number is too large
        let port = authority.as_str().strip_prefix(authority.host());
        let is_port =
            |port: &str| port.strip_prefix(':').and_then(|port| port.parse::<u16>().ok()).is_some_and(|port| port > 0);
        !authority.host().is_empty() && port.is_some_and(|port| port.is_empty() || is_port(port))
    });
    let is_whole = matches!(url.path(), "" | "/") && url.query().is_none();
    if is_known && has_host && is_whole { Ok(given.to_owned()) } else { Err(FORM.to_owned()) }
}

/// The host and the port of an endpoint that its flag accepts.
pub(crate) fn authority(endpoint: &str) -> Option<(String, u16)> {
    let url: Uri = endpoint.parse().ok()?;
    let by_default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host, url.authority().and_then(Authority::port_u16).unwrap_or(by_default)))
}

fn ratio(given: &str) -> Result<f64, String> {
    given.parse().map_err(|_| "must be a number".to_owned()).and_then(share)
}

/// The rule of `sample`.
fn share(ratio: f64) -> Result<f64, String> {
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err("must be from 0 to 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_with_a_host_and_nothing_more() {
        for (given, host, port) in [
            ("http://127.0.0.1:4317", "127.0.0.1", 4317),
            ("http://collector:4317/", "collector", 4317),
            ("https://otlp.example.com", "otlp.example.com", 443),
            ("http://[::1]:4317", "::1", 4317),
            ("http://collector", "collector", 80),
        ] {
            assert_eq!(endpoint(given).as_deref(), Ok(given));
            assert_eq!(authority(given), Some((host.to_owned(), port)));
        }
        for given in [
            "",
            "collector:4317",
            "127.0.0.1:4317",
            "grpc://collector:4317",
            "http://",
            "http://:4317",
            "http://collector:0",
            "http://user:secret@collector:4317",
            "http://collector:4317/v1/traces",
            "http://collector:4317?x=1",
            "http://collector:99999",
        ] {
            assert!(endpoint(given).is_err(), "{given}");
        }
    }

    #[test]
    fn a_share_is_from_0_to_1() {
        for (given, is_allowed) in
            [("0", true), ("1", true), ("0.01", true), ("-0.1", false), ("1.1", false), ("NaN", false), ("x", false)]
        {
            assert_eq!(ratio(given).is_ok(), is_allowed, "{given}");
        }
    }
}
