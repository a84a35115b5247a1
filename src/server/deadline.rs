//! Ends calls that are not answered within the time limit of their client (`grpc-timeout`).

use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use ::http::{HeaderMap, Request, Response};
use futures_util::future::{BoxFuture, Either};
use tokio::time;
use tower::{Layer, Service};

use super::refusal::refuse;
use crate::error::{Error, Reason};

#[derive(Clone, Copy, Debug)]
pub(super) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// Answers `TIMEOUT` when the inner service has not begun to answer in time. An answer that has begun is not cut off:
/// the client ends it.
#[derive(Clone, Debug)]
pub(super) struct Deadline<S> {
    inner: S,
}

impl<S> Service<Request<tonic::body::Body>> for Deadline<S>
where
    S: Service<Request<tonic::body::Body>, Response = Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<S::Response, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let Some(limit) = limit(request.headers()) else { return Either::Left(self.inner.call(request)) };
        // the format of a refusal depends on the request's head
        let (parts, body) = request.into_parts();
        let asked = Request::from_parts(parts.clone(), tonic::body::Body::empty());
        let answered = time::timeout(limit, self.inner.call(Request::from_parts(parts, body)));
        Either::Right(Box::pin(async move {
            match answered.await {
                Ok(answered) => answered,
                Err(_) => Ok(refuse(asked, deadline_passed()).await),
            }
        }))
    }
}

fn deadline_passed() -> Error {
    Error::new(
        Reason::Timeout,
        "the deadline that the client set for the call has passed; the call may have taken effect, calling again is safe",
    )
}

/// Parses `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2). An invalid value sets no limit.
fn limit(headers: &HeaderMap) -> Option<Duration> {
    let given = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = given.split_at_checked(given.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = number.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_deadline_is_eight_digits_and_a_unit() {
        let limit = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", given.parse().unwrap());
            limit(&headers)
        };
        for (given, expected) in [
            ("3H", Some(Duration::from_secs(10_800))),
            ("2M", Some(Duration::from_secs(120))),
            ("99999999S", Some(Duration::from_secs(99_999_999))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1", None),
            ("1s", None),
            ("1 S", None),
        ] {
            assert_eq!(limit(given), expected, "{given:?}");
        }
    }
}
