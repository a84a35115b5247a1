//! JetStream: enabled for the account, enough of its limits left, and enough servers for the copies of the registry.

use super::{Finding, report::bytes};
use crate::{
    nats::probe::{Amount, JetStreamLimits, Probe},
    server::config::Config,
};

/// A limit of which more percent are used is reported.
const USED_PERCENT_MAX: u64 = 80;

pub(super) async fn check(config: &Config, probe: &Probe) -> Vec<Finding> {
    let limits = match probe.account().await {
        Ok(Some(limits)) => limits,
        Ok(None) => {
            return vec![Finding::fail(
                "jetstream",
                "not enabled for the account: only ephemeral rooms can be used",
                "add `jetstream { store_dir: ... }` to the NATS server, and enable JetStream for the account",
            )];
        }
        Err(error) => {
            let fix = "check the permission for \"$JS.API.INFO\", and whether the cluster has a leader";
            return vec![Finding::fail("jetstream", format!("does not answer: {error}"), fix)];
        }
    };
    let mut findings = vec![Finding::ok("jetstream", "enabled for the account")];
    findings.extend(limits.iter().flat_map(of_limits));
    findings.push(registry(config, probe).await);
    findings
}

fn of_limits(limits: &JetStreamLimits) -> Vec<Finding> {
    let count = |count: u64| count.to_string();
    let mut findings = vec![
        amount(limits, "storage", limits.file_bytes, bytes, "max_file"),
        amount(limits, "memory", limits.memory_bytes, bytes, "max_mem"),
        amount(limits, "streams", limits.streams, count, "max_streams"),
        amount(limits, "consumers", limits.consumers, count, "max_consumers"),
    ];
    if limits.requires_max_bytes {
        findings.push(Finding::fail(
            "jetstream-storage",
            "the account requires `max_bytes` of every stream, which the service does not set",
            "turn `max_bytes_required` off for the account",
        ));
    }
    findings
}

fn amount(
    limits: &JetStreamLimits,
    name: &str,
    amount: Amount,
    written: impl Fn(u64) -> String,
    setting: &str,
) -> Finding {
    let tier = if limits.tier.is_empty() { String::new() } else { format!(" of tier {}", limits.tier) };
    let (check, used) = (format!("jetstream-{name}"), written(amount.used));
    let Some(allowed) = amount.allowed else {
        return Finding::ok(&check, format!("{used} used{tier}, no limit of the account"));
    };
    let found = format!("{used} of {} used{tier}", written(allowed));
    let fix = format!("raise `{setting}` of the account, or delete rooms");
    // memory is only used by short-lived consumers
    if amount.used >= allowed && name != "memory" {
        return Finding::fail(&check, found, fix);
    }
    if amount.used.saturating_mul(100) > allowed.saturating_mul(USED_PERCENT_MAX) {
        return Finding::warn(&check, found, fix);
    }
    Finding::ok(&check, found)
}

async fn registry(config: &Config, probe: &Probe) -> Finding {
    let wanted = u64::from(config.registry_replicas);
    if wanted > 1 && probe.greeting().cluster.is_none() {
        return Finding::fail(
            "registry-replicas",
            format!("--registry-replicas is {wanted}, and the NATS server is in no cluster"),
            "use a NATS cluster, or set --registry-replicas 1",
        );
    }
    match probe.registry().await {
        None => Finding::skip("registry-replicas", "the registry does not exist yet, or may not be read"),
        Some(found) if !found.lagging.is_empty() => Finding::warn(
            "registry-replicas",
            format!("the copies on {} are old, or the servers are down", found.lagging.join(", ")),
            "start these servers, and check their disks and network",
        ),
        Some(found) if found.copies < wanted => Finding::warn(
            "registry-replicas",
            format!("the registry has {} copies, and --registry-replicas is {wanted}", found.copies),
            "check that enough servers of the cluster are up when the service starts",
        ),
        Some(found) => Finding::ok("registry-replicas", format!("{} copies, all current", found.copies)),
    }
}
