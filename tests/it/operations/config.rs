//! The configuration file: which value wins, and what a wrong file says.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::support::free_port;

/// The exit status for a command line, an environment or a file that cannot be used.
const USAGE: i32 = 2;

/// A configuration file of its own.
struct File {
    dir: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { dir: TempDir::new().expect("a temporary directory") };
        fs::write(file.path(), text).expect("a file");
        file.chmod(0o600);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("unibus.toml")
    }

    fn chmod(&self, mode: u32) {
        fs::set_permissions(self.path(), fs::Permissions::from_mode(mode)).expect("a mode");
    }

    /// Runs the program with this file until it ends. Without a NATS server it ends by itself, after a line of its log.
    fn run(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let url = format!("--nats-url=nats://127.0.0.1:{}", free_port());
        run(
            &[&["--config", self.path().to_str().unwrap(), &url, "--nats-connect-timeout=1ms"], args].concat(),
            variables,
        )
    }
}

fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unibus"))
        .args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
        .args(args)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// Whether the log of the program was JSON.
fn is_json(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().next().unwrap_or_else(|| panic!("no log: {output:?}"));
    serde_json::from_str::<serde_json::Value>(line).is_ok()
}

/// Asserts that the program did not start, and returns what it wrote.
#[track_caller]
fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(USAGE), "{text}");
    assert!(output.stdout.is_empty(), "{output:?}");
    text
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    // Goal: a value for one run needs no other file. Method: the format of the log, set by the default, the file, a variable and
    // a flag, each against the ones before.
    let (text, json) = ("UNIBUS_LOG_FORMAT", "log-format = \"json\"\n");
    for (file, variables, args, expected) in [
        ("", &[][..], &[][..], false),
        (json, &[], &[], true),
        (json, &[(text, "text")], &[], false),
        (json, &[(text, "text")], &["--log-format=json"], true),
        (json, &[], &["--log-format", "text"], false),
    ] {
        let output = File::new(file).run(args, variables);
        assert_eq!(is_json(&output), expected, "{file:?} {variables:?} {args:?}");
        assert_eq!(output.status.code(), Some(1));
    }
    // the variable may also name the file
    let file = File::new(json);
    let path = file.path();
    let url = format!("nats://127.0.0.1:{}", free_port());
    let variables = [("UNIBUS_CONFIG", path.to_str().unwrap()), ("UNIBUS_NATS_URL", &*url)];
    assert!(is_json(&run(&["--nats-connect-timeout=1ms"], &variables)));
}

#[test]
fn every_wrong_key_is_named_with_its_line() {
    // Goal: an operator mends a file in one go. Method: a file with a mistake of each kind among right lines; the program ends
    // with 2, and names the line and the key of each, with the nearest key for an unknown one.
    let wrong = [
        ("lisen = \"127.0.0.1:0\"", "`listen`"),
        ("nats_url = \"nats://a:4222\"", "`nats-url`"),
        ("zebra = 1", "is no flag"),
        ("config = \"other.toml\"", "is no flag"),
        ("json = true", "is no flag"),
        ("auth = \"on\"", "off, enforce"),
        ("auth-insecure = \"yes\"", "true or false"),
        ("drain-timeout = 10", "drain-timeout"),
        ("worker-threads = 0", "1..=1024"),
        ("max-connections = -1", "-1"),
        ("registry-replicas = 2", "1, 3 or 5"),
        ("heartbeat-interval = \"1ms\"", "at least"),
        ("log-format = [\"json\"]", "a list"),
        ("log = \"unibus=loud\"", "log"),
        ("limit-rooms = 1979-05-27", "a date"),
    ];
    let mut text = String::from("# a comment\nlimit-calls = 7\n");
    for (line, _) in wrong {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("[auth-keys]\nfile = \"a\"\n");
    let told = refused(&File::new(&text).run(&[], &[]));
    let lines: Vec<_> = told.lines().filter(|line| line.trim_start().starts_with("line ")).collect();
    assert_eq!(lines.len(), wrong.len() + 1, "{told}");
    for (at, ((line, expected), told)) in wrong.iter().zip(&lines).enumerate() {
        let key = line.split(' ').next().unwrap();
        assert!(told.contains(&format!("line {}: `{key}`", at + 3)) && told.contains(expected), "{line}: {told}");
    }
    assert!(lines.last().unwrap().contains("`auth-keys`"), "{told}");
}

#[test]
fn a_file_that_cannot_be_parsed_or_read_ends_the_start() {
    // Goal: no service with half of its configuration. Method: broken TOML, a key twice, a file that is too large, no file, a
    // directory; the program ends with 2 and does not show the line, which may be a secret.
    for text in ["listen = \n", "nats-password = \"hunter2\nlog = \"info\"", "log = \"info\"\nlog = \"warn\"\n"] {
        let told = refused(&File::new(text).run(&[], &[]));
        assert!(told.contains("line ") && !told.contains("hunter2"), "{told}");
    }
    refused(&File::new(&"#\n".repeat(600_000)).run(&[], &[]));
    refused(&run(&["--config=/no/such/file"], &[]));
    refused(&run(&["--config=/"], &[]));
}

#[test]
fn a_value_of_the_file_counts_like_a_flag() {
    // Goal: what flags require of each other holds for the file too. Method: a flag whose partner is missing, in the file, or on
    // the command line; a variable with a wrong value that the file also sets; lists and truths.
    let certificate = "tls-certificate = \"/no/such/certificate.pem\"\n";
    refused(&File::new(certificate).run(&[], &[]));
    refused(&File::new("nats-user = \"ann\"\n").run(&[], &[]));
    for (text, args) in [
        (format!("{certificate}tls-key = \"/no/such/key.pem\"\n"), &[][..]),
        (certificate.to_owned(), &["--tls-key=/no/such/key.pem"][..]),
    ] {
        let output = File::new(&text).run(args, &[]);
        assert_eq!(output.status.code(), Some(1), "it starts, and then misses the file: {output:?}");
    }
    refused(&File::new("log-format = \"json\"").run(&[], &[("UNIBUS_LOG_FORMAT", "xml")]));
    let output = File::new("auth-insecure = true\nauth-admins = [\"ann\", \"bob\"]\nauth-keys = \"a,b\"").run(&[], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_secret_in_a_file_of_everybody_is_refused() {
    // Goal: no password lies about. Method: a file with a secret and one without, with several modes.
    let url = "nats-url = \"nats://ann:hunter2@127.0.0.1:1\"\n";
    for (text, is_secret) in
        [("nats-user = \"ann\"\nnats-password = \"hunter2\"\n", true), (url, true), ("log = \"info\"\n", false)]
    {
        let file = File::new(text);
        for (mode, is_private) in [(0o600, true), (0o640, true), (0o644, false), (0o660, false)] {
            file.chmod(mode);
            let output = file.run(&[], &[]);
            let expected = if is_secret && !is_private { USAGE } else { 1 };
            assert_eq!(output.status.code(), Some(expected), "{text} {mode:o} {output:?}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
        }
    }
}
