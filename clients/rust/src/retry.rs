//! Pauses between attempts (U4), and calls that are attempted until they succeed (U9).

use std::time::Duration;

use tokio::time::{self, Instant};
use tonic::{Request, Response, Status, metadata::AsciiMetadataValue};

use crate::{
    connection::{Connection, Stub, with_token},
    error::{Class, Error, Result},
};

/// The longest pause before the second attempt.
pub(crate) const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The longest time that the client counts.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The moment after this time. A time without end, such as `Duration::MAX`, ends in 30 years: a clock has an end.
pub(crate) fn later(from: Instant, time: Duration) -> Instant {
    from + time.min(LONGEST)
}

/// The pauses between attempts (U4).
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next failure is the first one again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after this error.
    pub(crate) fn next(&mut self, error: &Error) -> Duration {
        // without random numbers the pause is the whole one
        let random = getrandom::u32().unwrap_or(u32::MAX);
        self.pause(error.retry_after(), f64::from(random) / f64::from(u32::MAX))
    }

    /// The pause for a `jitter` between 0 and 1.
    fn pause(&mut self, retry_after: Option<Duration>, jitter: f64) -> Duration {
        let whole = PAUSE_MIN.saturating_mul(1 << self.failures.min(10)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(0.5 + 0.5 * jitter).max(retry_after.unwrap_or_default())
    }
}

/// The tokens of a series of attempts (U8).
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    latest: Option<AsciiMetadataValue>,
    /// How the service refused the latest one.
    refusal: Option<Error>,
}

impl Tokens {
    /// Gets the token for the next attempt. If it is the one that was just refused, the refusal is final.
    pub(crate) async fn next(
        &mut self,
        connection: &Connection,
        deadline: Instant,
    ) -> Result<Option<AsciiMetadataValue>> {
        let token = connection.token(deadline).await?;
        match self.refusal.take() {
            Some(refusal) if token == self.latest => return Err(refusal.finally()),
            _ => self.latest.clone_from(&token),
        }
        Ok(token)
    }

    /// Remembers whether this error refuses the token.
    pub(crate) fn note(&mut self, error: &Error) {
        if error.class() == Class::NewToken {
            self.refusal = Some(error.clone());
        }
    }
}

/// How long calls may take (U9).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// One attempt.
    pub(crate) attempt: Duration,
    /// All attempts together.
    pub(crate) total: Duration,
}

/// How a call is repeated (U10).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Repeat {
    /// A repeated call does the same again.
    Always,
    /// A repeated call would do more than the first one.
    UnlessUnknown,
    /// The call removes something. This reason means success if an earlier attempt may have removed it.
    UntilGone(&'static str),
}

impl Repeat {
    fn may_repeat(self, error: &Error) -> bool {
        let is_harmless = !(error.is_outcome_unknown() && matches!(self, Self::UnlessUnknown));
        error.class() != Class::Final && is_harmless
    }

    fn is_success(self, error: &Error, was_unknown: bool) -> bool {
        was_unknown && matches!(self, Self::UntilGone(reason) if reason == error.reason())
    }
}

/// Calls one method with the times of a client: `call!(client, Always, get_room, request)`.
macro_rules! call {
    ($client:expr, $repeat:ident $(($gone:literal))?, $method:ident, $request:expr) => {{
        let call = |mut stub: $crate::connection::Stub, request| async move { stub.$method(request).await };
        let repeat = $crate::retry::Repeat::$repeat $(($gone))?;
        $client.connection.call($client.times, repeat, $request, call).await
    }};
}
pub(crate) use call;

/// Collects all pages of a list: `list!(client, list_rooms, rooms, request)`.
macro_rules! list {
    ($client:expr, $method:ident, $items:ident, $request:expr) => {{
        let (mut items, mut request) = (Vec::new(), $request);
        loop {
            let page = $crate::retry::call!($client, Always, $method, request.clone())?;
            items.extend(page.$items);
            if page.next_page_token.is_empty() {
                break Ok(items);
            }
            request.page_token = page.next_page_token;
        }
    }};
}
pub(crate) use list;

impl Connection {
    /// Calls until it succeeds, fails finally, or the time is up (U9).
    pub(crate) async fn call<Q, A, F>(
        &self,
        times: Times,
        repeat: Repeat,
        request: Q,
        call: impl Fn(Stub, Request<Q>) -> F,
    ) -> Result<A>
    where
        Q: Clone,
        A: Default,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = later(Instant::now(), times.total);
        let (mut backoff, mut tokens, mut was_unknown) = (Backoff::default(), Tokens::default(), false);
        let mut last_error = None;
        loop {
            let limit = times.attempt.min(deadline.saturating_duration_since(Instant::now()));
            let error = match self.attempt(limit, &mut tokens, request.clone(), &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if repeat.is_success(&error, was_unknown) {
                return Ok(A::default());
            }
            was_unknown |= error.is_outcome_unknown();
            let next = later(Instant::now(), backoff.next(&error));
            if next >= deadline || !repeat.may_repeat(&error) {
                return Err(error.unless_cut_short(limit < times.attempt, last_error).after(was_unknown));
            }
            last_error = Some(error);
            self.sleep_until(next).await.map_err(|error| error.after(was_unknown))?;
        }
    }

    /// Makes one attempt.
    pub(crate) async fn attempt<Q, A, F>(
        &self,
        limit: Duration,
        tokens: &mut Tokens,
        request: Q,
        call: &impl Fn(Stub, Request<Q>) -> F,
    ) -> Result<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = later(Instant::now(), limit);
        let token = self.unless_closed(tokens.next(self, deadline)).await?;
        let mut request = with_token(request, token);
        request.set_timeout(deadline - Instant::now());
        let (number, stub) = self.stub();
        // the call of the library is large, and would be a part of every future of the program
        let answer = Box::pin(async {
            let late = |_| Err(Status::deadline_exceeded("no answer in time"));
            let answer = time::timeout_at(deadline, call(stub, request)).await.unwrap_or_else(late);
            answer.map(Response::into_inner).map_err(Error::from)
        });
        self.unless_closed(answer).await.map_err(|error| {
            tokens.note(&error);
            if error.is_late() {
                self.renew(number);
            }
            // it was under way when the program closed the client
            let is_cancelled = error.is_cancelled();
            error.after(is_cancelled)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::atomic::{AtomicU32, Ordering},
    };

    use tonic::Code;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;
    use crate::{Client, connection::TokenSupplier};

    fn connection(token: Option<TokenSupplier>) -> Connection {
        let mut builder = Client::builder("http://127.0.0.1:1").allow_plaintext_token();
        builder.token = token;
        let Ok(connection) = Connection::new(builder) else { unreachable!() };
        connection
    }

    #[tokio::test]
    async fn a_call_that_was_under_way_when_the_client_was_closed_has_an_unknown_outcome() {
        let connection = connection(None);
        let hangs = |_, _: Request<()>| std::future::pending::<Result<Response<()>, Status>>();
        let (mut tokens, mut other_tokens) = (Tokens::default(), Tokens::default());
        let attempt = connection.attempt(Duration::MAX, &mut tokens, (), &hangs);
        let (outcome, ()) = tokio::join!(attempt, async { connection.closed.cancel() });
        assert!(outcome.is_err_and(|error| error.is_cancelled() && error.is_outcome_unknown()));
        let outcome = connection.attempt(Duration::MAX, &mut other_tokens, (), &hangs).await;
        assert!(outcome.is_err_and(|error| error.is_cancelled() && !error.is_outcome_unknown()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_is_not_that_of_an_attempt_that_was_cut_short() {
        let (connection, attempts) = (connection(None), AtomicU32::new(0));
        let times = Times { attempt: Duration::from_secs(10), total: Duration::from_secs(12) };
        let call = |_, _: Request<()>| {
            let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                time::sleep(Duration::from_secs(if is_first { 9 } else { 60 })).await;
                Err::<Response<()>, _>(Status::unavailable("refused"))
            }
        };
        let error = connection.call(times, Repeat::Always, (), call).await;
        assert!(error.is_err_and(|error| error.message() == "refused" && error.is_outcome_unknown()));
        assert_eq!(attempts.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_token_that_was_refused_stays_refused_while_its_function_fails() {
        let calls = AtomicU32::new(0);
        let connection = connection(Some(Box::new(move || {
            let is_down = calls.fetch_add(1, Ordering::Relaxed) == 1;
            Box::pin(async move { if is_down { Err("down".into()) } else { Ok("old".to_owned()) } })
        })));
        let (mut tokens, deadline) = (Tokens::default(), later(Instant::now(), Duration::MAX));
        assert!(tokens.next(&connection, deadline).await.is_ok());
        tokens.note(&Error::local(Code::Unauthenticated, "expired"));
        let down = tokens.next(&connection, deadline).await;
        assert!(down.is_err_and(|error| {
            tokens.note(&error);
            error.class() == Class::Again
        }));
        let refused = tokens.next(&connection, deadline).await;
        assert!(refused.is_err_and(|error| error.class() == Class::Final && error.code() == Code::Unauthenticated));
    }

    #[test]
    fn gone_means_success_only_after_an_unknown_outcome() {
        let details = ErrorDetails::with_error_info("ROOM_NOT_FOUND", "unibus.v1", HashMap::new());
        let gone = Error::from(Status::with_error_details(Code::NotFound, "text", details));
        let deletes = Repeat::UntilGone("ROOM_NOT_FOUND");
        assert!(deletes.is_success(&gone, true) && !deletes.is_success(&gone, false));
        assert!(
            !Repeat::UntilGone("MEMBER_NOT_FOUND").is_success(&gone, true) && !Repeat::Always.is_success(&gone, true)
        );
        let unknown = Error::local(Code::Unavailable, "broken");
        let undone = Error::unsent(Code::Unavailable, "no token");
        assert!(Repeat::Always.may_repeat(&unknown) && !Repeat::Always.may_repeat(&gone));
        assert!(!Repeat::UnlessUnknown.may_repeat(&unknown) && Repeat::UnlessUnknown.may_repeat(&undone));
    }

    #[test]
    fn pauses_double_up_to_two_seconds_and_begin_again() {
        let mut backoff = Backoff::default();
        let pauses = |backoff: &mut Backoff, jitter| [(); 7].map(|()| backoff.pause(None, jitter).as_millis());
        assert_eq!(pauses(&mut backoff, 1.0), [100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.reset();
        assert_eq!(pauses(&mut backoff, 0.0), [50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.pause(Some(Duration::from_secs(3)), 0.5), Duration::from_secs(3));
        let error = Error::local(Code::Unavailable, "gone");
        assert!((100..=2000).contains(&Backoff { failures: u32::MAX }.next(&error).as_millis()));
    }
}
