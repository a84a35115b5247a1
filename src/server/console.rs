//! The console: a web page for people on the admin port. It calls the service over gRPC-Web with the user's token.
//!
//! The files are built from `console/` and are part of the program. The page loads nothing from elsewhere.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ::http::{
    HeaderName, HeaderValue, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        X_FRAME_OPTIONS,
    },
    uri::Authority,
};
use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::get,
};
use clap::Args;
use serde_json::json;
use tower::util::MapResponseLayer;
use tracing::{info, warn};

use super::cors::{is_host, origin};
use crate::{error::Violations, flags};

/// The console.
#[derive(Clone, Debug, Default, Args)]
pub struct ConsoleConfig {
    /// Serve the console, a web page for people, at /console/ on the admin port
    #[arg(long = "console", env = "UNIBUS_CONSOLE")]
    pub enabled: bool,

    /// Origin at which the browser of a user of the console reaches the gRPC port, such as
    /// `https://unibus.example.com`. Unset: the host of the console, with the port of `--listen`
    #[arg(long = "console-service", env = "UNIBUS_CONSOLE_SERVICE", value_name = "ORIGIN", value_parser = origin)]
    pub service: Option<String>,
}

impl ConsoleConfig {
    /// Adds the field to `wrong` if its value breaks the rule of its flag.
    pub(super) fn check(&self, wrong: &mut Violations) {
        if let Some(service) = &self.service {
            flags::check("console_service", origin(service).map(drop), wrong);
        }
    }

    /// The origins of the console, if it is served on `admin`. Names under which other machines reach the admin port are
    /// unknown here, so an operator lists them in `--cors-origins`.
    pub(super) fn origins(&self, admin: SocketAddr) -> Vec<String> {
        if !self.enabled {
            return Vec::new();
        }
        let port = admin.port();
        let local = [
            format!("http://localhost:{port}"),
            format!("http://{}:{port}", Ipv4Addr::LOCALHOST),
            format!("http://[{}]:{port}", Ipv6Addr::LOCALHOST),
        ];
        let named = (!admin.ip().is_loopback() && !admin.ip().is_unspecified()).then(|| format!("http://{admin}"));
        local.into_iter().chain(named).collect()
    }

    /// The routes of the console; none unless it is enabled. `service` is the address of the gRPC port.
    pub(super) fn routes(self, service: SocketAddr, is_encrypted: bool) -> Router {
        if self.enabled {
            routes(ServiceOrigin { configured: self.service, service, is_encrypted })
        } else {
            Router::new()
        }
    }

    /// Logs where the console is, and warns if the network can read what is typed there.
    pub(super) fn log(&self, admin: SocketAddr) {
        if self.enabled {
            info!(url = %format_args!("http://{admin}/console/"), "the console is served");
        }
        if self.enabled && !admin.ip().is_loopback() {
            warn!(
                address = %admin,
                "the console has no TLS, and its users send tokens from it: let only a proxy with TLS reach --admin-listen"
            );
        }
    }
}

/// A file of the console.
struct ConsoleFile {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

/// The page itself, which is served under its folder.
const PAGE: &[u8] = include_bytes!("../../console/dist/index.html");

const FILES: [ConsoleFile; 5] = [
    ConsoleFile {
        path: "/console/app.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../console/dist/app.js"),
    },
    ConsoleFile {
        path: "/console/app.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("../../console/dist/app.css"),
    },
    ConsoleFile {
        path: "/console/icon.svg",
        kind: "image/svg+xml",
        bytes: include_bytes!("../../console/dist/icon.svg"),
    },
    ConsoleFile {
        path: "/console/licenses.txt",
        kind: "text/plain; charset=utf-8",
        bytes: include_bytes!("../../console/dist/licenses.txt"),
    },
    // the contract, for tools that read OpenAPI
    ConsoleFile { path: "/openapi.json", kind: "application/json", bytes: include_bytes!("../../proto/openapi.json") },
];

/// The policy of every answer but the page. The policy of the page also lets it connect.
const NO_CONNECTIONS: &str = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

/// The fields of every answer, beside the policy.
const FIELDS: [(HeaderName, &str); 6] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

fn routes(service: ServiceOrigin) -> Router {
    let told = service.clone();
    let page = move |request: Request| async move {
        let policy = page_policy(&service.seen_from(&request));
        ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, policy.as_str())], PAGE).into_response()
    };
    let settings = move |request: Request| async move {
        let settings = json!({ "service": told.seen_from(&request), "version": env!("CARGO_PKG_VERSION") });
        ([(CONTENT_TYPE, "application/json")], settings.to_string())
    };
    // relative, because a proxy may serve the admin port under a path
    let to_page = || async { (StatusCode::PERMANENT_REDIRECT, [(LOCATION, "console/")]) };
    let mut router = Router::new()
        .route("/console", get(to_page))
        .route("/console/", get(page))
        .route("/console/settings.json", get(settings));
    for ConsoleFile { path, kind, bytes } in FILES {
        router = router.route(path, get(move || async move { ([(CONTENT_TYPE, kind)], bytes) }));
    }
    let no_such_method = || async { (StatusCode::METHOD_NOT_ALLOWED, "this path takes GET and HEAD\n") };
    router.method_not_allowed_fallback(no_such_method).route_layer(MapResponseLayer::new(with_fields))
}

/// Adds the fields that keep other pages and other content out.
fn with_fields(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in FIELDS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(NO_CONNECTIONS));
    response
}

/// The policy of the page: its own files, `/metrics` and `/readyz` beside it, and the service.
fn page_policy(service: &str) -> String {
    format!(
        "{NO_CONNECTIONS}; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' {service}; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

/// Where the browser reaches the service.
#[derive(Clone, Debug)]
struct ServiceOrigin {
    configured: Option<String>,
    service: SocketAddr,
    is_encrypted: bool,
}

impl ServiceOrigin {
    /// The origin for the browser that sent `request`. The host is the one by which that browser reached the console, unless
    /// the gRPC port listens on one address of its own.
    fn seen_from(&self, request: &Request) -> String {
        if let Some(origin) = &self.configured {
            return origin.clone();
        }
        let address = self.service.ip();
        let is_general = address.is_unspecified() || address.is_loopback();
        let host = host(request).filter(|_| is_general);
        let scheme = if self.is_encrypted { "https" } else { "http" };
        match host {
            Some(host) => format!("{scheme}://{host}:{}", self.service.port()),
            None => format!("{scheme}://{}", self.service),
        }
    }
}

/// The host that the request names, if it can stand in an origin and in a policy.
fn host(request: &Request) -> Option<String> {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let authority = request.uri().authority().cloned().or(named)?;
    Some(authority.host().to_ascii_lowercase()).filter(|host| is_host(host))
}
