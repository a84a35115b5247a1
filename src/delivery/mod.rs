//! The subscription as state machines without I/O: batches of encoded messages, the ring in which a room's messages pass
//! by all its subscribers, and which frames follow what was read. Refuses to know tonic and async-nats.

mod batch;
mod live;
mod log;
mod ring;
#[cfg(test)]
mod tests;

pub(crate) use self::{
    batch::{Batch, BatchBuilder, Slice},
    live::LiveDelivery,
    log::{LogDelivery, ReadFrom},
    ring::{Budget, Next, Ring, RingLimits},
};
use crate::domain::Gap;

/// What the client is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Messages of the batch at hand, by their index.
    Deliver(std::ops::Range<usize>),
    Gap(Gap),
    /// The backlog of the opening is through, up to this position.
    CaughtUp(u64),
}

fn deliver(range: std::ops::Range<usize>, steps: &mut Vec<Step>) {
    if !range.is_empty() {
        steps.push(Step::Deliver(range));
    }
}
