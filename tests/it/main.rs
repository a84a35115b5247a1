//! The service seen from outside: the generated client over a real socket, in front of a real nats-server.
//!
//! Every test has servers of its own, with their own ports and directories, and takes them down with it. Tests assert
//! codes, reasons and fields, never the text of a message.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)] // a test that meets the unexpected fails loudly
#![allow(clippy::disallowed_methods)] // a test's tasks end with its runtime
#![allow(clippy::from_iter_instead_of_collect)] // `Vec::from_iter(1..=5)` says what is expected, beside what was seen

mod access_table;
mod acknowledge;
mod architecture;
mod auth;
mod auth_attacks;
mod auth_claims;
mod auth_keys;
mod auth_log;
mod bad_input;
mod bad_publish;
mod canaries;
mod cluster;
mod consume;
mod consume_acks;
mod consume_credit;
mod consume_ends;
mod consume_fairness;
mod delete_message;
mod docs;
mod embedded;
mod faults;
mod faults_kills;
mod faults_network;
mod faults_process;
mod faults_publishers;
mod faults_purge;
mod faults_stall;
mod fuzz;
mod handover;
mod history;
mod history_anchors;
mod history_cursors;
mod history_holes;
mod history_pages;
mod http_history;
mod least_privilege;
mod limits_callers;
mod limits_connections;
mod limits_nats;
mod limits_slow_clients;
mod limits_subscriptions;
mod many;
mod members;
mod members_durables;
mod members_revoked;
mod members_visible;
mod native;
mod nats_auth;
mod operations;
mod operations_log;
mod operations_stop;
mod payload_limits;
mod property;
mod publish;
mod publish_batch;
mod publish_bounds;
mod publish_ephemeral;
mod publish_faults;
mod publish_groups;
mod publish_lifetime;
mod publish_paths;
mod publish_stream;
mod room_adoption;
mod room_instances;
mod room_list;
mod room_names;
mod room_purge;
mod room_update;
mod rooms;
mod sender;
mod slow_subscriber;
mod stale_answers;
mod subscribe_basic;
mod subscribe_ephemeral;
mod subscribe_gaps;
mod subscribe_resume;
mod subscribe_since;
mod subscribe_start;
mod subscribers_delete;
mod subscribers_list;
mod subscribers_seek;
mod support;
mod takeover;
mod tls;
mod tls_clients;
mod tls_reload;
mod tokens;
mod unparsable;
mod upstream;
