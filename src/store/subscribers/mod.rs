//! Durable subscribers: their names, their JetStream consumers, and the instance that holds each.

pub(crate) mod durable_list;
pub(crate) mod durables;
pub(crate) mod holders;
pub(crate) mod peers;
pub(crate) mod selector;
pub(crate) mod subscriber;
