//! Reads what the operating system knows of the process. Outside of Linux nothing is known.

use std::fs;

use rustix::{
    param::{clock_ticks_per_second, page_size},
    process::{Resource, getrlimit},
};

use super::{ProcessMetrics, series::float};

/// Sets the readings of the process.
pub(super) fn read(metrics: &ProcessMetrics) {
    if let Some(stat) = Stat::read() {
        let ticks = float(clock_ticks_per_second().max(1));
        metrics.cpu_seconds.set(float(stat.user_ticks.saturating_add(stat.system_ticks)) / ticks);
        metrics.resident_bytes.set_number(stat.resident_pages.saturating_mul(page_size() as u64));
        metrics.virtual_bytes.set_number(stat.virtual_bytes);
        metrics.threads.set_number(stat.threads);
        if let Some(booted) = booted_at() {
            metrics.start_time.set(float(booted) + float(stat.start_ticks) / ticks);
        }
    }
    // one of them is the descriptor that reads the folder
    let open = fs::read_dir("/proc/self/fd").map(|entries| entries.count().saturating_sub(1));
    metrics.open_fds.set_known(open.ok().and_then(|open| u64::try_from(open).ok()));
    metrics.max_fds.set_known(getrlimit(Resource::Nofile).current);
}

/// The fields of `/proc/self/stat` that are used (`proc_pid_stat(5)`).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    user_ticks: u64,
    system_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // the name of the program may contain spaces and brackets; its closing bracket is the last one
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // field 3 of the manual is the first after the name
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user_ticks: field(14)?,
            system_ticks: field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// When the machine was started, in seconds since 1970.
fn booted_at() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 2 0 0 0 11 12 0 0 20 0 5 0 100 4096 3 18446744073709551615 1";
        let expected = Stat {
            user_ticks: 11,
            system_ticks: 12,
            threads: 5,
            start_ticks: 100,
            virtual_bytes: 4096,
            resident_pages: 3,
        };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1"), None);
    }
}
