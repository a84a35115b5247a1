//! The judge: it checks the promises of the contract on the facts of an episode. It is pure and uses no client and no
//! server.
//!
//! Each violation names the broken promise. `tests.rs` plants violations of every promise and checks that the judge
//! finds them.

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

/// A broken promise, with evidence.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The promise in a few words. One promise always has the same words.
    pub promise: &'static str,
    pub room_id: String,
    /// The answers that the clients received, and the stored messages.
    pub evidence: String,
}

/// The numbers of judged facts, for the table.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub acknowledged: usize,
    pub deliveries: usize,
    pub gaps: usize,
    pub subscriptions: usize,
    pub pages: usize,
}

/// Checks all promises, and returns every violation.
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

/// Counts the facts.
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

    /// Adds a violation unless the promise holds.
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
