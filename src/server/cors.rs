//! Lets web pages of other origins call the service (CORS, Fetch standard): which origins, and the answers to preflights.
//!
//! A preflight needs no credentials and reaches no call. It still counts as a call of its connection until it is answered,
//! because the connection counts the calls of its HTTP/2 streams.

use std::{
    convert::Infallible,
    net::Ipv6Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use ::http::{
    HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_TYPE, ORIGIN},
};
use arc_swap::ArcSwap;
use clap::Args;
use pin_project_lite::pin_project;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_http::cors::{self, AllowCredentials, AllowOrigin};

use super::{
    REQUEST_ID,
    client::{Arrived, ClientConnection},
};
use crate::{error::Violations, flags, grpc};

/// The value of the flag that allows every origin.
const ANY: &str = "*";
/// How long a browser may keep the answer to a preflight.
const PREFLIGHT_MAX_AGE: Duration = Duration::from_secs(600);

/// The fields of a request that a page may set: those of gRPC-Web, Connect, server-sent events and W3C Trace Context.
const REQUEST_FIELDS: [HeaderName; 10] = [
    AUTHORIZATION,
    CONTENT_TYPE,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("connect-protocol-version"),
    HeaderName::from_static("connect-timeout-ms"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];
/// The fields of an answer that a page may read.
const ANSWER_FIELDS: [HeaderName; 4] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
    REQUEST_ID,
];

/// The web pages that may call the service.
#[derive(Clone, Debug, Default, Args)]
pub struct CorsConfig {
    /// Origins whose web pages may call the service, such as `https://app.example.com`; `*`: all origins, but browsers
    /// then send no client certificate
    #[arg(long = "cors-origins", env = "UNIBUS_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin_or_any)]
    pub origins: Vec<String>,
}

impl CorsConfig {
    /// Adds the field to `wrong` if a value breaks the rule of its flag, or if `*` is not alone.
    pub(super) fn check(&self, wrong: &mut Violations) {
        for origin in &self.origins {
            flags::check(
                "cors_origins",
                origin_or_any(origin).map_err(|problem| format!("{origin:?} {problem}")),
                wrong,
            );
        }
        if self.origins.len() > 1 && self.origins.iter().any(|origin| origin == ANY) {
            wrong.add("cors_origins", format!("`{ANY}` must be the only value: it allows every origin"));
        }
    }
}

fn origin_or_any(given: &str) -> Result<String, String> {
    if given == ANY { Ok(ANY.to_owned()) } else { origin(given) }
}

/// Parses an origin in the form in which browsers send it (RFC 6454, section 6.2). Another form would never match.
pub(super) fn origin(given: &str) -> Result<String, String> {
    const FORM: &str = "must be an origin as browsers send it: scheme://host or scheme://host:port, in lower case and ASCII, \
        without path and without the scheme's own port";
    let uri: Uri = given.parse().map_err(|_| FORM)?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(FORM.to_owned()) };
    let host = authority.host();
    let (port, is_own_port) = match authority.port_u16() {
        Some(port) => (format!(":{port}"), matches!((scheme, port), ("http", 80) | ("https", 443))),
        None => (String::new(), false),
    };
    let is_canonical = format!("{scheme}://{host}{port}") == given && given.to_ascii_lowercase() == given;
    if is_canonical && is_host(host) && !is_own_port { Ok(given.to_owned()) } else { Err(FORM.to_owned()) }
}

/// Whether the text is a host name, an IPv4 address or an IPv6 address in brackets.
pub(super) fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
    }
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// The origins that are allowed.
#[derive(Clone, Debug)]
enum AllowedOrigins {
    Any,
    These(Arc<[HeaderValue]>),
}

impl AllowedOrigins {
    fn contain(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::These(origins) => origins.contains(origin),
        }
    }
}

/// The layer that answers preflights, and adds the fields to each answer without which a browser hides it from the page.
/// Clones share the origins.
#[derive(Clone, Debug)]
pub(super) struct CrossOriginLayer {
    in_force: Arc<ArcSwap<CrossOriginRules>>,
    pages: Arc<[String]>,
}

impl CrossOriginLayer {
    /// Allows the origins of the configuration and `pages`, the origins of the service's own pages. Only the former may
    /// call with a client certificate.
    pub(super) fn new(config: &CorsConfig, pages: &[String]) -> Self {
        let rules = CrossOriginRules::new(config, pages);
        Self { in_force: Arc::new(ArcSwap::from_pointee(rules)), pages: pages.into() }
    }

    /// Allows the origins of another configuration from the next request on.
    pub(super) fn set(&self, config: &CorsConfig) {
        self.in_force.store(Arc::new(CrossOriginRules::new(config, &self.pages)));
    }
}

/// The origins that are allowed, and what answers to them say.
#[derive(Debug)]
struct CrossOriginRules {
    allowed: AllowedOrigins,
    cors: cors::CorsLayer,
}

impl CrossOriginRules {
    fn new(config: &CorsConfig, pages: &[String]) -> Self {
        let values = |origins: &[String]| -> Vec<HeaderValue> {
            origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect()
        };
        let cors = cors::CorsLayer::new()
            .allow_methods([Method::GET, Method::HEAD, Method::POST])
            .allow_headers(REQUEST_FIELDS)
            .expose_headers(ANSWER_FIELDS)
            .max_age(PREFLIGHT_MAX_AGE);
        if config.origins.iter().any(|origin| origin == ANY) {
            return Self { allowed: AllowedOrigins::Any, cors: cors.allow_origin(cors::Any) };
        }
        let configured = values(&config.origins);
        let all = [configured.clone(), values(pages)].concat();
        let cors = cors
            .allow_origin(AllowOrigin::list(all.iter().cloned()))
            .allow_credentials(AllowCredentials::predicate(move |origin, _| configured.contains(origin)));
        Self { allowed: AllowedOrigins::These(all.into()), cors }
    }
}

impl<S> Layer<S> for CrossOriginLayer {
    type Service = CrossOrigin<S>;

    fn layer(&self, inner: S) -> CrossOrigin<S> {
        CrossOrigin { in_force: Arc::clone(&self.in_force), inner }
    }
}

/// Treats a request of an origin that is not allowed like a request without origin: its answer has no field of CORS.
#[derive(Clone, Debug)]
pub(super) struct CrossOrigin<S> {
    in_force: Arc<ArcSwap<CrossOriginRules>>,
    inner: S,
}

impl<S> Service<Request<Body>> for CrossOrigin<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CrossOriginAnswer<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let headers = request.headers();
        let Some(origin) = headers.get(ORIGIN) else {
            return CrossOriginAnswer::Plain { future: self.inner.call(request) };
        };
        let rules = self.in_force.load();
        let is_allowed = rules.allowed.contain(origin);
        let is_options = request.method() == Method::OPTIONS;
        let is_preflight = is_options && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !is_allowed || (is_options && !is_preflight) {
            return CrossOriginAnswer::Plain { future: self.inner.call(request) };
        }
        let client = request.extensions().get::<Arc<ClientConnection>>().filter(|_| is_preflight);
        let arrived = client.map(ClientConnection::arrive);
        // the service that is ready goes, and a clone stays for the next request
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        CrossOriginAnswer::WithFields { future: rules.cors.layer(ready).call(request), arrived }
    }
}

pin_project! {
    #[project = CrossOriginAnswerProjection]
    pub(super) enum CrossOriginAnswer<F> {
        Plain { #[pin] future: F },
        WithFields { #[pin] future: cors::ResponseFuture<F>, arrived: Option<Arrived> },
    }
}

impl<F> Future for CrossOriginAnswer<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CrossOriginAnswerProjection::Plain { future } => future.poll(cx),
            CrossOriginAnswerProjection::WithFields { future, arrived } => {
                let mut response = ready!(future.poll(cx))?;
                if let Some(arrived) = arrived.take() {
                    response.extensions_mut().insert(grpc::AnswerGuard::new(arrived));
                }
                Poll::Ready(Ok(response))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::origin_or_any;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for given in [
            "*",
            "https://app.example.com",
            "http://localhost:5173",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "https://xn--bcher-kva.example",
            "http://host:443",
            "chrome-extension://abcdefghijklmnop",
            "capacitor://localhost",
        ] {
            assert_eq!(origin_or_any(given).as_deref(), Ok(given));
        }
        for given in [
            "",
            "null",
            "app.example.com",
            "localhost:5173",
            "//app.example.com",
            "https://",
            "https://:8080",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://app.example.com?q",
            "https://App.example.com",
            "HTTPS://app.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "https://app.example.com:",
            "https://app.example.com:99999",
            "https://app.example.com:080",
            "https://user@app.example.com",
            "https://*.example.com",
            "https://b\u{fc}cher.example",
            "http://[0:0:0:0:0:0:0:1]:8080",
            " https://app.example.com",
            "**",
        ] {
            assert!(origin_or_any(given).is_err(), "{given}");
        }
    }
}
