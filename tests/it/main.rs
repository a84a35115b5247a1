//! The service seen from outside: the generated client over a real socket, in front of a real nats-server.
//!
//! Every test has servers of its own, with their own ports and directories, and takes them down with it. Tests assert
//! codes, reasons and fields, never the text of a message.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)] // a test that meets the unexpected fails loudly

mod acknowledge;
mod bad_input;
mod bad_publish;
mod history;
mod history_anchors;
mod history_cursors;
mod history_holes;
mod http_history;
mod native;
mod payload_limits;
mod property;
mod publish;
mod publish_ephemeral;
mod publish_lifetime;
mod room_adoption;
mod room_instances;
mod room_list;
mod room_names;
mod rooms;
mod subscribe_resume;
mod support;
mod takeover;
