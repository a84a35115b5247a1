//! The service with a nats-server of its own.

use std::{fs, os::unix::fs::PermissionsExt};

use async_nats::{ConnectOptions, ServerAddr};
use tempfile::TempDir;

use crate::support::{Unibus, create_room, history, payloads, publish};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_programs_reach_the_own_server_by_its_url() {
    // Goal: an own nats-server is no island, and open to nobody without the password. Method: connect natively with the URL
    // that the server gives, publish to a room, read by the service; then without user and password.
    let unibus = Unibus::embedded().await;
    let client = unibus.client().await;
    let room = create_room(&client, "lobby").await;
    let address: ServerAddr = unibus.server().nats_url().parse().unwrap();
    let user = address.username().expect("a user").to_owned();
    let password = address.password().expect("a password").to_owned();
    let plain = format!("nats://{}:{}", address.host(), address.port());

    let native = ConnectOptions::with_user_and_password(user, password);
    let native = native.connect(&plain).await.unwrap();
    let jetstream = async_nats::jetstream::new(native);
    let ack = jetstream.publish(room.subject, "native".into()).await.unwrap();
    assert_eq!(ack.await.unwrap().sequence, 1);
    assert_eq!(payloads(&history(&client, "lobby", 0).await.messages), ["native"]);

    assert!(async_nats::connect(&plain).await.is_err(), "no password was asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_and_messages_are_there_after_a_restart_of_the_service() {
    // Goal: all that must survive lies in the data directory. Method: publish, stop, start again with the same directory; a
    // second service on the directory in between is refused.
    let data_dir = TempDir::new().unwrap();
    let start = || Unibus::try_embedded_in(data_dir.path());
    let unibus = start().await.unwrap();
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish(&client, "lobby", "kept").await.unwrap();
    assert!(start().await.is_err(), "two services on one data directory");
    publish(&client, "lobby", "too").await.unwrap();
    drop(client);
    unibus.shutdown().await.unwrap();

    let unibus = start().await.unwrap();
    let client = unibus.client().await;
    assert_eq!(payloads(&history(&client, "lobby", 0).await.messages), ["kept", "too"]);
    assert_eq!(publish(&client, "lobby", "more").await.unwrap().sequence, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_that_others_can_change_is_refused() {
    // Goal: nobody else puts messages or members into the own server's data. Method: a directory that the group or all may
    // write to, and one that all may replace, since its parent lets them; the same directories once they are safe.
    let parent = TempDir::new().unwrap();
    let data_dir = parent.path().join("data");
    fs::create_dir(&data_dir).unwrap();
    let set = |of: &std::path::Path, mode| fs::set_permissions(of, fs::Permissions::from_mode(mode)).unwrap();
    for (of_parent, of_data, is_safe) in [
        (0o755, 0o777, false),
        (0o755, 0o770, false),
        (0o755, 0o1777, false),
        (0o777, 0o700, false),
        (0o1777, 0o700, true),
        (0o775, 0o755, true),
    ] {
        set(parent.path(), of_parent);
        set(&data_dir, of_data);
        match Unibus::try_embedded_in(&data_dir).await {
            Ok(unibus) => {
                assert!(is_safe, "{of_parent:o} {of_data:o}");
                unibus.shutdown().await.unwrap();
            }
            Err(error) => {
                assert!(!is_safe, "{of_parent:o} {of_data:o}: {error}");
                assert_eq!(fs::read_dir(&data_dir).unwrap().count(), 0, "{of_parent:o} {of_data:o}");
            }
        }
    }
}
