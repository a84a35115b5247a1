//! Durable subscribers: positions, acknowledgements, and who holds them.

mod acknowledge;
mod begin;
mod delete;
mod generations;
mod handover;
mod list;
mod names;
mod native_deletion;
mod seek;
mod takeover;
