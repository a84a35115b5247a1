//! What a caller may do: members, roles, and what happens when a right is taken away.

mod cluster;
mod durables;
mod forged;
mod members;
mod revoked;
mod sender;
pub(crate) mod table;
mod visible;
mod waiting;
