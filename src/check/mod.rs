//! `unibus check`: checks everything that the service needs, without serving and without changing data.
//!
//! Each check is a function that returns findings. A check of NATS is bounded in time, also when NATS hangs.

mod auth;
mod certificates;
mod data_dir;
mod jetstream;
mod machine;
mod nats;
mod report;
mod traces;

use std::time::Duration;

use clap::Args;
use tokio::time;

pub use self::report::CheckReport;
use self::report::Finding;
use crate::{error::Error, server::config::Config};

/// How long all checks of one kind may take together.
const CHECK_TIMEOUT: Duration = Duration::from_secs(25);

/// Check the configuration, the files, this machine and NATS, without serving
///
/// Takes the same flags, variables and file as the service. Prints what is wrong and what to do. Exit status: 0 without
/// a failure, 1 with a failure, 2 if a flag or the configuration file is wrong. Changes no data.
#[derive(Clone, Debug, Args)]
pub struct CheckCommand {
    #[command(flatten)]
    config: Config,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CheckCommand {
    /// Makes all checks. Takes at most half a minute.
    pub async fn run(self) -> CheckReport {
        let Self { config, json } = self;
        let mut findings = vec![configuration(&config)];
        let config = match config.clone().checked() {
            Ok(checked) => checked,
            Err(error) => {
                findings.extend(of_error("configuration", &error));
                config
            }
        };
        let of_files = async {
            let mut found = auth::check(&config).await;
            found.extend(certificates::check(&config).await);
            found.extend(traces::check(&config).await);
            found
        };
        let of_machine = async {
            let mut found = machine::check(&config).await;
            if config.nats.url.is_none() {
                found.extend(data_dir::check(&config).await);
            }
            found
        };
        let of_nats = async { if config.nats.url.is_some() { nats::check(&config).await } else { Vec::new() } };
        let (files, machine, nats) =
            tokio::join!(bounded("files", of_files), bounded("machine", of_machine), bounded("nats", of_nats));
        findings.extend(files.into_iter().chain(machine).chain(nats));
        CheckReport { findings, json }
    }
}

/// The checks' findings, or the finding that they did not end in time.
async fn bounded(check: &str, checks: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    match time::timeout(CHECK_TIMEOUT, Box::pin(checks)).await {
        Ok(findings) => findings,
        Err(_) => vec![Finding::fail(
            check,
            format!("not everything was checked within {CHECK_TIMEOUT:?}"),
            "see whether a disk, a network or NATS hangs, and try again",
        )],
    }
}

/// The flags and the file have been parsed already.
fn configuration(config: &Config) -> Finding {
    let file = config.config_file.as_ref().map(|path| format!(", and the file {}", path.display()));
    Finding::ok("configuration", format!("the flags and variables can be used{}", file.unwrap_or_default()))
}

/// One finding for each wrong field of the error, under the name of its flag, or one finding.
fn of_error(check: &str, error: &Error) -> Vec<Finding> {
    let violations = error.violations();
    if violations.is_empty() {
        return vec![Finding::fail(check, error.message(), "see the message")];
    }
    let wrong = violations.iter().map(|violation| {
        let flag = format!("--{}", violation.field.replace('_', "-"));
        Finding::fail(&flag, &*violation.description, format!("change {flag}, or the file that it names"))
    });
    wrong.collect()
}
