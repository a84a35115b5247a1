//! Every bound is kept, and reported by its name.

mod answer_sizes;
mod callers;
mod connections;
mod nats;
mod payloads;
mod slow_clients;
mod subscriptions;
