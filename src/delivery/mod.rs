//! State machines without I/O for a subscription: batches of encoded messages, the ring that the subscriptions of a
//! room share, and the decision which frames a client receives next.
//!
//! This module does not use tonic or async-nats.

mod batch;
mod ephemeral;
mod log;
mod ring;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    batch::{Batch, BatchBuilder, Sizes, Slice},
    ephemeral::EphemeralDelivery,
    log::{LogDelivery, ReadFrom},
    ring::{
        Next, Ring, RingBudget, RingLimits,
        page::{EncodedPage, PageFound, PageSought},
    },
};
use crate::domain::Gap;

/// The next frame for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Messages of the current batch, by their index.
    Deliver(std::ops::Range<usize>),
    Gap(Gap),
    /// The backlog at the opening was delivered completely, up to this position.
    CaughtUp(u64),
}

fn deliver(range: std::ops::Range<usize>, steps: &mut Vec<Step>) {
    if !range.is_empty() {
        steps.push(Step::Deliver(range));
    }
}
