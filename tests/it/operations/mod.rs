//! What operators see: health, metrics, logs, and how the program stops.

mod canaries;
mod check;
mod config;
mod endpoints;
mod log;
mod metrics;
mod reload;
mod restore;
mod stop;
mod traces;
