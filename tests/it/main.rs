//! The service seen from outside: the generated client over a real socket, in front of a real nats-server.
//!
//! Every test has servers of its own, with their own ports and directories, and takes them down with it. Tests assert
//! codes, reasons and fields, never the text of a message.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)] // a test that meets the unexpected fails loudly
#![allow(clippy::disallowed_methods)] // a test's tasks end with its runtime
#![allow(clippy::from_iter_instead_of_collect)] // `Vec::from_iter(1..=5)` says what is expected, beside what was seen

mod abuse;
mod access;
mod auth;
mod browsers;
mod cli;
mod connect;
mod consume;
mod documents;
mod durable;
mod faults;
mod history;
mod limits;
mod nats;
mod operations;
mod publish;
mod rooms;
mod subscribe;
mod support;
mod tls;
