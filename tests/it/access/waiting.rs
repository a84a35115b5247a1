//! Calls that wait for NATS when their caller loses its access.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;
use unibus::v1::{Role, SubscribeRequest, history_request::Anchor};

use crate::support::{
    Frames, Issuer, Mode, Nats, Proxy, assert_status, create_room, eventually, explicit,
    membership::{add, add_from, remove},
    page, publish_n, subscription,
};

/// How long each byte takes between the slow instance and NATS, in each direction.
const DELAY: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_nats_gives_a_removed_member_nothing() {
    // Goal: access that is taken while a call waits is taken from that call too. Method: one instance has a slow link to NATS.
    // A member opens subscriptions and asks for a page there, and is removed through the other instance: the news overtakes
    // the answers that the calls wait for. A page whose visible part shrinks meanwhile is refused as well.
    let nats = Nats::start().await;
    let issuer = Issuer::new();
    let proxy = Proxy::start(nats.address()).await;
    let url = proxy.nats_url();
    let fast = issuer.guard(&nats, |_| {}).await;
    let slow = issuer.guard(&nats, |config| config.nats.url = Some(url)).await;
    let (ann, bob) = (issuer.client(&fast, "ann").await, issuer.client(&slow, "bob").await);
    create_room(&ann, "lobby").await;
    publish_n(&ann, "lobby", 10).await;
    let requests: [SubscribeRequest; 2] = [subscription("lobby", ""), explicit("lobby", "bob/phone")];
    let page_of = async || page(&bob, "lobby", 5, Anchor::AfterSequence(2)).await;
    for request in &requests {
        add(&ann, "lobby", "bob", Role::Reader).await.unwrap();
        eventually(SOON, async || page_of().await.map(drop).map_err(|status| status.to_string())).await;
        proxy.set(Mode::Delay(DELAY));
        let removal = async {
            sleep(DELAY / 5).await;
            remove(&ann, "lobby", "bob").await.unwrap();
        };
        let (opened, read, ()) = tokio::join!(Frames::open(&bob, request.clone()), page_of(), removal);
        assert_status(opened.map(drop), Code::PermissionDenied, "PERMISSION_DENIED");
        assert_status(read, Code::PermissionDenied, "PERMISSION_DENIED");
        proxy.set(Mode::Pass);
    }
    add(&ann, "lobby", "bob", Role::Reader).await.unwrap();
    eventually(SOON, async || page_of().await.map(drop).map_err(|status| status.to_string())).await;
    proxy.set(Mode::Delay(DELAY));
    let change = async {
        sleep(DELAY / 5).await;
        add_from(&ann, "lobby", "bob", Role::Reader, 8).await.unwrap();
    };
    let (read, ()) = tokio::join!(page_of(), change);
    assert_status(read, Code::Aborted, "CONFLICT");
    let sequences: Vec<u64> = page_of().await.unwrap().messages.iter().map(|message| message.sequence).collect();
    assert_eq!(sequences, [8, 9, 10]);
}
