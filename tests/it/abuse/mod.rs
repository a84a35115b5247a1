//! What callers do by malice or carelessness: it costs themselves, and nobody beside them.

pub(crate) mod bodies;
mod connections;
mod errors;
mod events;
mod fuzz;
pub(crate) mod reading;
mod refusals;
mod sessions;
