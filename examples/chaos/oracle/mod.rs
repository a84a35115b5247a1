//! The judge: what the contract promises, checked over what an episode's clients saw. Pure: it knows no client and no server.
//!
//! Each check names the promise that it found broken. `tests.rs` plants violations of every promise and sees them found.

mod air;
mod calls;
mod durables;
mod facts;
mod members;
mod pages;
mod publishes;
mod removals;
mod room;
mod starts;
mod subscriptions;
#[cfg(test)]
mod tests;

pub(crate) use self::facts::*;
use self::room::Room;

/// A broken promise with its evidence.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The promise, in few words: the same words for the same promise.
    pub promise: &'static str,
    pub room_id: String,
    /// What was told, and what is stored.
    pub evidence: String,
}

/// What was judged, for the table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub acknowledged: usize,
    pub deliveries: usize,
    pub gaps: usize,
    pub subscriptions: usize,
    pub pages: usize,
}

/// Every broken promise.
pub(crate) fn judge(facts: &Facts) -> Vec<Violation> {
    let mut found = Findings::default();
    calls::check(facts, &mut found);
    air::check(facts, &mut found);
    for room in &facts.rooms {
        found.room_id.clone_from(&room.room_id);
        let room = &Room::new(room);
        publishes::check(facts, room, &mut found);
        subscriptions::check(facts, room, &mut found);
        starts::check(room, &mut found);
        durables::check(room, &mut found);
        pages::check(facts, room, &mut found);
        members::check(facts, room, &mut found);
        for who in &room.unfinished {
            found.add("everybody comes to the end when the faults are over", who.clone());
        }
    }
    found.violations
}

/// What there is to judge.
pub(crate) fn count(facts: &Facts) -> Counts {
    let mut counts = Counts::default();
    for room in &facts.rooms {
        let stored = |publish: &&Publish| publish.sequence().is_some();
        counts.acknowledged += room.publishes.iter().filter(stored).count();
        counts.subscriptions += room.subscriptions.len();
        counts.pages += room.pages.len();
        for (_, frame) in room.subscriptions.iter().flat_map(|subscription| &subscription.frames) {
            match frame {
                Frame::Message { .. } => counts.deliveries += 1,
                Frame::Gap { .. } => counts.gaps += 1,
                _ => {}
            }
        }
    }
    counts
}

/// Collects violations of the room that is being judged.
#[derive(Default)]
struct Findings {
    room_id: String,
    violations: Vec<Violation>,
}

impl Findings {
    fn add(&mut self, promise: &'static str, evidence: impl Into<String>) {
        self.violations.push(Violation { promise, room_id: self.room_id.clone(), evidence: evidence.into() });
    }

    /// Adds a violation unless what was promised holds.
    fn require(&mut self, holds: bool, promise: &'static str, evidence: impl FnOnce() -> String) {
        if !holds {
            self.add(promise, evidence());
        }
    }
}

/// Seconds with a fraction, for evidence.
fn seconds(at: At) -> String {
    format!("{}.{:03} s", at / SECOND, at % SECOND / 1000)
}
