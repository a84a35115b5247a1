//! The network between the service and NATS, and between clients and the service, does what networks do.

use std::time::Duration;

use tokio::time::sleep;
use tonic::Code;
use unibus::v1::{GapReason, subscribe_response::Frame};

use crate::support::{
    Circumstances, Client, Frames, Mode, Nats, Proxy, Random, Traffic, Unibus, Way, assert_status, connect,
    create_ephemeral, create_room, eventually, floor_reaches, note, publish, publish_n, reason, sequences,
    subscription,
};

/// How soon everything works again when the network does.
const HEAL_WITHIN: Duration = Duration::from_secs(20);
/// A subscription is never silent for longer; the tests have a heartbeat each second.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// An instance that reaches NATS through a proxy.
async fn behind_proxy(nats: &Nats) -> (Proxy, Unibus) {
    let proxy = Proxy::start(nats.address()).await;
    let url = proxy.nats_url();
    let unibus = Unibus::configured(|config| config.nats.url = Some(url)).await;
    (proxy, unibus)
}

/// What a network may do for a while.
fn disturbances(random: &mut Random) -> Vec<(Disturbance, Duration)> {
    let kinds = vec![
        Disturbance::Mode(Mode::Delay(Duration::from_millis(random.within(20..300)))),
        Disturbance::Mode(Mode::Slow(random.within(30_000..300_000))),
        Disturbance::Mode(Mode::Freeze),
        Disturbance::Mode(Mode::Down),
        Disturbance::Mode(Mode::BlackHole),
        Disturbance::Cut,
        Disturbance::CutAfter(Way::In, random.within(1..2_000)),
        Disturbance::CutAfter(Way::In, random.within(2_000..60_000)),
        Disturbance::CutAfter(Way::Out, random.within(1..2_000)),
        Disturbance::CutAfter(Way::Out, random.within(2_000..60_000)),
    ];
    let timed: Vec<_> = kinds.into_iter().map(|kind| (kind, Duration::from_millis(random.within(100..1500)))).collect();
    random.shuffled(timed)
}

#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Mode(Mode),
    Cut,
    CutAfter(Way, u64),
}

impl Disturbance {
    async fn befall(self, proxy: &Proxy, lasting: Duration) {
        note(format_args!("{self:?} for {lasting:?}"));
        match self {
            Self::Mode(mode) => proxy.set(mode),
            Self::Cut => proxy.cut(),
            Self::CutAfter(way, bytes) => proxy.cut_after(way, bytes),
        }
        sleep(lasting).await;
        proxy.set(Mode::Pass);
    }
}

/// The traffic goes on after each disturbance, and at the end everything agrees.
async fn outlasts_all_disturbances(traffic: Traffic, random: &mut Random, proxy: &Proxy, client: &Client) {
    traffic.goes_on(50, HEAL_WITHIN).await;
    for (disturbance, lasting) in disturbances(random) {
        disturbance.befall(proxy, lasting).await;
        traffic.goes_on(30, HEAL_WITHIN).await;
    }
    traffic.finish(client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_to_nats_costs_time_and_nothing_else() {
    // Goal: whatever happens between the service and NATS, what is acknowledged is kept, and subscribers miss nothing.
    // Method: traffic through delay, little bandwidth, loss of all packets, resets, and connections that end in the middle
    // of a message, in random order and for random times; after each one publishing works again.
    let mut random = Random::seeded();
    let nats = Nats::start().await;
    let (proxy, unibus) = behind_proxy(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let traffic = Traffic::start(unibus.address(), Circumstances::default()).await;
    outlasts_all_disturbances(traffic, &mut random, &proxy, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_waits_for_a_nats_that_says_nothing_and_a_connection_that_swallows_all_is_replaced() {
    // Goal: silence is found out. Method: a black hole for longer than calls last: they are answered, and so they are when
    // it is over. Then only the connection that is open swallows everything, as when a firewall forgot it: the service
    // notices by itself, and everything goes on over another connection.
    let nats = Nats::start().await;
    let (proxy, unibus) = behind_proxy(&nats).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let traffic = Traffic::start(unibus.address(), Circumstances::default()).await;
    traffic.goes_on(50, HEAL_WITHIN).await;

    proxy.set(Mode::BlackHole);
    sleep(Duration::from_secs(9)).await;
    proxy.set(Mode::Pass);
    traffic.goes_on(50, HEAL_WITHIN).await;

    let before = proxy.accepted();
    proxy.swallow();
    traffic.goes_on(50, 2 * HEAL_WITHIN).await;
    assert!(proxy.accepted() > before, "nothing was swallowed");
    traffic.finish(&client).await;
}

/// Publishes numbers natively, one after the other, for as long as it is polled.
async fn count_natively(nats: &Nats, subject: &str) {
    let client = nats.client().await;
    for number in 1_u64.. {
        client.publish(subject.to_owned(), number.to_string().into()).await.expect("a connection");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_an_ephemeral_room_a_bad_network_to_nats_is_told_where_it_cost_messages() {
    // Goal: at most once is never silently less. Method: a native program counts while the network between the service and
    // NATS does its worst; a subscriber sees numbers ascend, and wherever one is missing a gap was told before the next.
    let mut random = Random::seeded();
    let nats = Nats::start().await;
    let (proxy, unibus) = behind_proxy(&nats).await;
    let client = unibus.client().await;
    let subject = create_ephemeral(&client, "live").await.subject;
    let frames = Frames::transient(&client, "live").await;
    let read = std::sync::Mutex::new(0);
    let reading = async {
        let mut frames = frames;
        let mut told = true;
        loop {
            match frames.next_frame(SILENCE_MAX).await {
                Ok(Some(Frame::Message(message))) => {
                    let number: u64 = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
                    let mut last = read.lock().unwrap();
                    assert!(number == *last + 1 || number > *last && told, "{number} after {last}, told: {told}");
                    *last = number;
                    told = false;
                }
                Ok(Some(Frame::Gap(gap))) => {
                    assert!([GapReason::Disconnected, GapReason::SlowReader].contains(&gap.reason()), "{gap:?}");
                    assert_eq!((gap.from_sequence, gap.to_sequence), (0, 0));
                    told = true;
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended with OK"),
                Err(status) => {
                    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "NATS_UNAVAILABLE"));
                    frames = eventually(HEAL_WITHIN, async || {
                        let opened = Frames::open(&client, subscription("live", "")).await;
                        opened.map_err(|status| status.to_string())
                    })
                    .await;
                    told = true;
                }
            }
        }
    };
    let disturbing = async {
        let goes_on = async || {
            let before = *read.lock().unwrap();
            eventually(HEAL_WITHIN, async || {
                let more = *read.lock().unwrap() - before;
                (more >= 20).then_some(()).ok_or_else(|| format!("{more} more"))
            })
            .await;
        };
        goes_on().await;
        for (disturbance, lasting) in disturbances(&mut random) {
            disturbance.befall(&proxy, lasting).await;
            goes_on().await;
        }
    };
    tokio::select! {
        () = count_natively(&nats, &subject) => {}
        () = reading => {}
        () = disturbing => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_to_the_clients_costs_time_and_nothing_else() {
    // Goal: clients that lose their connection in the middle of anything come back without loss. Method: traffic of which
    // everything goes through delay, little bandwidth, resets and connections that end in the middle of a frame.
    let mut random = Random::seeded();
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let proxy = Proxy::start(unibus.address()).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    let circumstances = Circumstances { client_network: true, ..Circumstances::default() };
    let traffic = Traffic::start(proxy.address(), circumstances).await;
    outlasts_all_disturbances(traffic, &mut random, &proxy, &client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanished_is_found_and_an_idle_one_is_left_alone() {
    // Goal: who is gone without a word holds nothing for long. Method: places for two subscriptions; one client's network
    // becomes a black hole, so that it can neither answer nor end its connection; its place becomes free, and what it had
    // taken is its position; the other client, which is merely idle, keeps its subscription.
    let nats = Nats::start().await;
    let url = nats.url();
    let unibus = Unibus::configured(|config| {
        config.nats.url = Some(url);
        config.rooms.max_subscriptions = 2;
        config.keepalive.interval = Duration::from_millis(500);
        config.keepalive.timeout = Duration::from_millis(500);
    })
    .await;
    let proxy = Proxy::start(unibus.address()).await;
    let client = unibus.client().await;
    create_room(&client, "lobby").await;
    publish_n(&client, "lobby", 5).await;
    let mut idle = Frames::durable(&client, "lobby", "idle").await;
    assert_eq!(idle.until_caught_up().await.len(), 5);
    let far = connect(proxy.address()).await;
    let mut vanished = Frames::durable(&far, "lobby", "vanished").await;
    assert_eq!(vanished.until_caught_up().await.len(), 5);
    let open = async || Frames::open(&client, subscription("lobby", "")).await;
    assert_status(open().await.map(|_| ()), Code::ResourceExhausted, "LIMIT_REACHED");

    proxy.set(Mode::BlackHole);
    drop((vanished, far));
    let taken = eventually(HEAL_WITHIN, async || open().await.map_err(|status| status.to_string())).await;
    assert_eq!(floor_reaches(&nats, "lobby", "vanished", 5).await, 5);
    drop(taken);
    publish(&client, "lobby", "6").await.unwrap();
    assert_eq!(sequences(&idle.messages(1).await), [6]);
}
