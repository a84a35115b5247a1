//! Consume: several subscriptions on one stream.

mod acks;
mod credit;
mod ends;
mod fairness;
mod order;
mod pings;
mod rooms;
mod session;
