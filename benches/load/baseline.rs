//! The bare tonic server: the minimum cost of gRPC, with handlers that do nothing. It answers on the paths of the
//! service, so that the same clients can call both.
//!
//! - `Publish` decodes the request and answers with an invented sequence.
//! - `PublishStream` does the same for each message of a stream.
//! - `Subscribe` sends pre-encoded bytes, which all subscribers share through one broadcast channel.
//! - `Burst`, which the service does not have, broadcasts one frame a given number of times.
//!
//! With a feed, the server also subscribes to one NATS subject with core NATS, encodes each message once, and
//! broadcasts it. This is the minimum cost of a fan-out behind NATS.

use std::{
    convert::Infallible,
    io::{Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, future::BoxFuture, stream};
use tokio::{
    net::TcpListener,
    sync::broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
};
use tokio_util::sync::ReusableBoxFuture;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    server::{Grpc, NamedService},
    transport::{Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use unibus::v1::{
    Durability, PublishRequest, PublishResponse, PublishStreamRequest, PublishStreamResponse, publish_stream_response,
};

use crate::{
    native,
    wire::{self, Ready},
};

/// Frames that may wait for a subscriber; the load generator keeps fewer under way.
const BACKLOG: usize = 8192;
/// As the service has it.
const STREAMS_PER_CONNECTION_MAX: u32 = 16_384;

/// Serves until standard input ends, which means that the load generator has ended. `feed` is a NATS URL and a subject.
pub(crate) async fn serve(feed: Option<(&str, &str)>) -> anyhow::Result<()> {
    let frames = broadcast::channel(BACKLOG).0;
    let messages = match feed {
        Some((url, subject)) => {
            let client = async_nats::connect(url).await?;
            let subscription = client.subscribe(subject.to_owned()).await?;
            native::settled(&client).await;
            subscription.boxed()
        }
        None => stream::pending().boxed(),
    };
    let feeding = messages.for_each(|message| {
        // nobody listens: then there is nothing to do
        let _ = frames.send(wire::frame(message.payload));
        std::future::ready(())
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mut output = std::io::stdout();
    writeln!(output, "listening {}", listener.local_addr()?)?;
    output.flush()?;
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_service(Bare { frames: frames.clone() })
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let orphaned = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        served = serving => served?,
        () = feeding => anyhow::bail!("NATS is gone"),
        _ = orphaned => {}
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Bare {
    frames: broadcast::Sender<Bytes>,
}

impl NamedService for Bare {
    const NAME: &'static str = "unibus.v1.RoomService";
}

impl tower::Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let frames = self.frames.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            Ok(match method {
                "Publish" => {
                    let echo = tower::service_fn(async |request: Request<PublishRequest>| {
                        std::hint::black_box(request.get_ref());
                        Ok(Response::new(published()))
                    });
                    Grpc::new(ProstCodec::default()).unary(echo, request).await
                }
                "PublishStream" => {
                    let echo = tower::service_fn(async |request: Request<Streaming<PublishStreamRequest>>| {
                        Ok(Response::new(request.into_inner().map(|request| request.map(|request| echoed(&request)))))
                    });
                    Grpc::new(ProstCodec::default()).streaming(echo, request).await
                }
                "Subscribe" => {
                    let subscribe = tower::service_fn(move |_: Request<Bytes>| {
                        let opened = stream::iter([Ok(wire::caught_up())]);
                        let frames = Shared::new(frames.subscribe());
                        async move { Ok(Response::new(opened.chain(frames))) }
                    });
                    Grpc::new(Ready).server_streaming(subscribe, request).await
                }
                "Burst" => {
                    let burst = tower::service_fn(move |request: Request<Bytes>| {
                        let frames = frames.clone();
                        async move {
                            let (count, frame) = wire::read_burst(request.into_inner())?;
                            for _ in 0..count {
                                // nobody listens: then there is nothing to do
                                let _ = frames.send(frame.clone());
                            }
                            Ok(Response::new(Bytes::new()))
                        }
                    });
                    Grpc::new(Ready).unary(burst, request).await
                }
                _ => Status::unimplemented("the bare server does not have this").into_http(),
            })
        })
    }
}

fn published() -> PublishResponse {
    PublishResponse {
        sequence: 1_000_000,
        duplicate: false,
        published_at: Some(SystemTime::now().into()),
        durability: Durability::Buffered.into(),
    }
}

fn echoed(request: &PublishStreamRequest) -> PublishStreamResponse {
    std::hint::black_box(&request.publish);
    PublishStreamResponse {
        correlation_id: request.correlation_id,
        outcome: Some(publish_stream_response::Outcome::Result(published())),
    }
}

/// The receiver of a subscriber. It returns all ready frames before it waits.
struct Shared {
    state: State,
    waiting: ReusableBoxFuture<'static, (Result<Bytes, RecvError>, broadcast::Receiver<Bytes>)>,
}

enum State {
    /// The receiver is here.
    Here(broadcast::Receiver<Bytes>),
    /// The receiver is in the future that waits.
    Away,
}

impl Shared {
    fn new(receiver: broadcast::Receiver<Bytes>) -> Self {
        let idle = receiver.resubscribe();
        Self { state: State::Here(receiver), waiting: ReusableBoxFuture::new(receive(idle)) }
    }
}

async fn receive(mut receiver: broadcast::Receiver<Bytes>) -> (Result<Bytes, RecvError>, broadcast::Receiver<Bytes>) {
    (receiver.recv().await, receiver)
}

impl Stream for Shared {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let State::Here(receiver) = &mut self.state {
            match receiver.try_recv() {
                Ok(frame) => return Poll::Ready(Some(Ok(frame))),
                Err(TryRecvError::Closed) => return Poll::Ready(None),
                Err(TryRecvError::Lagged(lost)) => return Poll::Ready(Some(Err(lagged(lost)))),
                Err(TryRecvError::Empty) => {}
            }
            if let State::Here(receiver) = std::mem::replace(&mut self.state, State::Away) {
                self.waiting.set(receive(receiver));
            }
        }
        let (frame, receiver) = ready!(self.waiting.poll(context));
        self.state = State::Here(receiver);
        Poll::Ready(match frame {
            Ok(frame) => Some(Ok(frame)),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(lost)) => Some(Err(lagged(lost))),
        })
    }
}

fn lagged(lost: u64) -> Status {
    Status::data_loss(format!("{lost} frames were lost; the load generator had too many under way"))
}
