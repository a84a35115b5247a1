//! The revision up to which this instance has seen a bucket. Answers that know less are not believed.

use std::{collections::HashMap, time::SystemTime};

use serde::Deserialize;

use crate::domain::rfc3339;

/// A server's information about the bucket.
#[derive(Debug, Deserialize)]
pub(super) struct BucketInfo {
    #[serde(with = "rfc3339")]
    created: SystemTime,
    config: InfoConfig,
    state: InfoState,
}

#[derive(Debug, Deserialize)]
struct InfoConfig {
    num_replicas: usize,
}

#[derive(Debug, Deserialize)]
struct InfoState {
    last_seq: u64,
    /// The requested subjects that have messages.
    #[serde(default)]
    subjects: HashMap<String, u64>,
}

impl BucketInfo {
    /// Returns true if none of the requested subjects has a message.
    pub(super) fn has_none(&self) -> bool {
        self.state.subjects.is_empty()
    }
}

/// The identity of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketIdentity {
    /// Distinguishes this bucket from a lost bucket with the same name.
    created: SystemTime,
    replicas: usize,
}

impl BucketIdentity {
    pub(super) fn new(info: &BucketInfo) -> Self {
        Self { created: info.created, replicas: info.config.num_replicas }
    }

    /// Returns true if several servers have copies, so that an answer may be old.
    pub(super) fn is_replicated(&self) -> bool {
        self.replicas > 1
    }
}

/// The high-water mark of a bucket.
#[derive(Debug, Default)]
pub(super) struct BucketMark {
    found: Option<BucketIdentity>,
    created_at: Option<SystemTime>,
    /// The highest revision seen in the bucket that was created at `created_at`.
    revision: u64,
}

impl BucketMark {
    /// The bucket, if it was found and not lost since.
    pub(super) fn found(&self) -> Option<BucketIdentity> {
        self.found
    }

    pub(super) fn set_found(&mut self, found: BucketIdentity) {
        self.found = Some(found);
        self.begin(found.created);
    }

    /// Forgets the bucket, so that the next call looks it up again.
    pub(super) fn set_lost(&mut self) {
        self.found = None;
    }

    /// Records a revision of the bucket that was found last.
    pub(super) fn raise(&mut self, revision: u64) {
        if self.found.map(|found| found.created) == self.created_at {
            self.revision = self.revision.max(revision);
        }
    }

    /// Returns true if `revision` is at least the highest revision that this instance has seen.
    pub(super) fn is_reached_by(&self, revision: u64) -> bool {
        revision >= self.revision
    }

    /// Returns true if the answer knows as much as this instance has seen, and then raises the mark to it. A bucket that
    /// was created later replaces the known one.
    pub(super) fn takes_as_fresh(&mut self, info: &BucketInfo) -> bool {
        self.begin(info.created);
        let is_fresh = self.created_at == Some(info.created) && self.is_reached_by(info.state.last_seq);
        if is_fresh {
            self.revision = info.state.last_seq;
        }
        is_fresh
    }

    fn begin(&mut self, created: SystemTime) {
        if self.created_at.is_none_or(|created_at| created_at < created) {
            self.created_at = Some(created);
            self.revision = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn info(created: &str, last: u64) -> BucketInfo {
        let (created, state) = (format!("2026-01-0{created}T00:00:00Z"), json!({ "last_seq": last }));
        serde_json::from_value(json!({ "created": created, "config": { "num_replicas": 3 }, "state": state })).unwrap()
    }

    #[test]
    fn an_answer_that_knows_less_than_was_seen_is_stale() {
        let mut mark = BucketMark::default();
        mark.set_found(BucketIdentity::new(&info("2", 5)));
        assert!(mark.takes_as_fresh(&info("2", 5)));
        mark.raise(7);
        for (created, last, is_fresh) in
            [("2", 6, false), ("2", 7, true), ("1", 9, false), ("2", 8, true), ("2", 7, false)]
        {
            assert_eq!(mark.takes_as_fresh(&info(created, last)), is_fresh, "{created} {last}");
        }
    }

    #[test]
    fn a_bucket_that_was_made_again_begins_again() {
        let mut mark = BucketMark::default();
        mark.set_found(BucketIdentity::new(&info("2", 5)));
        mark.raise(100);
        assert!(mark.takes_as_fresh(&info("3", 1)));
        // a revision of the earlier bucket, which is ignored
        mark.raise(101);
        assert!(mark.is_reached_by(1));
        assert!(!mark.takes_as_fresh(&info("2", 200)));
        mark.set_found(BucketIdentity::new(&info("3", 1)));
        mark.raise(2);
        assert!(!mark.takes_as_fresh(&info("3", 1)));
    }
}
