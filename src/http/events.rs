//! `GET /v1/rooms/{id}/events`: a subscription as server-sent events.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, header},
    response::Response,
    routing::get,
};

use super::{error_body, error_response, method_not_allowed};
use crate::{
    domain::{AckMode, Caller, Cursor, RoomId, Start, SubscriberId},
    error::{Error, Result, Violations},
    grpc::{self, ServedTypes},
    metrics::DeliveryMetrics,
    rooms::{Rooms, subscribe::SubscribeOptions},
};

/// The header in which a client that connects again gives the id of the last event that it got.
const LAST_EVENT_ID: &str = "last-event-id";
/// The parameters of the query.
const PARAMETERS: &str = "subscriber, ack_mode, after, from and until_caught_up";

#[derive(Clone)]
struct Events {
    rooms: Rooms,
    served: ServedTypes,
    metrics: Arc<DeliveryMetrics>,
}

pub(super) const EVENTS: &str = "/v1/rooms/{id}/events";

/// The route `GET /v1/rooms/{id}/events`.
pub(crate) fn event_routes(rooms: Rooms, served: ServedTypes, metrics: Arc<DeliveryMetrics>) -> Router {
    Router::new().route(EVENTS, get(events)).with_state(Events { rooms, served, metrics })
}

async fn events(
    State(Events { rooms, served, metrics }): State<Events>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
    extensions: Extensions,
) -> Response {
    if method != Method::GET {
        // a HEAD would take the subscriber over
        return method_not_allowed("this path takes GET", "GET");
    }
    let subscription = async {
        let caller = Caller::require(extensions.get())?;
        let _turn = grpc::turn(&extensions).await;
        let Path(id) = id.map_err(|error| Error::field("room_id", "must be UTF-8").because(error))?;
        let last_event_id = headers.get(LAST_EVENT_ID).map(HeaderValue::as_bytes).filter(|id| !id.is_empty());
        rooms.subscribe(&caller, options(id, query.as_deref().unwrap_or_default(), last_event_id)?).await
    };
    match subscription.await {
        Ok(subscription) => {
            let mut response =
                grpc::event_stream(subscription, &served, &metrics, |error| error_body(error).to_string());
            for (name, value) in [
                (header::CONTENT_TYPE, "text/event-stream"),
                (header::CACHE_CONTROL, "no-store"),
                // nginx then sends each event at once
                (HeaderName::from_static("x-accel-buffering"), "no"),
            ] {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            response
        }
        Err(error) => error_response(&error),
    }
}

/// The options of the subscription. `Last-Event-ID` takes precedence over the start in the query, because a client that
/// connects again sends the same query.
fn options(room_id: String, query: &str, last_event_id: Option<&[u8]>) -> Result<SubscribeOptions> {
    let mut violations = Violations::default();
    let room_id = violations.check(RoomId::parse("room_id", room_id));
    let (mut subscriber, mut ack_mode, mut start, mut until_caught_up) = (None, AckMode::Explicit, None, false);
    let mut given = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if given.contains(&name) {
            violations.add(&*name, "must be given once");
            continue;
        }
        match &*name {
            "subscriber" if value.is_empty() => {}
            "subscriber" => subscriber = violations.check(SubscriberId::parse("subscriber", value.into_owned())),
            "ack_mode" => match &*value {
                "explicit" => {}
                "auto" => ack_mode = AckMode::Auto,
                _ => violations.add("ack_mode", "must be `explicit` or `auto`"),
            },
            "after" => start = violations.check(after(&value)),
            "from" => start = violations.check(from(&value)),
            "until_caught_up" => match &*value {
                "true" => until_caught_up = true,
                "false" => {}
                _ => violations.add("until_caught_up", "must be `true` or `false`"),
            },
            _ => violations.add(&*name, format!("is no parameter; there are {PARAMETERS}")),
        }
        given.push(name);
    }
    if ["after", "from"].iter().all(|start| given.iter().any(|given| given == start)) {
        violations.add("after", "must not be given with `from`");
    }
    if let Some(id) = last_event_id {
        let cursor = str::from_utf8(id).unwrap_or_default();
        start = violations.check(Cursor::decode("Last-Event-ID", cursor).map(Start::AfterCursor));
    }
    match room_id {
        Some(room_id) => violations.finish().map(|()| SubscribeOptions {
            room_id,
            subscriber,
            ack_mode,
            start: start.unwrap_or_default(),
            until_caught_up,
        }),
        None => Err(violations.into_error()),
    }
}

/// A sequence or a cursor. A cursor never consists of digits alone: it begins with a letter.
fn after(given: &str) -> Result<Start> {
    match given.parse() {
        Ok(sequence) => Ok(Start::AfterSequence(sequence)),
        Err(_) => Cursor::decode("after", given).map(Start::AfterCursor),
    }
}

fn from(given: &str) -> Result<Start> {
    if let Some(count) = given.strip_prefix("last:") {
        let count = count.parse().ok().filter(|count| *count > 0);
        return count.map(Start::Last).ok_or_else(|| Error::field("from", "must be `last:N` with N of at least 1"));
    }
    match given {
        "all" => Ok(Start::All),
        "new" => Ok(Start::New),
        _ => humantime::parse_rfc3339(given).map(Start::Since).map_err(|_| {
            Error::field("from", "must be `all`, `new`, `last:N`, or a time such as 2026-01-31T12:00:00Z")
        }),
    }
}
