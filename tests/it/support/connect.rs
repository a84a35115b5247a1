//! Calls in the Connect protocol, as curl and `fetch` make them.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::{Buf, Bytes, BytesMut};
use reqwest::{Response, header::HeaderMap};
use serde_json::Value;
use tokio::time::timeout;

/// How long an answer may take.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// Bytes of the prefix of each message of a stream.
const PREFIX_BYTES: usize = 5;

/// The path of a method of the contract.
pub(crate) fn path(method: &str) -> String {
    format!("/unibus.v1.RoomService/{method}")
}

/// Text or bytes as JSON has them.
pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A message of a stream with its prefix.
pub(crate) fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[flags][..], &length.to_be_bytes(), message].concat()
}

/// A client over HTTP/1.1.
#[derive(Clone)]
pub(crate) struct Connect {
    http: reqwest::Client,
    address: SocketAddr,
    token: Option<String>,
}

/// A call that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The HTTP status; 200 for an error that ends a stream.
    pub(crate) status: u16,
    pub(crate) code: String,
    /// Of `ErrorInfo`.
    pub(crate) reason: String,
    /// The `debug` of each detail, by its type.
    pub(crate) details: Vec<(String, Value)>,
}

impl Failure {
    /// Reads an error, and checks its form.
    pub(crate) fn read(status: u16, error: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no text in {error}")).to_owned();
        let details = error["details"].as_array().unwrap_or_else(|| panic!("no details in {error}"));
        let details: Vec<_> = details
            .iter()
            .map(|detail| {
                STANDARD_NO_PAD.decode(text(&detail["value"])).expect("base64 without padding");
                (text(&detail["type"]), detail["debug"].clone())
            })
            .collect();
        let info = details.iter().find(|(name, _)| name == "google.rpc.ErrorInfo").expect("ErrorInfo");
        assert_eq!(info.1["domain"], "unibus.v1", "{error}");
        assert!(!text(&error["message"]).is_empty());
        Self { status, code: text(&error["code"]), reason: text(&info.1["reason"]), details }
    }

    /// The status, the code and the reason.
    pub(crate) fn brief(&self) -> (u16, &str, &str) {
        (self.status, &self.code, &self.reason)
    }

    /// The `debug` of the detail of this type.
    pub(crate) fn detail(&self, name: &str) -> &Value {
        let detail = self.details.iter().find(|(kind, _)| kind == name);
        &detail.unwrap_or_else(|| panic!("no {name} in {self:?}")).1
    }
}

impl Connect {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self { http: reqwest::Client::new(), address, token: None }
    }

    /// The same client with a token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// A request with this method and path.
    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("http://{}{path}", self.address));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// A POST of this body to a method of the contract.
    pub(crate) fn post(&self, method: &str, kind: &str, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.request(reqwest::Method::POST, &path(method)).header("content-type", kind).body(body)
    }

    /// A unary call in JSON.
    pub(crate) async fn call(&self, method: &str, message: &Value) -> Result<Value, Failure> {
        answer(sent(self.post(method, "application/json", message.to_string())).await).await
    }

    /// A call whose answers are a stream.
    pub(crate) async fn stream(&self, method: &str, message: &Value) -> JsonStream {
        let body = envelope(0, message.to_string().as_bytes());
        JsonStream::read(sent(self.post(method, "application/connect+json", body)).await)
    }
}

/// The answer to this request.
pub(crate) async fn sent(request: reqwest::RequestBuilder) -> Response {
    timeout(ANSWER_WAIT, request.send()).await.expect("an answer in time").expect("an answer")
}

/// The message of a unary answer.
pub(crate) async fn answer(response: Response) -> Result<Value, Failure> {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text = timeout(ANSWER_WAIT, response.text()).await.expect("a body in time").expect("a body");
    let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    if status == 200 { Ok(json) } else { Err(Failure::read(status, &json)) }
}

/// The messages of a stream, in JSON.
pub(crate) struct JsonStream {
    response: Response,
    received: BytesMut,
}

/// What comes next on a stream.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Value),
    /// The last message: `None` for OK.
    End(Option<Failure>),
}

impl JsonStream {
    pub(crate) fn read(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/connect+json");
        Self { response, received: BytesMut::new() }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next message or the end.
    pub(crate) async fn next(&mut self) -> Next {
        timeout(ANSWER_WAIT, self.take()).await.expect("a message in time")
    }

    async fn take(&mut self) -> Next {
        loop {
            if let Some((flags, message)) = taken(&mut self.received) {
                let json: Value = serde_json::from_slice(&message).expect("JSON");
                match flags {
                    0 => return Next::Message(json),
                    2 => {
                        assert!(self.received.is_empty(), "nothing comes after the end");
                        let error = json.get("error").map(|error| Failure::read(200, error));
                        return Next::End(error);
                    }
                    _ => panic!("flags {flags}"),
                }
            }
            let chunk = self.response.chunk().await.expect("a chunk").expect("an end of the stream before the body's");
            self.received.extend_from_slice(&chunk);
        }
    }

    /// The next frame of this kind; others are passed over.
    pub(crate) async fn frame(&mut self, kind: &str) -> Value {
        loop {
            match self.next().await {
                Next::Message(frame) if frame.get(kind).is_some() => return frame[kind].clone(),
                Next::Message(_) => {}
                Next::End(end) => panic!("no {kind} before {end:?}"),
            }
        }
    }

    /// The error that ends the stream.
    pub(crate) async fn failure(&mut self) -> Failure {
        loop {
            if let Next::End(end) = self.next().await {
                return end.expect("an error");
            }
        }
    }
}

/// Takes the next message of a stream, with its flags.
pub(crate) fn taken(received: &mut BytesMut) -> Option<(u8, Bytes)> {
    let [flags, length @ ..] = *received.first_chunk::<PREFIX_BYTES>()?;
    let length = u32::from_be_bytes(length) as usize;
    if received.len() < PREFIX_BYTES + length {
        return None;
    }
    received.advance(PREFIX_BYTES);
    Some((flags, received.split_to(length).freeze()))
}
