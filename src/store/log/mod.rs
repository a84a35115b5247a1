//! The logs of rooms: JetStream streams, and the ways to read them.

mod adoption;
pub(crate) mod backlogs;
pub(crate) mod ephemeral;
pub(crate) mod excerpt;
mod fetch;
pub(crate) mod high_water_marks;
pub(crate) mod history;
pub(crate) mod message;
pub(crate) mod message_id;
pub(crate) mod raw;
pub(crate) mod reader;
mod shared;
pub(crate) mod streams;
mod turn;
