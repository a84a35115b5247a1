//! Delivery in an ephemeral room: a bounded queue that drops the oldest messages of a slow reader and counts them.

use std::collections::VecDeque;

use crate::domain::Message;

/// What the client is told next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LiveItem {
    Message(Message),
    /// So many messages were dropped here.
    Dropped(u64),
    /// The NATS connection was lost here.
    Disconnected,
}

/// What waits for one reader, bounded by count and by bytes.
#[derive(Debug)]
pub(crate) struct LiveQueue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Lost before the first that waits.
    dropped: u64,
    disconnected: bool,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Debug)]
enum Waiting {
    Message(Message),
    Disconnected,
}

impl LiveQueue {
    /// Always has room for one message, however large.
    pub(crate) fn new(messages_max: usize, bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, dropped: 0, disconnected: false, messages_max, bytes_max }
    }

    /// Adds the newest message; the oldest ones go if there is no room.
    pub(crate) fn push(&mut self, message: Message) {
        self.bytes += message.payload.len();
        self.waiting.push_back(Waiting::Message(message));
        while self.waiting.len() > self.messages_max || (self.bytes > self.bytes_max && self.waiting.len() > 1) {
            match self.waiting.pop_front() {
                Some(Waiting::Message(oldest)) => {
                    self.bytes -= oldest.payload.len();
                    self.dropped += 1;
                }
                Some(Waiting::Disconnected) => self.disconnected = true,
                None => {}
            }
        }
    }

    /// Notes that messages may have passed unheard after those that wait.
    pub(crate) fn disconnected(&mut self) {
        match self.waiting.back() {
            None => self.disconnected = true,
            Some(Waiting::Disconnected) => {}
            Some(Waiting::Message(_)) => self.waiting.push_back(Waiting::Disconnected),
        }
    }

    /// The next item; a loss is told before what follows it.
    pub(crate) fn pop(&mut self) -> Option<LiveItem> {
        if self.dropped > 0 {
            return Some(LiveItem::Dropped(std::mem::take(&mut self.dropped)));
        }
        if std::mem::take(&mut self.disconnected) {
            return Some(LiveItem::Disconnected);
        }
        match self.waiting.pop_front()? {
            Waiting::Message(message) => {
                self.bytes -= message.payload.len();
                Some(LiveItem::Message(message))
            }
            Waiting::Disconnected => Some(LiveItem::Disconnected),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::time::SystemTime;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Headers;

    fn message(number: u64, bytes: usize) -> Message {
        Message {
            sequence: number,
            payload: Bytes::from(vec![0; bytes]),
            headers: Headers::default(),
            published_at: SystemTime::UNIX_EPOCH,
            message_id: String::new(),
            sender: String::new(),
        }
    }

    proptest! {
        #[test]
        fn what_is_told_and_what_is_dropped_adds_up(steps in proptest::collection::vec(proptest::option::of(0..400_usize), 0..200)) {
            let mut queue = LiveQueue::new(8, 1000);
            let (mut pushed, mut next) = (0, 1);
            let mut take = |queue: &mut LiveQueue| match queue.pop() {
                Some(LiveItem::Message(message)) => {
                    assert_eq!(message.sequence, next);
                    next += 1;
                    true
                }
                Some(LiveItem::Dropped(count)) => {
                    next += count;
                    true
                }
                Some(LiveItem::Disconnected) => panic!("nobody said so"),
                None => false,
            };
            for step in steps {
                match step {
                    Some(bytes) => {
                        pushed += 1;
                        queue.push(message(pushed, bytes));
                        prop_assert!(queue.waiting.len() <= 8);
                        prop_assert!(queue.bytes <= 1000 || queue.waiting.len() == 1);
                    }
                    None => {
                        take(&mut queue);
                    }
                }
            }
            while take(&mut queue) {}
            prop_assert_eq!(next, pushed + 1);
            prop_assert_eq!(queue.bytes, 0);
        }
    }

    #[test]
    fn a_lost_connection_is_told_where_it_was_lost() {
        let mut queue = LiveQueue::new(8, 1000);
        queue.push(message(1, 1));
        queue.disconnected();
        queue.disconnected();
        queue.push(message(2, 1));
        let told: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(told, [LiveItem::Message(message(1, 1)), LiveItem::Disconnected, LiveItem::Message(message(2, 1))]);
    }

    #[test]
    fn one_message_always_fits() {
        let mut queue = LiveQueue::new(8, 10);
        queue.push(message(1, 1000));
        assert!(matches!(queue.pop(), Some(LiveItem::Message(_))));
    }
}
