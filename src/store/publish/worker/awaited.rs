//! The answers that a worker awaits: of single messages, and of runs.

use std::task::Poll;

use tokio::time::Instant;

use crate::store::publish::{
    acks::{Expected, Reply},
    run::RunAnswers,
};

/// The awaited answer of a message.
pub(super) struct Awaited {
    pub answer: AwaitedAnswer,
    /// The epoch of the log at the time of sending, as far as it was known.
    pub epoch: i64,
    pub sent_at: Instant,
    /// True for the first message of a run, and for a message that could have joined a run but was sent alone.
    pub starts_run: bool,
}

pub(super) enum AwaitedAnswer {
    /// Of a plain publish.
    One(Expected<Reply>),
    /// Of a run, on its first message. `sent` is the number of its messages.
    Run { expected: Expected<RunAnswers>, sent: usize },
    /// On the other messages of a run, which are settled together with the first.
    InRun,
}

/// An answer to the oldest message, or to the oldest run. `None`: no answer will come.
pub(super) enum Answer {
    One(Option<Reply>),
    Run(Option<RunAnswers>, usize),
}

impl AwaitedAnswer {
    pub(super) async fn answer(&mut self) -> Answer {
        match self {
            Self::One(expected) => Answer::One(expected.answer().await),
            Self::Run { expected, sent } => Answer::Run(expected.answer().await, *sent),
            Self::InRun => std::future::pending().await,
        }
    }

    pub(super) fn try_answer(&mut self) -> Poll<Answer> {
        match self {
            Self::One(expected) => expected.try_answer().map(Answer::One),
            Self::Run { expected, sent } => expected.try_answer().map(|answers| Answer::Run(answers, *sent)),
            Self::InRun => Poll::Pending,
        }
    }

    /// What is known when no answer will come in time.
    pub(super) fn give_up(&mut self) -> Answer {
        match self {
            Self::One(_) | Self::InRun => Answer::One(None),
            Self::Run { expected, sent } => Answer::Run(expected.give_up(), *sent),
        }
    }
}
