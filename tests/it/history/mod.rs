//! Reading a room's history, a page at a time.

mod active;
mod anchors;
mod cursors;
mod holes;
mod http;
mod newest;
mod pages;
