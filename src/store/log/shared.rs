//! Answers about a log that several calls share.
//!
//! A call uses an answer only if its request was sent after the call began. So the answer knows everything that was
//! acknowledged before the call. While one request is under way, the calls that begin wait, and share the next one.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use crate::{
    domain::{RoomState, StreamName},
    error::{Error, Result},
    sync::PerKey,
};

/// The requests for the states of logs. A log is in the map while calls ask for its state.
#[derive(Debug, Default)]
pub(super) struct SharedStates(PerKey<StreamName, StateRequests>);

/// The requests for the state of one log.
#[derive(Debug, Default)]
struct StateRequests {
    /// The number of requests that were sent.
    sent: AtomicU64,
    /// The number of the newest answered request, and its answer. Locked while a request is under way.
    newest: Mutex<Option<(u64, Result<RoomState>)>>,
}

impl SharedStates {
    /// The answer of `ask`, or of a call whose request was sent after this call began.
    ///
    /// # Errors
    /// As `ask`.
    ///
    /// # Cancel safety
    /// May be dropped at any point. Another call then asks.
    pub(super) async fn get(
        &self,
        stream: &StreamName,
        ask: impl AsyncFnOnce() -> Result<RoomState>,
    ) -> Result<RoomState> {
        let Self(logs) = self;
        let requests = logs.get_or_make(stream.clone(), StateRequests::default);
        let sent_before = requests.sent.load(Ordering::SeqCst);
        let mut newest = requests.newest.lock().await;
        if let Some((number, answer)) = &*newest
            && *number > sent_before
        {
            return answer.as_ref().copied().map_err(Error::without_cause);
        }
        let number = requests.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = ask().await;
        *newest = Some((number, answer.as_ref().copied().map_err(Error::without_cause)));
        answer
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_call_never_gets_the_answer_of_a_request_that_was_sent_before_it() {
        // Goal: calls share requests, and each gets an answer that is not older than the call. Method: a request is held up
        // while ten calls begin; they get the next answer, all the same one.
        let states = SharedStates::default();
        let stream = StreamName::try_from("UNIBUS_lobby".to_owned()).unwrap();
        let (sent, gate) = (Arc::new(AtomicU64::new(0)), Semaphore::new(0));
        let call = || {
            states.get(&stream, async || {
                let last_sequence = sent.fetch_add(1, Ordering::SeqCst) + 1;
                gate.acquire().await.unwrap().forget();
                Ok(RoomState { last_sequence, ..RoomState::default() })
            })
        };
        let first = async { call().await.unwrap().last_sequence };
        let later = async {
            while sent.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            let calls = join_all((0..10).map(|_| call()));
            let open = async { gate.add_permits(2) };
            let (answers, ()) = tokio::join!(calls, open);
            answers.into_iter().map(|answer| answer.unwrap().last_sequence).collect::<Vec<_>>()
        };
        assert_eq!(tokio::join!(first, later), (1, vec![2; 10]));
        gate.add_permits(1);
        assert_eq!(call().await.unwrap().last_sequence, 3);
    }
}
