//! What a benchmark does: the flags, checked and complete.

use std::time::Duration;

use super::{BenchCommand, pace::PhaseEnd, payload::STAMP_BYTES};
use crate::cli::failure::{CliResult, Failure};

/// The largest payload of a benchmark: that of a service.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Publishers and subscribers of all rooms together.
const CLIENTS_MAX: u64 = 100_000;
/// Connections, if their number is not given.
const CONNECTIONS_DEFAULT_MAX: u64 = 64;
/// Messages that wait for their acknowledgements, if their number is not given.
const WINDOW_DEFAULT: u32 = 256;
/// Payload bytes of a publisher that wait for their acknowledgements: more than a service reads before it answers.
const WINDOW_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How long messages are published, if nothing else is given.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// The work of one run.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) rooms: u32,
    /// Publishers of each room.
    pub(super) publishers: u32,
    /// Subscribers of each room.
    pub(super) subscribers: u32,
    /// Bytes of a payload.
    pub(super) size: usize,
    /// When the measurement ends.
    pub(super) end: PhaseEnd,
    pub(super) warm_up: Duration,
    /// Messages per second of all publishers.
    pub(super) rate: Option<u64>,
    /// Messages of one publisher that wait for their acknowledgements.
    pub(super) window: usize,
    /// Whether each message is a call of its own.
    pub(super) unary: bool,
    pub(super) connections: usize,
}

impl Workload {
    /// Checks the flags.
    pub(super) fn of(command: &BenchCommand) -> CliResult<Self> {
        let smallest = STAMP_BYTES as u64;
        if !(smallest..=PAYLOAD_BYTES_MAX).contains(&command.size) {
            let text =
                format!("--size must be {smallest} bytes to 64 MiB: each payload has a stamp of {smallest} bytes");
            return Err(Failure::usage(text));
        }
        let clients = u64::from(command.rooms) * (u64::from(command.publishers) + u64::from(command.subscribers));
        if clients > CLIENTS_MAX {
            let text = format!("--rooms, --publishers and --subscribers make {clients} clients; at most {CLIENTS_MAX}");
            return Err(Failure::usage(text));
        }
        let end = match (command.messages, command.duration) {
            (Some(messages), _) => PhaseEnd::Messages(messages),
            (None, duration) => PhaseEnd::After(duration.unwrap_or(DURATION_DEFAULT)),
        };
        let window = command.window.unwrap_or(if command.unary { 1 } else { WINDOW_DEFAULT });
        let window = u64::from(window).min((WINDOW_BYTES_MAX / command.size).max(1));
        let connections = command.connections.map_or(clients.min(CONNECTIONS_DEFAULT_MAX), u64::from);
        let wide = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Self {
            rooms: command.rooms,
            publishers: command.publishers,
            subscribers: command.subscribers,
            size: wide(command.size),
            end,
            warm_up: command.warm_up,
            rate: command.rate,
            window: wide(window),
            unary: command.unary,
            connections: wide(connections.min(clients)),
        })
    }

    pub(super) fn publishers_of_all_rooms(&self) -> u32 {
        self.rooms.saturating_mul(self.publishers)
    }

    pub(super) fn subscribers_of_all_rooms(&self) -> u32 {
        self.rooms.saturating_mul(self.subscribers)
    }
}
