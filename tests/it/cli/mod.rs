//! The commands that call a service: the built binary against a real service.

mod bench;
mod connection;
mod damage;
mod export;
mod follow;
mod history;
mod import;
mod import_again;
mod output;
mod publish;
mod rooms;
mod top;
mod transfer;
