//! Keys and tokens that the program makes itself.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;
use tonic::Code;

use crate::support::{Credentials, Nats, assert_status, connect_with, guarded, list_rooms};

/// Runs a command of the program to its end.
fn unibus(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_unibus")).args(args).output().expect("the binary starts")
}

/// A new key's private half in this directory.
fn key(dir: &Path) -> PathBuf {
    let key = dir.join("test.key");
    assert!(unibus(&["key", "--out", key.to_str().unwrap()]).status.success());
    key
}

fn public(key: &Path) -> PathBuf {
    key.with_extension("key.pub")
}

/// What the command prints: a token and a line's end.
fn token(key: &Path, args: &[&str]) -> String {
    let made = unibus(&[&["token", "--key", key.to_str().unwrap()], args].concat());
    assert!(made.status.success(), "{made:?}");
    let made = String::from_utf8(made.stdout).unwrap();
    made.strip_suffix('\n').expect("a line").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_the_command_lets_its_holder_in() {
    // Goal: the documented way works. Method: make a key and tokens with the binary; the service takes one that is made as it
    // demands, and refuses those that lack the audience or have no time left.
    let nats = Nats::start().await;
    let dir = TempDir::new().unwrap();
    let key = key(dir.path());
    let service = guarded(&nats, public(&key), |config| {
        config.auth.issuer = Some("here".into());
        config.auth.audience = Some("unibus".into());
        config.auth.leeway = std::time::Duration::ZERO;
    })
    .await;
    let calls = async |token: String| {
        let client = connect_with(service.address(), Credentials::bearer(&token)).await;
        list_rooms(&client, 0, "").await
    };
    let whole = ["--sub", "alice", "--issuer", "here", "--audience", "unibus", "--claim", "note=any"];
    calls(token(&key, &whole)).await.unwrap();
    let refused = calls(token(&key, &["--sub", "alice", "--issuer", "here"])).await;
    assert_status(refused, Code::Unauthenticated, "UNAUTHENTICATED");
    let refused = calls(token(&key, &[&whole[..], &["--ttl", "0s"]].concat())).await;
    assert_status(refused, Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    service.shutdown().await.unwrap();
}

#[test]
fn a_private_key_is_for_its_owner_alone_and_nothing_is_overwritten() {
    // Goal: the command neither leaks a key nor destroys one. Method: the modes of both files; the command again with both,
    // and with either of them there.
    let dir = TempDir::new().unwrap();
    let key = key(dir.path());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&key), 0o600);
    let before = (fs::read(&key).unwrap(), fs::read(public(&key)).unwrap());
    let again = || {
        let done = unibus(&["key", "--out", key.to_str().unwrap()]);
        assert!(!done.status.success());
        assert!(done.stdout.is_empty() && !done.stderr.is_empty(), "{done:?}");
    };
    again();
    assert_eq!((fs::read(&key).unwrap(), fs::read(public(&key)).unwrap()), before);
    fs::remove_file(&key).unwrap();
    again();
    assert!(!key.exists() && fs::read(public(&key)).unwrap() == before.1);
    fs::rename(public(&key), &key).unwrap();
    again();
    assert!(!public(&key).exists() && fs::read(&key).unwrap() == before.1);
}

#[test]
fn a_token_that_would_not_count_is_not_made() {
    // Goal: mistakes show where they are made. Method: a subject that is no id, a claim that has a flag, keys that are none.
    let dir = TempDir::new().unwrap();
    let key = key(dir.path());
    let public = public(&key);
    let (key, public) = (key.to_str().unwrap(), public.to_str().unwrap());
    for args in [
        &["token", "--key", key, "--sub", "two words"][..],
        &["token", "--key", key, "--sub", ""],
        &["token", "--key", key, "--sub", "alice", "--claim", "sub=root"],
        &["token", "--key", key, "--sub", "alice", "--claim", "admin"],
        &["token", "--key", key, "--sub", "alice", "--ttl", "soon"],
        &["token", "--key", public, "--sub", "alice"],
        &["token", "--key", "/nowhere", "--sub", "alice"],
        &["token", "--sub", "alice"],
    ] {
        let done = unibus(args);
        assert!(!done.status.success() && done.stdout.is_empty() && !done.stderr.is_empty(), "{args:?}: {done:?}");
    }
}

#[test]
fn a_key_that_others_can_use_signs_nothing() {
    // Goal: a key that is no secret is noticed where it is used. Method: the modes that let the group or others read or write.
    let dir = TempDir::new().unwrap();
    let key = key(dir.path());
    let sign = || unibus(&["token", "--key", key.to_str().unwrap(), "--sub", "alice"]);
    for (mode, signs) in [(0o644, false), (0o640, false), (0o602, false), (0o660, false), (0o600, true), (0o400, true)]
    {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let done = sign();
        assert_eq!(done.status.success(), signs, "{mode:o}: {done:?}");
        assert_eq!(done.stdout.is_empty(), !signs, "{mode:o}");
    }
}
