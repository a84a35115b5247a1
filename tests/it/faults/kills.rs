//! Any process dies at any moment, under load.

use std::{net::SocketAddr, time::Duration};

use tokio::time::sleep;

use crate::support::{Circumstances, Nats, Process, Proxy, Random, Traffic, connect, create_room, note};

const HEAL_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_the_service_or_of_nats_at_any_moment_loses_and_doubles_nothing() {
    // Goal: nothing depends on the moment of death. Method: traffic through an address that stays the same; at random moments
    // the service, NATS, or both are killed and started anew.
    let mut random = Random::seeded();
    let mut nats = Nats::start().await;
    let mut service = Process::start(&nats).await;
    let proxy = Proxy::start(service.address()).await;
    create_room(&service.client().await, "lobby").await;
    let circumstances = Circumstances { client_network: true, ..Circumstances::default() };
    let traffic = Traffic::start(proxy.address(), circumstances).await;
    let rounds = random.shuffled(vec!["service", "service", "NATS", "both"]);
    for killed in rounds {
        traffic.goes_on(30, HEAL_WITHIN).await;
        let moment = Duration::from_millis(random.within(0..400));
        note(format_args!("{killed} after {moment:?}"));
        sleep(moment).await;
        if killed != "service" {
            nats.kill9();
        }
        if killed != "NATS" {
            service.kill9();
        }
        if killed != "service" {
            nats.restart().await;
        }
        if killed != "NATS" {
            service = Process::start(&nats).await;
            proxy.lead_to(service.address());
        }
    }
    traffic.goes_on(30, HEAL_WITHIN).await;
    traffic.finish(&service.client().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_of_the_service_with_its_own_nats_server_under_load_loses_and_doubles_nothing() {
    // Goal: the same where one process is everything. Method: the service with its own nats-server is killed twice at random
    // moments, and started anew on the same directory.
    let mut random = Random::seeded();
    let dir = tempfile::TempDir::new().unwrap();
    let data_dir = format!("--data-dir={}", dir.path().display());
    let start = async || -> (Process, SocketAddr) {
        let mut service = Process::spawn(&[&data_dir, "--heartbeat-interval=1s"]);
        service.ready().await;
        let address = service.address();
        (service, address)
    };
    let (mut service, address) = start().await;
    let proxy = Proxy::start(address).await;
    create_room(&connect(address).await, "lobby").await;
    let circumstances = Circumstances { client_network: true, ..Circumstances::default() };
    let traffic = Traffic::start(proxy.address(), circumstances).await;
    for _ in 0..2 {
        traffic.goes_on(30, HEAL_WITHIN).await;
        sleep(Duration::from_millis(random.within(0..400))).await;
        service.kill9();
        let (next, address) = start().await;
        service = next;
        proxy.lead_to(address);
    }
    traffic.goes_on(30, HEAL_WITHIN).await;
    traffic.finish(&service.client().await).await;
}
