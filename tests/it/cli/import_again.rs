//! `unibus import` that is interrupted: every message once and in order.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::sleep;
use tonic::Status;
use unibus::v1::{DeleteRoomRequest, GetRoomRequest};

use super::transfer::{SOON, content, fill, kept};
use crate::support::{
    Cli, Client, Lobby, Mode, Nats, Process, Proxy, Random, Running, Unibus, Way, create_room, eventually, everything,
    payloads, publish, publish_n, sequences,
};

/// The last sequence of a room.
async fn last_sequence(client: &Client, room_id: &str) -> Result<u64, Status> {
    let room = client.clone().get_room(GetRoomRequest { room_id: room_id.to_owned() }).await?.into_inner().room;
    Ok(room.unwrap().state.unwrap().last_sequence)
}

/// Waits until the room has more messages than this.
async fn exceeds(client: &Client, room_id: &str, sequence: u64, command: &Running) {
    eventually(SOON, async || match last_sequence(client, room_id).await {
        Ok(last) if last > sequence => Ok(()),
        last => Err(format!("{last:?} {:?}", command.stderr())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_again_and_again_stores_every_message_once_and_in_order() {
    // Goal: exactly once over kills. Method: SIGKILL at random moments while publishes are under way, on a slow connection, and
    // every time the same command again; at the end the room is the file.
    let (lobby, client) = Lobby::open().await;
    let proxy = Proxy::start(lobby.unibus.address()).await;
    let cli = Cli::of(lobby.unibus.address());
    fill(&client, "lobby", 10_000).await;
    cli.ok(&["export", "lobby"]).await;
    create_room(&client, "copy").await;
    let mut random = Random::seeded();
    let server = format!("http://{}", proxy.address());
    let args = ["import", "lobby.unibus", "--room", "copy", "--server", &server];
    for kill in 0..8_u64 {
        proxy.set(Mode::Slow(if kill % 2 == 0 { 1_500_000 } else { 4_000_000 }));
        let before = last_sequence(&client, "copy").await.unwrap();
        let command = cli.start(&args);
        // at the beginning also while the last run is compared
        if kill % 3 != 2 {
            exceeds(&client, "copy", before, &command).await;
        }
        sleep(Duration::from_millis(random.within(0..300))).await;
        command.signal(if kill == 5 { Signal::TERM } else { Signal::KILL });
        command.ends().await;
        if kill % 2 == 1 {
            // what was under way arrives late, or is lost
            proxy.cut();
        }
    }
    proxy.set(Mode::Pass);
    let done = cli.json(&args).await;
    assert_eq!(done[0]["messages"], "10000");
    assert_ne!(done[0]["earlier"], "0");
    let (original, copy) = (everything(&client, "lobby").await, everything(&client, "copy").await);
    assert_eq!(sequences(&copy), (1..=10_000).collect::<Vec<_>>());
    assert!(kept(&original) == kept(&copy), "the rooms differ");
    lobby.unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_of_a_killed_import_that_arrives_late_is_not_stored() {
    // Goal: what is under way when the next run begins doubles nothing. Method: the connection between an instance and NATS stands
    // still while the instance publishes for an import, which is killed; the same command ends through another instance; then
    // the connection goes on. Once with batches, and once in a room that is too small for batches.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let client = unibus.client().await;
    let cli = Cli::of(unibus.address());
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 3_000).await;
    cli.ok(&["export", "lobby"]).await;
    for (room, bound) in [("copy", "none"), ("single", "1")] {
        cli.ok(&["room", "create", room, "--max-messages", bound]).await;
        let proxy = Proxy::start(nats.address()).await;
        let url = proxy.nats_url();
        let far = Unibus::configured(|config| config.nats.url = Some(url)).await;
        let server = format!("http://{}", far.address());
        let command = cli.start(&["import", "lobby.unibus", "--room", room, "--server", &server]);
        exceeds(&client, room, 0, &command).await;
        proxy.set(Mode::Freeze);
        // a run that has ended by now tests nothing, but the next lines hold for it too
        sleep(Duration::from_millis(300)).await;
        command.signal(Signal::KILL);
        command.ends().await;
        let again = cli.json(&["import", "lobby.unibus", "--room", room]).await;
        assert_eq!(again[0]["messages"], "3000");
        proxy.set(Mode::Pass);
        let far_client = far.client().await;
        eventually(SOON, async || publish(&far_client, room, "last").await.map_err(|status| status.to_string())).await;
        let stored = everything(&client, room).await;
        let expected: Vec<_> = (1..=3_000).map(|number: u32| number.to_string()).chain(["last".to_owned()]).collect();
        assert_eq!(stored.last().unwrap().sequence, 3_001, "{room}");
        assert!(payloads(&stored) == expected[expected.len() - stored.len()..], "{room}");
        far.shutdown().await.unwrap();
    }
    unibus.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_broken_connections_and_a_restart_of_the_service() {
    // Goal: a rolling restart neither ends an import nor doubles a message. Method: connections are cut within requests and within
    // answers, and swallowed; the service is killed and replaced; NATS restarts.
    let mut nats = Nats::start().await;
    let mut service = Process::start(&nats).await;
    let client = service.client().await;
    create_room(&client, "lobby").await;
    fill(&client, "lobby", 10_000).await;
    create_room(&client, "copy").await;
    let proxy = Proxy::start(service.address()).await;
    let cli = Cli::of(proxy.address());
    cli.ok(&["export", "lobby"]).await;
    proxy.set(Mode::Slow(2_500_000));
    let command = cli.start(&["import", "lobby.unibus", "--room", "copy", "--json", "--timeout", "3s"]);
    exceeds(&client, "copy", 0, &command).await;
    proxy.cut_after(Way::In, 1000);
    exceeds(&client, "copy", 2_000, &command).await;
    proxy.cut_after(Way::Out, 20);
    exceeds(&client, "copy", 4_000, &command).await;
    proxy.swallow();
    exceeds(&client, "copy", 5_000, &command).await;
    nats.stop().await;
    nats.restart().await;
    exceeds(&client, "copy", 6_000, &command).await;
    service.kill9();
    let service = Process::start(&nats).await;
    proxy.cut();
    proxy.lead_to(service.address());
    let done = command.ends().await;
    assert_eq!(done.status, Some(0), "{done:?}");
    assert_eq!((&done.json()[0]["messages"], &done.json()[0]["earlier"]), (&"10000".into(), &"0".into()));
    let client = service.client().await;
    let (original, copy) = (everything(&client, "lobby").await, everything(&client, "copy").await);
    assert_eq!(sequences(&copy), (1..=10_000).collect::<Vec<_>>());
    assert!(kept(&original) == kept(&copy), "the rooms differ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_into_a_room_that_changes_under_it_is_refused() {
    // Goal: no import goes on in a room that is not its own any more. Method: another publisher in the middle; the room is deleted
    // and created again in the middle; the same command again each time.
    let (lobby, client) = Lobby::open().await;
    let proxy = Proxy::start(lobby.unibus.address()).await;
    let cli = Cli::of(proxy.address());
    fill(&client, "lobby", 5_000).await;
    cli.ok(&["export", "lobby"]).await;
    create_room(&client, "copy").await;
    let args = ["import", "lobby.unibus", "--room", "copy", "--json"];
    let original = everything(&client, "lobby").await;

    proxy.set(Mode::Slow(1_000_000));
    let command = cli.start(&args);
    exceeds(&client, "copy", 0, &command).await;
    let foreign = publish(&client, "copy", "foreign").await.unwrap().sequence;
    proxy.set(Mode::Pass);
    assert_eq!(command.ends().await.status, Some(7));
    assert_eq!(cli.run(&args).await.status, Some(7));
    let copy = everything(&client, "copy").await;
    assert_eq!(copy.len() as u64, foreign);
    assert!(kept(&copy[..copy.len() - 1]) == kept(&original[..copy.len() - 1]));

    let delete = DeleteRoomRequest { room_id: "copy".to_owned() };
    client.clone().delete_room(delete.clone()).await.unwrap();
    create_room(&client, "copy").await;
    proxy.set(Mode::Slow(1_000_000));
    let command = cli.start(&args);
    exceeds(&client, "copy", 0, &command).await;
    client.clone().delete_room(delete).await.unwrap();
    create_room(&client, "copy").await;
    proxy.set(Mode::Pass);
    let done = command.ends().await;
    // it may have been noticed while the room was missing
    assert!(matches!(done.status, Some(4 | 7)), "{done:?}");
    // the new room is empty, so a new import is right
    assert_eq!(cli.run(&args).await.status, Some(0));
    assert!(kept(&everything(&client, "copy").await) == kept(&original));
    assert_eq!(content(&cli, "lobby.unibus").first(), Some(&0x89));
    lobby.unibus.shutdown().await.unwrap();
}
