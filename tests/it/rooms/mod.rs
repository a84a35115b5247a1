//! Rooms: created, named, changed, listed, purged and deleted.

mod adoption;
mod bad_input;
mod dedupe_window;
mod delete_message;
mod field_paths;
mod instances;
mod life;
mod list;
mod many;
mod names;
mod purge;
mod update;
