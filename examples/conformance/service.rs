//! `connectrpc.conformance.v1.ConformanceService`: the answers that the suite orders.
//!
//! Every method answers with a stream, because only a stream can end with trailers beside `OK`. A stream of one message is a
//! unary answer.

use std::{convert::Infallible, pin::Pin, time::Duration};

use async_stream::stream;
use futures_util::{Stream, StreamExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use prost_types::Any;
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    metadata::MetadataMap,
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tonic_types::pb;
use tower::{Service, service_fn};

use super::messages::{
    BidiStreamRequest, ConformancePayload, Error, Header, PayloadResponse, RequestInfo, ServerStreamRequest,
    StreamResponseDefinition, UnaryOutcome, UnaryRequest, UnaryResponseDefinition,
};

const PACKAGE: &str = "connectrpc.conformance.v1";

type Answers = Pin<Box<dyn Stream<Item = Result<PayloadResponse, Status>> + Send>>;
type Answer = Result<Response<Answers>, Status>;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Conformance {
    /// Maximum bytes of a request message.
    pub request_bytes_max: usize,
}

impl NamedService for Conformance {
    const NAME: &'static str = "connectrpc.conformance.v1.ConformanceService";
}

impl Service<http::Request<Body>> for Conformance {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bytes_max = self.request_bytes_max;
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        Box::pin(async move {
            Ok(match &*method {
                "Unary" | "IdempotentUnary" => {
                    let name = format!("{method}Request");
                    let answer = service_fn(move |request| unary(name.clone(), request));
                    codec::<UnaryRequest>(bytes_max).server_streaming(answer, request).await
                }
                "ServerStream" => codec(bytes_max).server_streaming(service_fn(server_stream), request).await,
                "ClientStream" => codec(bytes_max).streaming(service_fn(client_stream), request).await,
                "BidiStream" => codec(bytes_max).streaming(service_fn(bidi_stream), request).await,
                _ => Status::unimplemented("the suite wants this method to be unimplemented").into_http(),
            })
        })
    }
}

fn codec<T: Message + Default + 'static>(bytes_max: usize) -> Grpc<ProstCodec<PayloadResponse, T>> {
    Grpc::new(ProstCodec::default()).max_decoding_message_size(bytes_max)
}

async fn unary(name: String, request: Request<UnaryRequest>) -> Answer {
    let (metadata, _, message) = request.into_parts();
    let received = vec![any(&name, &message)];
    Ok(one_answer(metadata, received, message.response_definition.unwrap_or_default()).await)
}

async fn client_stream(request: Request<Streaming<UnaryRequest>>) -> Answer {
    let (metadata, _, mut messages) = request.into_parts();
    let (mut received, mut definition) = (Vec::new(), None);
    while let Some(message) = messages.next().await {
        let message = message?;
        received.push(any("ClientStreamRequest", &message));
        definition.get_or_insert(message.response_definition.unwrap_or_default());
    }
    Ok(one_answer(metadata, received, definition.unwrap_or_default()).await)
}

async fn one_answer(
    metadata: MetadataMap,
    received: Vec<Any>,
    definition: UnaryResponseDefinition,
) -> Response<Answers> {
    tokio::time::sleep(Duration::from_millis(definition.response_delay_ms.into())).await;
    let info = info(metadata, received);
    let trailers = headers(&definition.response_trailers);
    let answers: Vec<_> = match definition.response {
        Some(UnaryOutcome::Error(error)) => vec![Err(status(error, Some(&info), trailers))],
        outcome => {
            let data = if let Some(UnaryOutcome::ResponseData(data)) = outcome { data } else { Vec::new() };
            vec![Ok(payload(data, Some(info))), Err(ok(trailers))]
        }
    };
    with_headers(&definition.response_headers, Box::pin(futures_util::stream::iter(answers)))
}

async fn server_stream(request: Request<ServerStreamRequest>) -> Answer {
    let (metadata, _, message) = request.into_parts();
    let info = info(metadata, vec![any("ServerStreamRequest", &message)]);
    let definition = message.response_definition.unwrap_or_default();
    let response_headers = definition.response_headers.clone();
    Ok(with_headers(&response_headers, Box::pin(rest_of_answers(definition, 0, info))))
}

/// The answers of `definition` after the first `sent`, and the end. The first answer of all, or else the error, has `info`.
fn rest_of_answers(
    definition: StreamResponseDefinition,
    sent: usize,
    info: RequestInfo,
) -> impl Stream<Item = Result<PayloadResponse, Status>> + Send {
    stream! {
        let mut info = (sent == 0).then_some(info);
        for data in definition.response_data.into_iter().skip(sent) {
            tokio::time::sleep(Duration::from_millis(definition.response_delay_ms.into())).await;
            yield Ok(payload(data, info.take()));
        }
        let trailers = headers(&definition.response_trailers);
        yield Err(match definition.error {
            Some(error) => status(error, info.as_ref(), trailers),
            None => ok(trailers),
        });
    }
}

async fn bidi_stream(request: Request<Streaming<BidiStreamRequest>>) -> Answer {
    let (metadata, _, mut messages) = request.into_parts();
    let Some(first) = messages.next().await else {
        return Ok(Response::new(Box::pin(futures_util::stream::empty())));
    };
    let first = first?;
    let definition = first.response_definition.clone().unwrap_or_default();
    let response_headers = definition.response_headers.clone();
    let answers = stream! {
        let (full_duplex, mut sent) = (first.full_duplex, 0);
        let mut received = vec![any("BidiStreamRequest", &first)];
        loop {
            if full_duplex {
                let Some(data) = definition.response_data.get(sent).cloned() else { break };
                tokio::time::sleep(Duration::from_millis(definition.response_delay_ms.into())).await;
                let received = std::mem::take(&mut received);
                let first = if sent == 0 { metadata.clone() } else { MetadataMap::new() };
                yield Ok(payload(data, Some(info(first, received))));
                sent += 1;
            }
            match messages.next().await {
                Some(Ok(message)) => received.push(any("BidiStreamRequest", &message)),
                Some(Err(status)) => {
                    yield Err(status);
                    return;
                }
                None => break,
            }
        }
        for await answer in rest_of_answers(definition, sent, info(metadata, received)) {
            yield answer;
        }
    };
    Ok(with_headers(&response_headers, Box::pin(answers)))
}

fn with_headers(headers: &[Header], answers: Answers) -> Response<Answers> {
    let mut response = Response::new(answers);
    *response.metadata_mut() = self::headers(headers);
    response
}

fn headers(given: &[Header]) -> MetadataMap {
    let mut headers = HeaderMap::new();
    for header in given {
        for value in &header.value {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(&header.name), HeaderValue::try_from(value)) {
                headers.append(name, value);
            }
        }
    }
    MetadataMap::from_headers(headers)
}

fn payload(data: Vec<u8>, request_info: Option<RequestInfo>) -> PayloadResponse {
    PayloadResponse { payload: Some(ConformancePayload { data, request_info }) }
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{PACKAGE}.{name}"), value: message.encode_to_vec() }
}

fn info(metadata: MetadataMap, requests: Vec<Any>) -> RequestInfo {
    let headers = metadata.into_headers();
    let timeout_ms = headers.get("grpc-timeout").and_then(|limit| millis(limit.to_str().ok()?));
    let names = headers.keys();
    let request_headers = names.map(|name| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        Header { name: name.to_string(), value: values.map(str::to_owned).collect() }
    });
    RequestInfo { request_headers: request_headers.collect(), timeout_ms, requests }
}

/// The milliseconds of a `grpc-timeout`.
fn millis(limit: &str) -> Option<i64> {
    let (number, unit) = limit.split_at_checked(limit.len().checked_sub(1)?)?;
    let number: i64 = number.parse().ok()?;
    Some(match unit {
        "H" => number * 3_600_000,
        "M" => number * 60_000,
        "S" => number * 1000,
        "m" => number,
        "u" => number / 1000,
        _ => number / 1_000_000,
    })
}

/// The status `OK` with trailers.
fn ok(trailers: MetadataMap) -> Status {
    Status::with_metadata(Code::Ok, "", trailers)
}

/// The ordered error. `info` is added to its details.
fn status(error: Error, info: Option<&RequestInfo>, trailers: MetadataMap) -> Status {
    let Error { code, message, mut details } = error;
    details.extend(info.map(|info| any("ConformancePayload.RequestInfo", info)));
    let message = message.unwrap_or_default();
    let encoded = pb::Status { code, message: message.clone(), details }.encode_to_vec();
    Status::with_details_and_metadata(Code::from(code), message, encoded.into(), trailers)
}
