//! The fault that adds a member, lets it publish and read through every instance, and removes it.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use unibus::v1::{AddMemberRequest, RemoveMemberRequest, Role, Start as WireStart, SubscribeRequest, start::At};

use crate::{
    clients::{Scene, Wish, failure, pause, request_as, seen, within},
    faults::Stage,
    oracle::{Attempt, End, MemberChange, Outcome, Start, Subscription},
    plan::{Fault, Which},
};

const MEMBER: &str = "mallory";
const ROUNDS: usize = 3;
const TRIES: usize = 40;

pub(crate) async fn come_and_go(stage: &Stage, rng: &mut Rng) -> Result<()> {
    let token = stage.world.token(MEMBER)?;
    for _ in 0..ROUNDS {
        change(&stage.scene, true, rng.usize(..stage.scene.instances())).await;
        sleep(Duration::from_millis(1100)).await;
        let mut busy = JoinSet::new();
        for instance in 0..stage.scene.instances() {
            let (scene, token, seed) = (stage.scene.clone(), token.clone(), rng.u64(..));
            busy.spawn(async move {
                tokio::join!(publish(&scene, instance, &token, seed), read(&scene, instance, &token));
            });
        }
        sleep(Duration::from_millis(rng.u64(500..1500))).await;
        let instance = rng.usize(..stage.scene.instances());
        let remove = async {
            sleep(Duration::from_millis(200)).await;
            change(&stage.scene, false, instance).await;
        };
        // The change must take effect even if a node dies or hangs at this moment.
        let (which, time) = (Which::Random, Duration::from_secs(3));
        let fault = match rng.u8(..3) {
            0 => Some(Fault::KillNode { which, down: time }),
            1 => Some(Fault::StopNode { which, pause: time }),
            _ => None,
        };
        match fault.filter(|_| stage.world.nodes.len() > 1) {
            Some(fault) => tokio::join!(Box::pin(stage.carry_out(fault, rng.u64(..))), remove).0?,
            None => remove.await,
        }
        // bounded by the clients' own deadlines
        busy.join_all().await;
    }
    Ok(())
}

/// Adds or removes the member, until it is done.
async fn change(scene: &Scene, add: bool, instance: usize) {
    for _ in 0..TRIES {
        let Some(mut client) = scene.shared(instance) else { return };
        let (room_id, member_id) = (scene.room_id(0), MEMBER.to_owned());
        let started = scene.now();
        let done = if add {
            let request = AddMemberRequest { room_id, member_id, role: Role::Writer.into(), visible_from: 0 };
            scene.call("AddMember", 0, instance, client.add_member(scene.request(request))).await.map(drop)
        } else {
            let request = RemoveMemberRequest { room_id, member_id };
            scene.call("RemoveMember", 0, instance, client.remove_member(scene.request(request))).await.map(drop)
        };
        let gone = matches!(&done, Err(failure) if failure.reason == "MEMBER_NOT_FOUND");
        let done = (done.is_ok() || gone).then(|| scene.now());
        let change = MemberChange { member: MEMBER.into(), may_read: add, may_publish: add, instance, started, done };
        scene.note(0, |room| room.members.push(change));
        if done.is_some() {
            return;
        }
        pause(scene).await;
    }
}

/// Publishes without a retry, so that each message shows the permission at one moment.
async fn publish(scene: &Scene, instance: usize, token: &str, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let until = Instant::now() + Duration::from_millis(4500);
    while Instant::now() < until {
        let Some(mut client) = scene.shared(instance) else { return };
        let mut wish = Wish::new(scene, 0, MEMBER, &mut rng);
        wish.publish.member = Some(MEMBER.into());
        let started = scene.now();
        let answer = within(client.publish(request_as(Some(token), wish.request(scene)))).await;
        let outcome = match answer.map(tonic::Response::into_inner) {
            Ok(answer) => Outcome::Stored { sequence: answer.sequence, duplicate: answer.duplicate },
            Err(failure) => Outcome::Failed(failure),
        };
        wish.tried(scene, Attempt { call: scene.number(), place: 0, instance, started, ended: scene.now(), outcome });
        scene.note(0, |room| room.publishes.push(wish.publish));
        sleep(Duration::from_millis(rng.u64(5..40))).await;
    }
}

/// Reads new messages until the subscription ends.
async fn read(scene: &Scene, instance: usize, token: &str) {
    let Some(mut client) = scene.client(instance) else { return };
    let request = SubscribeRequest {
        room_id: scene.room_id(0),
        start: Some(WireStart { at: Some(At::New(())) }),
        ..SubscribeRequest::default()
    };
    let mut subscription = Subscription {
        reader: MEMBER.into(),
        durable: None,
        explicit: false,
        start: Start::New,
        until_caught_up: false,
        member: Some(MEMBER.into()),
        credit: None,
        instance,
        asked: scene.now(),
        frames: Vec::new(),
        end: End::ByClient,
        ended: 0,
    };
    let until = Instant::now() + Duration::from_secs(6);
    subscription.end = match within(client.subscribe(request_as(Some(token), request))).await {
        Err(failure) => End::Failed(failure),
        Ok(frames) => {
            let mut frames = frames.into_inner();
            loop {
                match tokio::time::timeout_at(until, frames.message()).await {
                    Err(_) => break End::ByClient,
                    Ok(Err(status)) => break End::Failed(failure(&status)),
                    Ok(Ok(None)) => break End::Ok,
                    Ok(Ok(Some(response))) => {
                        if let Some(frame) = response.frame.map(seen) {
                            subscription.frames.push((scene.now(), frame));
                        }
                    }
                }
            }
        }
    };
    subscription.ended = scene.now();
    scene.note(0, |room| room.subscriptions.push(subscription));
}
