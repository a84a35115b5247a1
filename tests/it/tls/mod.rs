//! TLS towards clients.

mod clients;
mod handshake;
mod reload;
