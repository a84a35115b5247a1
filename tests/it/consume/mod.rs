//! Consume: several subscriptions on one stream.

mod acks;
mod credit;
mod ends;
mod fairness;
mod order;
mod rooms;
mod session;
