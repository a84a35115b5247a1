//! Publishing, by each of the three calls.

mod batch;
mod bounds;
mod cumulative;
mod cumulative_faults;
mod deadline;
mod ephemeral;
mod faults;
mod groups;
mod lifetime;
mod message_ids;
mod paths;
mod persisted;
mod refused_fields;
mod stream;
