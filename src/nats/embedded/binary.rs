//! Finds the nats-server binary, and checks its version.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::error::EmbeddedError;
use crate::nats::version::{VERSION_MIN, VERSION_TRUSTED, Version};

/// The environment variable that names the binary.
const BINARY_ENV: &str = "UNIBUS_NATS_SERVER";

/// Timeout of `nats-server --version`.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Parses the output line of `nats-server --version`: `nats-server: v2.15.1`, possibly with a suffix (`-RC.1`).
fn parse(line: &str) -> Option<Version> {
    let (numbers, _suffix) = {
        let version = line.trim().strip_prefix("nats-server: v")?;
        let end = version.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(version.len());
        version.split_at(end)
    };
    let mut numbers = numbers.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Version { major: next()?, minor: next()?, patch: next()? })
}

/// The binary to run: `given`, else the one in the environment, else the first on the `PATH`. Checks that its version
/// is supported.
pub(super) async fn find(given: Option<PathBuf>) -> Result<PathBuf, EmbeddedError> {
    let (binary, found) = find_version(given).await?;
    if found < VERSION_TRUSTED {
        tracing::warn!(
            binary = %binary.display(),
            %found,
            "this nats-server can lose acknowledged messages in a power failure; update it to {VERSION_TRUSTED} or newer"
        );
    } else {
        tracing::debug!(binary = %binary.display(), %found, "found nats-server");
    }
    Ok(binary)
}

/// As [`find`], with the version of the binary.
pub(super) async fn find_version(given: Option<PathBuf>) -> Result<(PathBuf, Version), EmbeddedError> {
    let binary = choose(given, std::env::var_os(BINARY_ENV));
    let found = version(&binary).await?;
    if found < VERSION_MIN {
        return Err(EmbeddedError::BinaryTooOld { binary, found });
    }
    Ok((binary, found))
}

fn choose(given: Option<PathBuf>, environment: Option<OsString>) -> PathBuf {
    given
        .or_else(|| environment.filter(|name| !name.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("nats-server"))
}

async fn version(binary: &PathBuf) -> Result<Version, EmbeddedError> {
    let unusable = |reason: String| EmbeddedError::BinaryUnusable { binary: binary.clone(), reason };

    let answer = Command::new(binary).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(EmbeddedError::BinaryNotFound { binary: binary.clone() });
        }
        Ok(Err(error)) => return Err(unusable(error.to_string())),
        Err(_elapsed) => return Err(unusable(format!("no answer within {ANSWER_WITHIN:?}"))),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(parse).ok_or_else(|| {
        let first = text.lines().next().unwrap_or_default();
        unusable(format!("{}, it printed `{}`", output.status, first.escape_debug()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_version_is_read_with_and_without_a_suffix() {
        let version = |major, minor, patch| Some(Version { major, minor, patch });
        assert_eq!(parse("nats-server: v2.15.1"), version(2, 15, 1));
        assert_eq!(parse("nats-server: v2.14.0-RC.3\n"), version(2, 14, 0));
        assert_eq!(parse("nats-server: v10.0.12+abc"), version(10, 0, 12));
        for line in ["", "nats-server: v2", "nats-server: 2.15.1", "nats-server: v2.x.1", "nginx/1.2.3"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(parse("nats-server: v2.9.25").unwrap() < VERSION_MIN);
        assert!(parse("nats-server: v2.14.0").unwrap() >= VERSION_MIN);
        assert!(parse("nats-server: v3.0.0").unwrap() >= VERSION_TRUSTED);
    }

    #[test]
    fn the_given_binary_comes_before_the_environment_and_that_before_the_path() {
        assert_eq!(choose(Some("/a".into()), Some("/b".into())), PathBuf::from("/a"));
        assert_eq!(choose(None, Some("/b".into())), PathBuf::from("/b"));
        assert_eq!(choose(None, Some(OsString::new())), PathBuf::from("nats-server"));
        assert_eq!(choose(None, None), PathBuf::from("nats-server"));
    }
}
