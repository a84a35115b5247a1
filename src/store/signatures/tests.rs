use super::*;
use crate::nats::bucket::{WatchEvent, follow::apply};

/// Keys as one instance has them.
pub(in crate::store) fn instance(keys: impl IntoIterator<Item = (u64, u8)>) -> Signatures {
    let signatures = Signatures { bucket: Bucket::in_memory(), known: Arc::default() };
    for (id, byte) in keys {
        signatures.remember(id, SigningKey::new([byte; 32]));
    }
    signatures
}

/// Whether the bucket may lack a key after this event of its watch.
fn lacks_after(signatures: &Signatures, event: WatchEvent<SigningKey>) -> bool {
    let mut known = lock(&signatures.known);
    apply(&mut *known, event);
    let lacking = Arc::clone(&known.lacking);
    futures_util::FutureExt::now_or_never(lacking.notified()).is_some()
}

/// As [`lacks_after`], for the deletion of a key.
pub(in crate::store) fn lacks_after_deletion(signatures: &Signatures, key: &str, revision: u64) -> bool {
    lacks_after(signatures, WatchEvent::Delete(key.to_owned(), revision))
}

#[test]
fn what_the_bucket_lost_is_put_back_and_what_was_deleted_is_not() {
    let signatures = instance([(1, 1), (2, 2), (3, 3)]);
    assert!(!lacks_after(&signatures, WatchEvent::Restart));
    let found = Versioned { value: SigningKey::new([2; 32]), revision: 1 };
    assert!(!lacks_after(&signatures, WatchEvent::Put("sender.2".to_owned(), found)));
    assert!(!lacks_after(&signatures, WatchEvent::Delete("sender.3".to_owned(), 2)));
    assert!(lacks_after(&signatures, WatchEvent::Complete));
    let missing: Vec<u64> = lock(&signatures.known).missing().into_iter().map(|(id, _)| id).collect();
    assert_eq!(missing, [1]);
}
