//! The service beside NATS: its own nats-server, clusters, permissions, and native programs.

mod auth;
mod cluster;
mod embedded;
mod least_privilege;
mod native;
mod unparsable;
