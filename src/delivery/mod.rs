//! The subscription as state machines without I/O: which frames follow what was read, what a slow reader loses in an
//! ephemeral room, and what the client's stream has taken. Refuses to know tonic and async-nats.

mod live;
mod log;
mod taken;

pub(crate) use self::{
    live::{LiveItem, LiveQueue},
    log::{LogDelivery, Step},
    taken::TakenLedger,
};
