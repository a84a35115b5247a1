//! Pauses between attempts (U4), and calls that are attempted until they succeed (U9).

use std::time::Duration;

use tokio::time::{self, Instant};
use tonic::{Code, Request, Response, Status};

use crate::{
    connection::{Connection, Stub, with_token},
    error::{Class, Error, Result},
};

/// The longest pause before the second attempt.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

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
    latest: Option<String>,
    /// How the service refused the latest one.
    refusal: Option<Error>,
}

impl Tokens {
    /// Gets the token for the next attempt. If it is the one that was just refused, the refusal is final.
    pub(crate) async fn next(&mut self, connection: &Connection) -> Result<Option<String>> {
        let token = connection.token().await?;
        match self.refusal.take() {
            Some(refusal) if token == self.latest => return Err(refusal.finally()),
            _ => self.latest.clone_from(&token),
        }
        Ok(token)
    }

    /// Remembers whether this error refuses the token.
    pub(crate) fn note(&mut self, error: &Error) {
        self.refusal = (error.class() == Class::NewToken).then(|| error.clone());
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
        let deadline = Instant::now() + times.total;
        let (mut backoff, mut tokens, mut was_unknown) = (Backoff::default(), Tokens::default(), false);
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
            let pause = backoff.next(&error);
            let is_late = Instant::now() + pause >= deadline;
            if is_late || !repeat.may_repeat(&error) {
                return Err(error);
            }
            time::sleep(pause).await;
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
        let attempt = async {
            let token = tokens.next(self).await?;
            let mut request = with_token(request, token.as_deref())?;
            request.set_timeout(limit);
            let (generation, stub) = self.stub();
            let late = |_| Err(Status::deadline_exceeded("no answer in time"));
            let answer = time::timeout(limit, call(stub, request)).await.unwrap_or_else(late);
            answer.map(Response::into_inner).map_err(|status| {
                let error = Error::from(status);
                if error.code() == Code::DeadlineExceeded && error.reason().is_empty() {
                    self.renew(generation);
                }
                error
            })
        };
        let answer = self.unless_closed(attempt).await;
        if let Err(error) = &answer {
            tokens.note(error);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

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
