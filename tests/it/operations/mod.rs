//! What operators see: health, metrics, logs, and how the program stops.

mod canaries;
mod endpoints;
mod log;
mod stop;
