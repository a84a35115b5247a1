//! The HTTP endpoints: the history of a room as JSON and its messages as server-sent events for browsers, and liveness,
//! readiness and metrics on the admin port.
//!
//! This module does not use async-nats.

mod events;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub(crate) use self::events::event_routes;
use crate::{
    domain::{Anchor, Caller, RoomId},
    error::{Error, Reason},
    limits::{HISTORY_HTTP_BYTES_MAX, HISTORY_LIMIT_MAX},
    metrics::MetricsFormat,
    rooms::Rooms,
    store::Store,
};

const HISTORY: &str = "/rooms/{id}/history";

/// The route `GET /rooms/{id}/history?limit=N`.
pub(crate) fn history_routes(rooms: Rooms) -> Router {
    Router::new().route(HISTORY, get(history)).with_state(rooms)
}

/// The pattern of this path on the main port, if there is one.
pub(crate) fn route_of(path: &str) -> Option<&'static str> {
    [HISTORY, events::EVENTS].into_iter().find(|route| {
        let (before, after) = route.split_once("{id}").unwrap_or((route, ""));
        let id = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        id.is_some_and(|id| !id.is_empty() && !id.contains('/'))
    })
}

/// Makes the text of all metrics.
pub(crate) type MetricsText = Arc<dyn Fn(MetricsFormat) -> String + Send + Sync>;

/// Whether the service serves: it is connected to NATS and does not stop, and its embedded nats-server stores messages.
pub(crate) fn is_ready(store: &Store, draining: &CancellationToken) -> bool {
    store.is_connected() && !draining.is_cancelled() && !store.is_disk_frozen()
}

/// The routes of the admin port. `GET /metrics` answers with all metrics. `GET /livez` answers 200 while the process
/// runs. `GET /readyz` answers 200 while the service serves, and 503 otherwise.
pub(crate) fn admin_routes(store: Store, draining: CancellationToken, metrics: MetricsText) -> Router {
    let ready = move || async move {
        match (is_ready(&store, &draining), store.is_disk_low()) {
            (true, false) => (StatusCode::OK, "ok\n"),
            (true, true) => (StatusCode::OK, "ok, but the disk of the data directory is full: publishes are refused\n"),
            (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the disk of the data directory is full\n"),
        }
    };
    let no_such_path =
        || async { (StatusCode::NOT_FOUND, "there is no such path; see /livez, /readyz and /metrics\n") };
    let no_such_method = || async { (StatusCode::METHOD_NOT_ALLOWED, "this path takes GET and HEAD\n") };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(move |headers: HeaderMap| async move { scraped(&metrics, &headers) }))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
}

fn scraped(metrics: &MetricsText, headers: &HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = MetricsFormat::accepted(accept);
    ([(header::CONTENT_TYPE, format.content_type()), (header::CACHE_CONTROL, "no-store")], metrics(format))
        .into_response()
}

async fn history(
    State(rooms): State<Rooms>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    extensions: Extensions,
) -> Response {
    let limit = limit(query.as_deref().unwrap_or_default());
    let page = async {
        let caller = Caller::require(extensions.get())?;
        let Path(id) = id.map_err(|error| Error::field("room_id", "must be UTF-8").because(error))?;
        let id = RoomId::parse("room_id", id)?;
        rooms.history_of_log(&caller, &id, limit, HISTORY_HTTP_BYTES_MAX, Anchor::Newest).await
    };
    match page.await {
        Ok((page, place)) => {
            let messages: Vec<_> = page.messages.iter().map(|message| STANDARD.encode(&message.payload)).collect();
            drop(page);
            let mut response = json_response(StatusCode::OK, &json!({ "messages": messages }));
            if let Some(place) = place {
                response.extensions_mut().insert(place);
            }
            response
        }
        Err(error) => error_response(&error),
    }
}

/// The answer to a request for an unknown path.
pub(crate) fn not_found() -> Response {
    let error = Error::new(
        Reason::NotSupported,
        "there is no such path; see GET /rooms/{id}/history and GET /v1/rooms/{id}/events",
    );
    answer_with(StatusCode::NOT_FOUND, &error)
}

/// The answer to a method that an endpoint does not support.
pub(crate) fn method_not_allowed(message: &'static str, allowed: &'static str) -> Response {
    let error = Error::new(Reason::NotSupported, message);
    let mut response = answer_with(StatusCode::METHOD_NOT_ALLOWED, &error);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The `limit` of a query, as native programs expect: a malformed number means the default (`0`), and a
/// number out of range is clamped.
fn limit(query: &str) -> usize {
    let given = query.split('&').rev().find_map(|pair| pair.strip_prefix("limit=")).unwrap_or_default();
    let digits = given.strip_prefix('+').unwrap_or(given);
    match given.parse::<usize>() {
        Ok(limit) => limit.min(HISTORY_LIMIT_MAX),
        // a number too large for `usize` is out of range, not malformed
        Err(_) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => HISTORY_LIMIT_MAX,
        Err(_) => 0,
    }
}

pub(crate) fn error_response(error: &Error) -> Response {
    let status = StatusCode::from_u16(error.reason().code().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = answer_with(status, error);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn answer_with(status: StatusCode, error: &Error) -> Response {
    let mut response = json_response(status, &error_body(error));
    // for the metrics
    response.extensions_mut().insert(error.reason());
    response
}

fn error_body(error: &Error) -> serde_json::Value {
    let mut body = json!({
        "error": { "code": error.reason().code().name(), "reason": error.reason().name(), "message": error.message() }
    });
    if let Some(fields) = body.get_mut("error").and_then(serde_json::Value::as_object_mut)
        && !error.metadata().is_empty()
    {
        let metadata = error.metadata().iter().map(|(name, value)| ((*name).to_owned(), value.clone().into()));
        fields.insert("metadata".to_owned(), serde_json::Value::Object(metadata.collect()));
    }
    body
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.to_string())
        .into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_query_gives_a_limit_within_bounds(query in any::<String>(), value in "[-+0-9a-f&=%]{0,30}") {
            prop_assert!(limit(&query) <= HISTORY_LIMIT_MAX);
            let given = format!("limit={value}");
            prop_assert!(limit(&given) <= HISTORY_LIMIT_MAX);
        }
    }

    #[test]
    fn a_path_has_the_pattern_of_its_route() {
        for (path, expected) in [
            ("/rooms/lobby/history", Some(HISTORY)),
            ("/v1/rooms/a%2Fb/events", Some(events::EVENTS)),
            ("/rooms//history", None),
            ("/rooms/a/b/history", None),
            ("/rooms/history", None),
            ("/rooms/lobby/history/", None),
            ("/v1/rooms/lobby/history", None),
            ("", None),
        ] {
            assert_eq!(route_of(path), expected, "{path}");
        }
    }

    #[test]
    fn limits_are_clamped_and_garbage_is_the_default() {
        for (query, expected) in [
            ("", 0),
            ("limit=", 0),
            ("limit=abc", 0),
            ("limit=-1", 0),
            ("limit=0", 0),
            ("limit=1", 1),
            ("limit=1000", 1000),
            ("limit=1001", 1000),
            ("limit=99999999999999999999999", 1000),
            ("limit=1.5", 0),
            ("x=1&limit=7", 7),
        ] {
            assert_eq!(limit(query), expected, "{query}");
        }
    }
}
