//! Checks that a change of a member's permissions is in force on every instance within a second.

use super::{At, End, Facts, Findings, Frame, MemberChange, Outcome, SECOND, room::Room, seconds};

/// How soon a change is in force on instances other than the one that answered it.
const IN_FORCE: At = SECOND;
/// How long a subscription that has to end may take to be seen ended: the frames in its window come first.
const END_SLACK: At = 2 * SECOND;
const WRITES: &str = "nothing more of a removed member is stored";
const READS: &str = "the subscription of a removed member ends within a second";
const GIVEN: &str = "what a member is given is in force within a second";

pub(super) fn check(facts: &Facts, room: &Room, found: &mut Findings) {
    check_publishes(facts, room, found);
    check_subscriptions(facts, room, found);
}

impl Facts {
    /// Whether NATS reached this instance all the time, and for long enough before to tell it everything.
    fn was_reached(&self, instance: usize, from: At, to: At) -> bool {
        let mut away = self.unreached.iter().chain(&self.outages).filter(|outage| outage.instance == instance);
        !away.any(|outage| outage.from <= to && from <= outage.to + 3 * SECOND)
    }
}

impl Room<'_> {
    /// The permissions of this member that are in force on this instance from `from` to `to`; `None` if they may change
    /// meanwhile.
    fn rights(&self, member: &str, instance: usize, from: At, to: At) -> Option<&MemberChange> {
        let changes = || self.members.iter().filter(|change| change.member == member);
        let last = changes().filter(|change| change.started <= to).max_by_key(|change| change.started)?;
        let slack = if last.instance == instance { 0 } else { IN_FORCE };
        last.done.filter(|done| done + slack < from).map(|_| last)
    }
}

fn check_publishes(facts: &Facts, room: &Room, found: &mut Findings) {
    for publish in &room.publishes {
        let Some(member) = &publish.member else { continue };
        let rights = publish.attempts.iter();
        let rights: Vec<_> = rights
            .map(|attempt| {
                let rights = room.rights(member, attempt.instance, attempt.started, attempt.ended);
                rights.filter(|_| facts.was_reached(attempt.instance, attempt.started, attempt.ended))
            })
            .collect();
        let forbidden =
            !rights.is_empty() && rights.iter().all(|rights| rights.is_some_and(|rights| !rights.may_publish));
        let answered = publish.sequence();
        let stored = room.log.messages.iter().find(|(_, stored)| stored.digest == publish.digest);
        let stored = if forbidden { stored.map(|(sequence, _)| *sequence) } else { None };
        found.require(!forbidden || answered.is_none() && stored.is_none(), WRITES, || {
            let done = rights.iter().flatten().next().and_then(|change| change.done).unwrap_or(0);
            let attempts = &publish.attempts;
            format!("{} of {member}, removed at {}: stored at {stored:?}, {attempts:?}", publish.label, seconds(done))
        });
        for (attempt, rights) in publish.attempts.iter().zip(&rights) {
            let denied = matches!(&attempt.outcome, Outcome::Failed(failure) if failure.reason == "PERMISSION_DENIED");
            let may = rights.is_some_and(|rights| rights.may_publish);
            found.require(!denied || !may, GIVEN, || {
                format!("{} of {member} was denied at {}", publish.label, seconds(attempt.started))
            });
        }
    }
}

fn check_subscriptions(facts: &Facts, room: &Room, found: &mut Findings) {
    for subscription in &room.subscriptions {
        let Some(member) = &subscription.member else { continue };
        let removals = room.members.iter().filter(|change| &change.member == member && !change.may_read);
        for removal in removals {
            let Some(done) = removal.done else { continue };
            let given_again = room.members.iter().any(|change| {
                &change.member == member
                    && change.may_read
                    && change.started > removal.started
                    && change.started < done + 2 * SECOND
            });
            if given_again
                || !facts.was_reached(subscription.instance, done, subscription.ended)
                || subscription.asked > done
                || subscription.ended < done
            {
                continue;
            }
            found.require(subscription.ended <= done + IN_FORCE + END_SLACK, READS, || {
                let ended = seconds(subscription.ended);
                format!("{}: {member} was removed at {}, ended at {ended}", subscription.name(), seconds(done))
            });
            let late = subscription.frames.iter().find(|(_, frame)| match frame {
                Frame::Message { digest, .. } => {
                    room.published(*digest).is_some_and(|publish| publish.started() > done + IN_FORCE)
                }
                _ => false,
            });
            found.require(late.is_none(), READS, || {
                format!("{}: {member} was removed at {}, and got {late:?}", subscription.name(), seconds(done))
            });
        }
        if let End::Failed(failure) = &subscription.end
            && failure.reason == "PERMISSION_DENIED"
        {
            let rights = room.rights(member, subscription.instance, subscription.asked, subscription.ended);
            let reached = facts.was_reached(subscription.instance, subscription.asked, subscription.ended);
            found.require(!reached || rights.is_none_or(|rights| !rights.may_read), GIVEN, || {
                format!("{}: {member} was denied", subscription.name())
            });
        }
    }
}
