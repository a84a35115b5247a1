//! `PublishStream` with cumulative acknowledgements: what each message was told.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use unibus::v1::{
    PublishAcks, PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, PublishedThrough,
    publish_stream_response::Outcome,
};

use super::{Client, errors::status};

/// How long anything may take that should come.
const SOON: Duration = Duration::from_secs(20);
/// Messages of one answer at most, by the contract.
const MESSAGES_MAX: u32 = 256;

/// What one message was told.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// Stored, and the sequence if the answer was for this message as the last.
    Through(Option<u64>),
    Own(PublishResponse),
    Error(Status),
}

impl Told {
    /// The reason of an error; `""` for a stored message.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Error(status) => super::reason(status),
            Self::Through(_) | Self::Own(_) => String::new(),
        }
    }
}

/// A request of a cumulative stream.
pub(crate) fn cumulative(correlation_id: u64, publish: PublishRequest) -> PublishStreamRequest {
    PublishStreamRequest { correlation_id, publish: Some(publish), acks: PublishAcks::Cumulative.into() }
}

/// The answers of a cumulative stream whose requests have the correlation ids 1, 2, 3 and so on.
pub(crate) struct Answers {
    responses: Streaming<PublishStreamResponse>,
    /// By place.
    pub(crate) told: Vec<Told>,
    pub(crate) through: Vec<PublishedThrough>,
}

impl Answers {
    /// Opens a stream for what is sent to the sender.
    pub(crate) async fn open(client: &Client) -> (mpsc::Sender<PublishStreamRequest>, Self) {
        let (requests, taken) = mpsc::channel(1024);
        let responses = client.clone().publish_stream(ReceiverStream::new(taken)).await.unwrap().into_inner();
        (requests, Self { responses, told: Vec::new(), through: Vec::new() })
    }

    /// Reads one response. False: the stream ended with OK. Asserts that responses come in order, and that each message
    /// has one.
    pub(crate) async fn next(&mut self) -> Result<bool, Status> {
        let response = tokio::time::timeout(SOON, self.responses.message()).await.expect("in time")?;
        let Some(PublishStreamResponse { correlation_id, outcome }) = response else { return Ok(false) };
        match outcome.expect("an outcome") {
            Outcome::Result(result) => self.told.push(Told::Own(result)),
            Outcome::Error(error) => self.told.push(Told::Error(status(&error))),
            Outcome::Through(through) => {
                assert!((1..=MESSAGES_MAX).contains(&through.messages), "{through:?}");
                self.told.extend((1..through.messages).map(|_| Told::Through(None)));
                self.told.push(Told::Through(Some(through.last_sequence).filter(|last| *last > 0)));
                self.through.push(through);
            }
        }
        assert_eq!(correlation_id, self.told.len() as u64, "a message has no answer, or two");
        Ok(true)
    }

    /// Reads to the end of the stream, and returns how it ended.
    pub(crate) async fn finish(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(true) => {}
                Ok(false) => return Status::new(Code::Ok, ""),
                Err(status) => return status,
            }
        }
    }
}

/// Publishes all on one stream; the answers, when it has ended with OK.
pub(crate) async fn cumulatively(client: &Client, requests: Vec<PublishRequest>) -> Answers {
    let count = requests.len();
    let (sender, mut answers) = Answers::open(client).await;
    let sending = async {
        for (publish, number) in requests.into_iter().zip(1..) {
            sender.send(cumulative(number, publish)).await.unwrap();
        }
        drop(sender);
    };
    let ((), end) = tokio::join!(sending, answers.finish());
    assert_eq!(end.code(), Code::Ok, "{end:?}");
    assert_eq!(answers.told.len(), count);
    answers
}

/// Asserts that the room `kept` agrees with what was told about `sent`: in order, each at most once, all that are told
/// stored, none that is told not stored. Returns the number of unknown outcomes.
pub(crate) fn assert_honest(kept: &[String], sent: &[String], told: &[Told]) -> usize {
    let mut kept = kept.iter().peekable();
    let mut unknown = 0;
    for (payload, told) in sent.iter().zip(told) {
        let is_kept = kept.next_if_eq(&payload).is_some();
        match told {
            Told::Through(_) | Told::Own(_) => assert!(is_kept, "{payload} is told stored, and is not there in order"),
            Told::Error(status) if super::reason(status) == "OUTCOME_UNKNOWN" => unknown += 1,
            Told::Error(status) => assert!(!is_kept, "{payload} is stored, but was told {status:?}"),
        }
    }
    // what was sent last may have no answer
    let rest: Vec<_> = kept.collect();
    let without: Vec<_> = sent.iter().skip(told.len()).collect();
    assert!(rest.len() <= without.len() && rest.iter().zip(&without).all(|(kept, sent)| kept == sent), "{rest:?}");
    unknown
}
