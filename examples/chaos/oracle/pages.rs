//! Checks the pages of History.

use super::{Anchor, Facts, Findings, Page, room::Room, seconds};

const CONTENT: &str = "history shows what is stored";
const COMPLETE: &str = "a page of history leaves nothing out";
const NEWEST: &str = "history shows what was acknowledged before the request";
/// Bytes from which a page may be full, because the next message can be a large one.
const FULL: usize = 2 * 1024 * 1024;

pub(super) fn check(facts: &Facts, room: &Room, found: &mut Findings) {
    for page in &room.pages {
        check_page(room, page, found);
        let shown = page.messages.iter().map(|(sequence, _)| *sequence);
        room.check_shown(facts, found, &page.name(), page.instance, page.asked, shown);
    }
}

fn check_page(room: &Room, page: &Page, found: &mut Findings) {
    let who = page.name();
    for (sequence, digest) in &page.messages {
        let stored = room.log.messages.get(sequence).map(|stored| stored.digest);
        let right = stored.map_or_else(|| room.may_be_removed(*sequence, u64::MAX), |stored| stored == *digest);
        found.require(right, CONTENT, || format!("{who}: {sequence} came as {}", room.name(*digest)));
    }
    // Between its messages, and from the anchor to the first one, nothing is left out.
    let before = room.known_before(page.asked, page.instance);
    let mut edge = match page.anchor {
        Anchor::After(sequence) => Some(sequence),
        Anchor::Newest | Anchor::Before(_) => None,
    };
    for (sequence, _) in &page.messages {
        if let Some(edge) = edge {
            found.require(*sequence > edge, COMPLETE, || format!("{who}: {sequence} comes after {edge}"));
            if *sequence > edge + 1
                && let Some(why) = room.false_gap(edge + 1, sequence - 1, page.answered)
            {
                found.add(COMPLETE, format!("{who}: between {edge} and {sequence} {why}"));
            }
        }
        edge = Some(*sequence);
    }
    let last = page.messages.last().map(|(sequence, _)| *sequence);
    let end = last.or(match page.anchor {
        Anchor::After(sequence) => Some(sequence),
        Anchor::Newest | Anchor::Before(_) => None,
    });
    found.require(page.last_sequence >= before, NEWEST, || {
        format!("{who}: last_sequence is {}, and {before} had been acknowledged", page.last_sequence)
    });
    let reaches = match page.anchor {
        Anchor::Newest => Some(u64::MAX),
        Anchor::Before(sequence) => Some(sequence - 1),
        Anchor::After(_) if page.bytes < FULL && page.messages.len() < page.limit && !page.has_newer => Some(u64::MAX),
        Anchor::After(_) => None,
    };
    if let Some(reaches) = reaches {
        let from = end.unwrap_or(0) + 1;
        let to = reaches.min(before);
        if from <= to
            && let Some(why) = room.false_gap(from, to, page.answered)
        {
            found.add(NEWEST, format!("{who}: ends at {end:?}, and {why}"));
        }
    }
    if !page.has_newer && matches!(page.anchor, Anchor::After(_)) {
        found.require(
            end.unwrap_or(0) >= before || room.false_gap(end.unwrap_or(0) + 1, before, page.answered).is_none(),
            NEWEST,
            || format!("{who}: says that nothing is newer than {end:?}, and {before} had been acknowledged"),
        );
    }
    check_older(room, page, found);
}

fn check_older(room: &Room, page: &Page, found: &mut Findings) {
    let who = page.name();
    found.require(page.has_older == page.older_cursor, COMPLETE, || {
        format!("{who}: has_older is {}, and whether there is a cursor: {}", page.has_older, page.older_cursor)
    });
    let first = page.messages.first().map(|(sequence, _)| *sequence);
    let edge = match page.anchor {
        Anchor::Newest => first.unwrap_or(u64::MAX),
        Anchor::Before(sequence) => first.unwrap_or(sequence),
        Anchor::After(sequence) => first.unwrap_or(sequence + 1),
    };
    let older = room.stored(0, edge.saturating_sub(1)).next_back().map(|(sequence, _)| sequence);
    let known = older.filter(|older| *older <= room.known_before(page.asked, page.instance));
    found.require(page.has_older || known.is_none(), COMPLETE, || {
        format!("{who}: says that nothing is older than {first:?}, and {known:?} is stored")
    });
    let short = page.bytes < FULL && page.messages.len() < page.limit && !matches!(page.anchor, Anchor::After(_));
    found.require(!short || known.is_none(), COMPLETE, || {
        format!("{who}: has {} messages, and {known:?} is older", page.messages.len())
    });
}

impl Page {
    fn name(&self) -> String {
        format!("a page of {} {:?} on {} asked at {}", self.limit, self.anchor, self.instance, seconds(self.asked))
    }
}
