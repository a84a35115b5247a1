//! The commands that call a service: the built binary against a real service.

mod connection;
mod follow;
mod history;
mod output;
mod publish;
mod rooms;
