//! Tests of the judge: it finds no violation in an honest episode, and finds every planted violation.

#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use super::*;

/// Messages of the honest episode.
const COUNT: u64 = 10;

/// Message n was published from second n to half a second later, and is stored as n.
fn publish(number: u64) -> Publish {
    let outcome = Outcome::Stored { sequence: number, duplicate: false };
    let started = number * SECOND;
    Publish {
        label: format!("m{number}"),
        digest: 100 + number,
        has_id: true,
        expected: None,
        ttl: None,
        member: None,
        group: None,
        attempts: vec![Attempt { call: number, place: 0, instance: 0, started, ended: started + SECOND / 2, outcome }],
    }
}

fn message(sequence: u64) -> Frame {
    Frame::Message { sequence, digest: 100 + sequence }
}

fn failed(reason: &str) -> Failure {
    Failure { code: "Some".into(), reason: reason.into(), ..Failure::default() }
}

/// A subscription that was asked for at second 20, when all ten were stored.
fn subscription(position: u64, frames: impl IntoIterator<Item = Frame>) -> Subscription {
    let opened = Frame::Opened { position, first: 1, last: COUNT, resumed: false, generation: 1 };
    let frames: Vec<_> = [opened].into_iter().chain(frames).map(|frame| (20 * SECOND + 1, frame)).collect();
    Subscription {
        reader: "reader".into(),
        durable: None,
        explicit: false,
        start: Start::After(position),
        until_caught_up: true,
        member: None,
        credit: None,
        instance: 0,
        asked: 20 * SECOND,
        frames,
        end: End::ByClient,
        ended: 20 * SECOND + 2,
    }
}

/// Ten messages, a subscription that shows them all, and a page of the newest five.
fn honest() -> Facts {
    let stored = |number| (number, Stored { digest: 100 + number, time: number * SECOND });
    let shown = (1..=COUNT).map(message).chain([Frame::CaughtUp(COUNT)]);
    let room = RoomFacts {
        room_id: "lobby".into(),
        log: Log { first: 1, last: COUNT, messages: (1..=COUNT).map(stored).collect() },
        publishes: (1..=COUNT).map(publish).collect(),
        subscriptions: vec![subscription(0, shown)],
        pages: vec![Page {
            instance: 0,
            asked: 20 * SECOND,
            answered: 20 * SECOND + 1,
            anchor: Anchor::Newest,
            limit: 5,
            messages: (6..=COUNT).map(|number| (number, 100 + number)).collect(),
            bytes: 500,
            has_older: true,
            has_newer: false,
            older_cursor: true,
            last_sequence: COUNT,
        }],
        ..RoomFacts::default()
    };
    Facts { rooms: vec![room], heartbeat: SECOND, disturbed: true, ..Facts::default() }
}

/// The promises that are broken when this is planted in the honest episode.
fn broken(plant: impl FnOnce(&mut Facts, &mut RoomFacts)) -> Vec<&'static str> {
    let mut facts = honest();
    let mut room = facts.rooms.remove(0);
    plant(&mut facts, &mut room);
    facts.rooms.push(room);
    let mut promises: Vec<_> = judge(&facts).into_iter().map(|violation| violation.promise).collect();
    promises.sort_unstable();
    promises.dedup();
    promises
}

/// Asserts that what is planted is found, whatever else is found with it.
fn finds(promise: &str, plant: impl FnOnce(&mut Facts, &mut RoomFacts)) {
    let promises = broken(plant);
    assert!(promises.iter().any(|found| found.contains(promise)), "{promise:?} is not in {promises:?}");
}

fn removal(kind: RemovalKind, started: At) -> Removal {
    Removal { kind, instance: Some(0), started, done: Some(started + 1) }
}

#[test]
fn an_honest_episode_breaks_nothing() {
    // Goal: what keeps its promises is not accused. Method: ten messages, read in full; then one of them deleted, purged or
    // expired, and told so; then failures that the docs allow.
    assert_eq!(broken(|_, _| {}), [""; 0]);
    let with_gap = |room: &mut RoomFacts, reason: &str| {
        room.log.messages.remove(&5);
        let reason = reason.to_owned();
        let frames =
            (1..=4).map(message).chain([Frame::Gap { from: 5, to: 5, reason }]).chain((6..=COUNT).map(message));
        room.subscriptions = vec![subscription(0, frames)];
    };
    assert_eq!(
        broken(|_, room| {
            with_gap(room, "GAP_REASON_DELETED");
            room.removals.push(removal(RemovalKind::Delete { sequence: 5 }, 15 * SECOND));
        }),
        [""; 0]
    );
    assert_eq!(
        broken(|_, room| {
            with_gap(room, "GAP_REASON_EXPIRED");
            room.publishes[4].ttl = Some(2);
        }),
        [""; 0]
    );
    assert_eq!(
        broken(|_, room| {
            let unknown = Attempt {
                outcome: Outcome::Failed(failed("OUTCOME_UNKNOWN")),
                ..room.publishes[4].attempts[0].clone()
            };
            room.publishes[4].attempts.insert(0, unknown);
            room.subscriptions[0].end = End::Failed(failed("NATS_UNAVAILABLE"));
        }),
        [""; 0]
    );
}

/// Has messages 3 to 6 published by one stream, which acknowledged them together.
fn acknowledge_together(room: &mut RoomFacts) {
    for (publish, place) in room.publishes[2..6].iter_mut().zip(0..) {
        let attempt = &mut publish.attempts[0];
        (attempt.call, attempt.place, attempt.ended) = (3, place, 7 * SECOND);
        if place < 3 {
            attempt.outcome = Outcome::StoredBefore { last: Some(6) };
        }
    }
}

#[test]
fn a_false_cumulative_acknowledgement_is_found() {
    // Goal: what is acknowledged together is held to the same promises. Method: an honest one, and each promise broken.
    assert_eq!(broken(|_, room| acknowledge_together(room)), [""; 0]);
    finds("is stored at its sequence", |_, room| {
        acknowledge_together(room);
        let _ = room.log.messages.remove(&4);
    });
    finds("is stored at its sequence", |_, room| {
        acknowledge_together(room);
        let moved = room.log.messages.remove(&4).unwrap();
        let _ = room.log.messages.insert(11, moved);
    });
    finds("in their order", |_, room| {
        acknowledge_together(room);
        let (earlier, later) = (room.log.messages[&3], room.log.messages[&4]);
        room.log.messages.extend([(3, later), (4, earlier)]);
    });
    finds("is stored once", |_, room| {
        acknowledge_together(room);
        let _ = room.log.messages.insert(11, Stored { digest: 104, time: 0 });
    });
}

#[test]
fn a_false_answer_to_a_publisher_is_found() {
    // Goal: every promise to publishers can be seen broken. Method: plant each in the honest episode.
    finds("is stored at its sequence", |_, room| {
        let _ = room.log.messages.remove(&5);
    });
    finds("is stored at its sequence", |_, room| {
        room.publishes[4].attempts[0].outcome = Outcome::Stored { sequence: 6, duplicate: false }
    });
    finds("is stored once", |_, room| {
        let _ = room.log.messages.insert(11, Stored { digest: 105, time: 0 });
    });
    finds("was published", |_, room| {
        let _ = room.log.messages.insert(11, Stored { digest: 1, time: 0 });
    });
    finds("refused is not stored", |_, room| {
        room.publishes[4].attempts[0].outcome = Outcome::Failed(failed("NATS_UNAVAILABLE"));
    });
    finds("refused is not stored", |_, room| {
        room.publishes[4].expected = Some(4);
        room.publishes[4].attempts[0].outcome = Outcome::Failed(failed("SEQUENCE_MISMATCH"));
    });
    finds("expected_last_sequence", |_, room| room.publishes[4].expected = Some(3));
    finds("in their order", |_, room| {
        (room.publishes[4].attempts[0].started, room.publishes[4].attempts[0].ended) = (8 * SECOND, 9 * SECOND);
    });
    finds("in their order", |_, room| {
        for (place, call) in [(1, 4), (0, 5)] {
            let attempt = &mut room.publishes[call].attempts[0];
            (attempt.call, attempt.place, attempt.started) = (77, place, SECOND);
        }
    });
    finds("whole and in sequence", |_, room| {
        for index in 0..3 {
            room.publishes[4 + usize::try_from(index).unwrap()].group = Some(Group { batch: 1, index, size: 3 });
        }
        room.log.messages.remove(&6);
    });
    finds("answered as documented", |_, room| {
        room.publishes[4].attempts[0].outcome = Outcome::Failed(failed("ROOM_NOT_FOUND"));
    });
    finds("answered as documented", |_, room| room.publishes[4].attempts[0].outcome = Outcome::Failed(failed("")));
    finds("answered in time", |_, room| room.publishes[9].attempts[0].ended += 9 * SECOND);
}

#[test]
fn a_false_subscription_is_found() {
    // Goal: every promise to readers can be seen broken. Method: plant each in the honest episode.
    let all = |room: &mut RoomFacts, frames: Vec<Frame>| room.subscriptions = vec![subscription(0, frames)];
    finds("in order, each once", |_, room| all(room, vec![message(1), message(3)]));
    finds("in order, each once", |_, room| all(room, vec![message(1), message(2), message(2)]));
    finds("in order, each once", |_, room| all(room, vec![message(2), message(1)]));
    finds("in order, each once", |_, room| all(room, vec![message(1), Frame::Heartbeat(2)]));
    finds("what is delivered is what is stored", |_, room| {
        all(room, vec![Frame::Message { sequence: 1, digest: 102 }]);
    });
    let gap = |from, to| Frame::Gap { from, to, reason: "GAP_REASON_DELETED".into() };
    finds("a gap is true", |_, room| all(room, vec![gap(1, 5), message(6)]));
    finds("a gap is true", |_, room| {
        room.log.messages.remove(&1);
        room.removals.push(removal(RemovalKind::Delete { sequence: 1 }, 30 * SECOND));
        all(room, vec![gap(1, 1), message(2)]);
    });
    finds("caught_up", |_, room| all(room, vec![message(1), Frame::CaughtUp(1)]));
    finds("never silent", |_, room| room.subscriptions[0].ended = 30 * SECOND);
    finds("documented reason", |_, room| room.subscriptions[0].end = End::Failed(failed("ROOM_RECREATED")));
    finds("documented reason", |_, room| room.subscriptions[0].end = End::Failed(failed("TIMEOUT")));
    finds("documented reason", |_, room| room.subscriptions[0].end = End::Failed(failed("")));
    finds("documented reason", |_, room| room.subscriptions[0].end = End::Failed(failed("TAKEN_OVER")));
    finds("documented reason", |_, room| {
        (room.subscriptions[0].end, room.subscriptions[0].until_caught_up) = (End::Ok, false);
    });
    finds("gone does not come", |_, room| {
        room.log.messages.remove(&5);
        room.removals.push(removal(RemovalKind::Delete { sequence: 5 }, 15 * SECOND));
    });
    finds("gone does not come", |_, room| {
        room.log.messages.remove(&5);
        room.publishes[4].ttl = Some(1);
    });
    finds("without credit", |_, room| room.subscriptions[0].credit = Some(9));
    finds("comes to the end", |_, room| room.unfinished.push("somebody".into()));
}

#[test]
fn a_false_start_is_found() {
    // Goal: a subscription that begins elsewhere is seen. Method: for each kind of start, one that begins wrongly.
    let from = |start, position| {
        move |_: &mut Facts, room: &mut RoomFacts| {
            room.subscriptions = vec![Subscription { start, ..subscription(position, []) }];
        }
    };
    for (start, right, wrong) in [
        (Start::After(3), 3, 4),
        (Start::All, 0, 1),
        (Start::New, 10, 9),
        (Start::Last(4), 6, 5),
        (Start::Last(4), 6, 7),
        (Start::Since(5 * SECOND), 4, 5),
        (Start::Since(5 * SECOND), 4, 3),
    ] {
        assert_eq!(broken(from(start, right)), [""; 0], "{start:?} at {right}");
        finds("begins where it was asked to", from(start, wrong));
    }
    finds("opened knows", |_, room| {
        room.subscriptions[0].frames[0].1 =
            Frame::Opened { position: 0, first: 1, last: 9, resumed: false, generation: 1 };
    });
    // what another instance acknowledged need not be known where there are copies
    for (instance, knows) in [(0, true), (1, false)] {
        let change = move |_: &mut Facts, room: &mut RoomFacts| {
            room.has_copies = true;
            room.subscriptions[0].instance = instance;
            room.subscriptions[0].frames[0].1 =
                Frame::Opened { position: 0, first: 1, last: 1, resumed: false, generation: 1 };
        };
        assert_eq!(broken(change).iter().any(|promise| promise.contains("opened knows")), knows, "{instance}");
    }
}

#[test]
fn a_durable_that_loses_or_goes_back_is_found() {
    // Goal: promises to durable subscribers can be seen broken. Method: one that acknowledged 4 is resumed rightly, too early,
    // too late; one that never gets a message; acks that are answered wrongly.
    let durable = |subscription: Subscription| Subscription {
        durable: Some("ann".into()),
        explicit: true,
        until_caught_up: false,
        ..subscription
    };
    let resumed = move |position: u64| {
        move |_: &mut Facts, room: &mut RoomFacts| {
            let first = durable(subscription(0, (1..=6).map(message)));
            let mut second = durable(subscription(position, (position + 1..=COUNT).map(message)));
            (second.asked, second.ended) = (25 * SECOND, 25 * SECOND + 2);
            second.frames.iter_mut().for_each(|(at, _)| *at += 5 * SECOND);
            room.subscriptions = vec![first, second];
            let (started, ended, generation) = (20 * SECOND + 1, 21 * SECOND, Some(1));
            room.acks.push(Ack { durable: "ann".into(), sequence: 4, generation, started, ended, answer: Ok(4) });
        }
    };
    assert_eq!(broken(resumed(4)), [""; 0]);
    finds("never moves back", resumed(3));
    finds("at least once", resumed(5));
    finds("at least once", resumed(8));
    finds("acknowledgement", |facts, room| {
        resumed(4)(facts, room);
        room.acks[0].answer = Err(failed("POSITION_AFTER_END"));
    });
    finds("acknowledgement", |facts, room| {
        resumed(4)(facts, room);
        room.acks[0].answer = Ok(3);
    });
    let late = |answer: Result<u64, Failure>, generation: u64| {
        move |facts: &mut Facts, room: &mut RoomFacts| {
            resumed(4)(facts, room);
            if let Frame::Opened { generation: of_second, .. } = &mut room.subscriptions[1].frames[0].1 {
                *of_second = generation;
            }
            (room.acks[0].started, room.acks[0].ended) = (27 * SECOND, 28 * SECOND);
            room.acks[0].answer = answer.clone();
        }
    };
    finds("older subscription", late(Ok(4), 2));
    finds("acknowledgement", late(Err(failed("TAKEN_OVER")), 1));
    assert!(!broken(late(Err(failed("TAKEN_OVER")), 2)).iter().any(|promise| promise.contains("acknowledge")));
    // a seek explains it
    let sought = broken(|facts, room| {
        resumed(2)(facts, room);
        let kind = MoveKind::Seek { position: 2 };
        room.moves.push(Move { durable: "ann".into(), kind, started: 22 * SECOND, done: Some(23 * SECOND) });
    });
    assert_eq!(sought, [""; 0]);
}

#[test]
fn a_false_page_is_found() {
    // Goal: promises about history can be seen broken. Method: plant each in the honest page.
    finds("leaves nothing out", |_, room| {
        let _ = room.pages[0].messages.remove(2);
    });
    finds("acknowledged before the request", |_, room| {
        let _ = room.pages[0].messages.pop();
    });
    finds("acknowledged before the request", |_, room| room.pages[0].last_sequence = 9);
    finds("shows what is stored", |_, room| room.pages[0].messages[0].1 = 1);
    finds("leaves nothing out", |_, room| (room.pages[0].has_older, room.pages[0].older_cursor) = (false, false));
    finds("leaves nothing out", |_, room| room.pages[0].older_cursor = false);
    finds("leaves nothing out", |_, room| {
        let _ = room.pages[0].messages.remove(0);
    });
    finds("gone does not come", |_, room| {
        room.log.messages.remove(&7);
        room.subscriptions.clear();
        room.removals.push(removal(RemovalKind::Purge { up_to: 7 }, 15 * SECOND));
    });
}

#[test]
fn a_member_that_was_removed_and_goes_on_is_found() {
    // Goal: promises about members can be seen broken. Method: a member that was removed at second 3, whose message of second
    // 3.5 or of second 5 is stored, and whose subscription goes on.
    let change = |may: bool, done: At| MemberChange {
        member: "eve".into(),
        may_read: may,
        may_publish: may,
        instance: 1,
        started: done - 1,
        done: Some(done),
    };
    let publishes = move |number: usize, may: bool| {
        move |_: &mut Facts, room: &mut RoomFacts| {
            room.members.push(change(may, 3 * SECOND + SECOND / 2));
            room.publishes[number - 1].member = Some("eve".into());
        }
    };
    assert_eq!(broken(publishes(4, false)), [""; 0], "within a second");
    finds("nothing more of a removed member", publishes(5, false));
    finds("in force within a second", |facts, room| {
        publishes(5, true)(facts, room);
        room.log.messages.remove(&5);
        room.publishes[4].attempts[0].outcome = Outcome::Failed(failed("PERMISSION_DENIED"));
    });
    finds("ends within a second", |_, room| {
        room.members.push(change(false, 21 * SECOND));
        room.subscriptions[0].member = Some("eve".into());
        room.subscriptions[0].ended = 26 * SECOND;
    });
}

#[test]
fn a_call_that_is_late_or_refused_wrongly_is_found() {
    // Goal: promises about calls can be seen broken. Method: one that takes long, and one with a reason that does not apply.
    let call = |took: At, reason: Option<&str>| {
        let failure = reason.map(failed);
        Call { what: "GetRoom", room_id: "lobby".into(), instance: 0, started: 0, ended: took, failure }
    };
    assert_eq!(broken(|facts, _| facts.calls.push(call(SECOND, Some("TIMEOUT")))), [""; 0]);
    finds("answered in time", |facts, _| facts.calls.push(call(20 * SECOND, None)));
    finds("a call is answered as documented", |facts, _| facts.calls.push(call(SECOND, Some("ROOM_NOT_FOUND"))));
    finds("a call is answered as documented", |facts, _| facts.calls.push(call(SECOND, Some(""))));
    finds("a call is answered as documented", |facts, _| {
        facts.disturbed = false;
        facts.calls.push(call(SECOND, Some("NATS_UNAVAILABLE")));
    });
    let out = Outage { instance: 0, from: 0, to: SECOND };
    let explained = broken(|facts, _| {
        facts.calls.push(call(SECOND, Some("")));
        facts.outages.push(out);
    });
    assert_eq!(explained, [""; 0]);
}

#[test]
fn a_message_of_an_ephemeral_room_that_vanishes_or_comes_twice_is_found() {
    // Goal: promises about ephemeral rooms can be seen broken. Method: five numbers, all of them shown, once without the third,
    // and once with the third twice.
    let air = |shown: &[u64]| {
        let numbers = 1..=5;
        let message = |number| AirMessage {
            number,
            instance: 0,
            started: number * SECOND,
            ended: number * SECOND + 1,
            failure: None,
        };
        let opened = (1, Frame::Opened { position: 0, first: 0, last: 0, resumed: false, generation: 1 });
        let frames = shown.iter().map(|number| (number * SECOND + 1, Frame::Message { sequence: *number, digest: 0 }));
        let frames = [opened].into_iter().chain(frames).collect();
        let subscription = AirSubscription { instance: 0, asked: 0, frames, end: End::ByClient, ended: 9 * SECOND };
        let air = Air { messages: numbers.map(message).collect(), subscriptions: vec![subscription] };
        move |facts: &mut Facts, _: &mut RoomFacts| {
            facts.disturbed = false;
            facts.air = air;
        }
    };
    assert_eq!(broken(air(&[1, 2, 3, 4, 5])), [""; 0]);
    finds("loses nothing silently", air(&[1, 2, 4, 5]));
    finds("at most once", air(&[1, 2, 3, 3, 4, 5]));
}
