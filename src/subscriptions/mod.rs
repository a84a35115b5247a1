//! The engine that keeps subscriptions running: their frames and ends, the readers that they share, and the positions of durable
//! subscribers. Refuses to know tonic and async-nats.

pub(crate) mod ending;
pub(crate) mod frame;
pub(crate) mod limit;
pub(crate) mod log_batches;
mod pace;
pub(crate) mod rate;
pub(crate) mod reads;
pub(crate) mod standing;
pub(crate) mod subscribers;
pub(crate) mod subscription;
pub(crate) mod upstream;
