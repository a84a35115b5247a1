//! An external NATS server: reachable, new enough, with the permissions that the service needs, and on time.

use super::{Finding, jetstream, of_error, report::bytes};
use crate::{
    error::{Error, Reason},
    limits::SIGNATURE_TIME_TOLERANCE,
    nats::{
        probe::{PERMISSIONS_TRIED, Probe},
        version::{VERSION_MIN, VERSION_TRUSTED},
    },
    server::config::Config,
};

/// A difference of the clocks of more seconds is reported.
const SKEW_SECONDS_MAX: f64 = 2.0;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let probes = match Probe::each_address(&config.nats).await {
        Ok(probes) => probes,
        Err(error) => return of_error("--nats-url", &error),
    };
    let mut findings = Vec::new();
    let mut reached = None;
    let is_any_reached = probes.iter().any(|(_, probe)| probe.is_ok());
    for (address, probe) in probes {
        match probe {
            Ok(probe) => {
                findings.push(version(&address, &probe));
                reached.get_or_insert(probe);
            }
            Err(error) => findings.push(unreachable(&address, &error, is_any_reached)),
        }
    }
    let Some(mut probe) = reached else {
        findings.push(Finding::skip(
            "nats",
            "permissions, JetStream and the clock were not checked, since no server is reached",
        ));
        return findings;
    };
    findings.extend(permissions(&mut probe).await);
    findings.push(payload(config, &probe));
    findings.extend(jetstream::check(config, &probe).await);
    findings.push(clock(&probe).await);
    findings.push(Finding::skip(
        "nats-writes",
        "storing a message, creating a stream and `allow_responses` were not tried, since that needs changes",
    ));
    findings
}

fn unreachable(address: &str, error: &Error, is_another_reached: bool) -> Finding {
    if !error.violations().is_empty() {
        return Finding::fail("nats", format!("{address}: {}", error.message()), "change the flag that is named");
    }
    // the first cause says more than the message, such as "connection refused"
    let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
    let (found, fix) = if error.reason() == Reason::NatsUnavailable {
        (format!("{address} cannot be reached{cause}"), "start the server, or check --nats-url and the network")
    } else {
        (
            format!("{address}: {}{cause}", error.message()),
            "check the --nats-... flags, and the user on the NATS server",
        )
    };
    if is_another_reached { Finding::warn("nats", found, fix) } else { Finding::fail("nats", found, fix) }
}

fn version(address: &str, probe: &Probe) -> Finding {
    let greeting = probe.greeting();
    let found = format!("{address} answers, version {}", greeting.version);
    if greeting.parsed_version < VERSION_MIN {
        return Finding::fail("nats-version", found, format!("update the NATS server to {VERSION_MIN} or newer"));
    }
    if greeting.parsed_version < VERSION_TRUSTED {
        let found = format!("{found}, which can lose messages that it reported as synced");
        return Finding::warn("nats-version", found, format!("update the NATS server to {VERSION_TRUSTED} or newer"));
    }
    Finding::ok("nats-version", found)
}

async fn permissions(probe: &mut Probe) -> Vec<Finding> {
    let missing = match probe.missing_permissions().await {
        Ok(missing) => missing,
        Err(error) => {
            let found = format!("the permissions could not be tried: {error}");
            return vec![Finding::fail("nats-permissions", found, "check the network, and try again")];
        }
    };
    if missing.is_empty() {
        return vec![Finding::ok(
            "nats-permissions",
            format!("all {PERMISSIONS_TRIED} that the service needs; subjects that creators choose were not tried"),
        )];
    }
    let findings = missing.into_iter().map(|missing| {
        let (operation, subject) = (missing.operation, missing.subject);
        Finding::fail(
            "nats-permissions",
            format!("may not {operation} to \"{subject}\""),
            format!("add \"{subject}\" to `{operation}.allow` of the NATS user; docs/nats.md lists all permissions"),
        )
    });
    findings.collect()
}

fn payload(config: &Config, probe: &Probe) -> Finding {
    let allowed = u64::try_from(probe.greeting().payload_bytes_max).unwrap_or(u64::MAX);
    let wanted = u64::from(config.rooms.payload_max);
    let found = format!("payloads up to {}", bytes(allowed.min(wanted)));
    if allowed == 0 {
        let fix = "raise `max_payload` of the NATS server; the headers of the service need 64 KiB of it";
        return Finding::fail("nats-payload", "the NATS server accepts no payload beside the headers", fix);
    }
    Finding::ok("nats-payload", found)
}

async fn clock(probe: &Probe) -> Finding {
    let Some((ahead, error)) = probe.clock_ahead().await else {
        return Finding::skip("clock", "the NATS server does not tell its time to this user");
    };
    let way = if ahead >= 0.0 { "ahead of" } else { "behind" };
    let found =
        format!("the clock of the NATS server is {:.2}s {way} this machine's, to within {error:.2}s", ahead.abs());
    let fix = "synchronise the clocks of both machines, for example with chrony";
    if ahead.abs() > SIGNATURE_TIME_TOLERANCE.as_secs_f64() / 2.0 {
        return Finding::fail("clock", format!("{found}; senders of messages are lost at a minute"), fix);
    }
    if ahead.abs() > SKEW_SECONDS_MAX + error {
        return Finding::warn("clock", found, fix);
    }
    Finding::ok("clock", found)
}
