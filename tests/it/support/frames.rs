//! A subscription as a test reads it.

use std::time::Duration;

use tonic::{Code, Status, Streaming};
use unibus::v1::{Gap, Message, Opened, SubscribeRequest, SubscribeResponse, subscribe_response::Frame};

use super::{Client, subscription};

/// How long a frame may take before the test gives up: far above any heartbeat interval of these tests.
const FRAME_WAIT: Duration = Duration::from_secs(20);

/// An open Subscribe call. Dropping it cancels the call.
pub(crate) struct Frames {
    stream: Streaming<SubscribeResponse>,
    opened: Opened,
    /// Every `gap` frame read so far.
    pub(crate) gaps: Vec<Gap>,
}

impl Frames {
    /// Opens a subscription and reads its first frame, which must be `opened`.
    pub(crate) async fn open(client: &Client, request: SubscribeRequest) -> Result<Self, Status> {
        let mut stream = client.clone().subscribe(request).await?.into_inner();
        let first = tokio::time::timeout(FRAME_WAIT, stream.message()).await;
        let first = first.expect("no first frame in time")?;
        match first.and_then(|response| response.frame) {
            Some(Frame::Opened(opened)) => Ok(Self { stream, opened, gaps: Vec::new() }),
            other => panic!("the first frame is {other:?}"),
        }
    }

    /// Opens a durable subscription with automatic acks that starts at the default place.
    pub(crate) async fn durable(client: &Client, room_id: &str, subscriber: &str) -> Self {
        Self::open(client, subscription(room_id, subscriber)).await.unwrap()
    }

    /// Opens a subscription of which nothing is kept, at the default place.
    pub(crate) async fn transient(client: &Client, room_id: &str) -> Self {
        Self::durable(client, room_id, "").await
    }

    /// The first frame.
    pub(crate) fn opened(&self) -> &Opened {
        &self.opened
    }

    /// The next frame, of any kind; `None` when the subscription ended with OK. Panics after `timeout`.
    pub(crate) async fn next_frame(&mut self, timeout: Duration) -> Result<Option<Frame>, Status> {
        let next = tokio::time::timeout(timeout, self.stream.message()).await;
        let Some(response) = next.unwrap_or_else(|_| panic!("no frame within {timeout:?}"))? else {
            return Ok(None);
        };
        let frame = response.frame.expect("a response holds a frame");
        if let Frame::Gap(gap) = &frame {
            self.gaps.push(*gap);
        }
        Ok(Some(frame))
    }

    /// The next `count` messages; every other frame is passed over. Panics when the subscription ends before.
    pub(crate) async fn messages(&mut self, count: usize) -> Vec<Message> {
        let mut messages = Vec::with_capacity(count);
        let mut progress = tokio::time::Instant::now();
        while messages.len() < count {
            match self.next_frame(FRAME_WAIT).await {
                Ok(Some(Frame::Message(message))) => {
                    messages.push(message);
                    progress = tokio::time::Instant::now();
                }
                Ok(Some(_)) => assert!(
                    progress.elapsed() < FRAME_WAIT,
                    "{} of {count} messages, then only other frames",
                    messages.len()
                ),
                end => panic!("{} of {count} messages, then {end:?}", messages.len()),
            }
        }
        messages
    }

    /// The messages up to the `caught_up` frame. Panics when the subscription ends before.
    pub(crate) async fn until_caught_up(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.next_frame(FRAME_WAIT).await {
                Ok(Some(Frame::Message(message))) => messages.push(message),
                Ok(Some(Frame::CaughtUp(_))) => return messages,
                Ok(Some(_)) => {}
                end => panic!("{} messages, then {end:?}", messages.len()),
            }
        }
    }

    /// Reads to the end, within `timeout`, and gives the status that the subscription ended with.
    pub(crate) async fn end(&mut self, timeout: Duration) -> Status {
        let read = async {
            loop {
                match self.next_frame(timeout).await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::new(Code::Ok, ""),
                    Err(status) => return status,
                }
            }
        };
        let status = tokio::time::timeout(timeout, read).await;
        status.unwrap_or_else(|_| panic!("still open after {timeout:?}"))
    }
}
