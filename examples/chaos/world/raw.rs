//! The NATS protocol by hand, for requests that no client library sends, and messages that no client library can parse.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// Requests that are under way at a time.
const WINDOW: u64 = 256;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A connection to a nats-server.
pub(crate) struct Raw {
    stream: BufReader<TcpStream>,
}

/// A stored message, as nats-server returns it.
pub(crate) struct RawMessage {
    pub sequence: u64,
    pub payload: Vec<u8>,
    /// RFC 3339.
    pub time: String,
}

impl Raw {
    /// Connects, with the user and password if there are any.
    pub(crate) async fn connect(address: SocketAddr, login: Option<(&str, &str)>) -> Result<Self> {
        let stream = timeout(ANSWER_WITHIN, TcpStream::connect(address)).await??;
        let mut raw = Self { stream: BufReader::new(stream) };
        let mut options = json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "name": "chaos", "lang": "rust", "version": "0"});
        if let (Some((user, password)), Some(options)) = (login, options.as_object_mut()) {
            options.insert("user".into(), user.into());
            options.insert("pass".into(), password.into());
        }
        let greeting = raw.line().await?;
        if !greeting.starts_with("INFO ") {
            bail!("not a NATS server: {greeting}");
        }
        raw.send(format!("CONNECT {options}\r\nSUB _INBOX.chaos.* 1\r\n").as_bytes()).await?;
        raw.settle().await?;
        Ok(raw)
    }

    /// Sends these bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes).await?)
    }

    /// Publishes with an unchecked block of headers.
    pub(crate) async fn publish_with(&mut self, subject: &str, headers: &[u8], payload: &[u8]) -> Result<()> {
        let total = headers.len() + payload.len();
        let mut bytes = format!("HPUB {subject} {} {total}\r\n", headers.len()).into_bytes();
        bytes.extend_from_slice(headers);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes).await
    }

    /// Waits until the server has processed everything that was sent before.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        self.send(b"PING\r\n").await?;
        loop {
            match timeout(ANSWER_WITHIN, self.next()).await?? {
                Incoming::Pong => return Ok(()),
                Incoming::Answer(..) => {}
            }
        }
    }

    /// Sends a request to the JetStream API, and returns the answer.
    pub(crate) async fn ask(&mut self, api: &str, request: &Value) -> Result<Value> {
        let request = request.to_string();
        let length = request.len();
        self.send(format!("PUB $JS.API.{api} _INBOX.chaos.0 {length}\r\n{request}\r\n").as_bytes()).await?;
        loop {
            if let Incoming::Answer(0, payload) = timeout(ANSWER_WITHIN, self.next()).await?? {
                if payload.is_empty() {
                    bail!("nobody answers {api}");
                }
                return Ok(serde_json::from_slice(&payload)?);
            }
        }
    }

    /// The first sequence, the last sequence, and every message of a stream, read from its leader.
    pub(crate) async fn read_stream(&mut self, stream: &str) -> Result<(u64, u64, Vec<RawMessage>)> {
        let info = self.ask(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let state = |name: &str| info.pointer(&format!("/state/{name}")).and_then(Value::as_u64);
        let (Some(first), Some(last)) = (state("first_seq"), state("last_seq")) else {
            bail!("no stream {stream}: {info}")
        };
        let mut messages = Vec::new();
        let (mut asked, mut answered) = (first.max(1), first.max(1));
        while answered <= last {
            while asked <= last && asked < answered + WINDOW {
                let request = json!({"seq": asked}).to_string();
                let length = request.len();
                let put = format!("PUB $JS.API.STREAM.MSG.GET.{stream} _INBOX.chaos.{asked} {length}\r\n{request}\r\n");
                self.send(put.as_bytes()).await?;
                asked += 1;
            }
            let Incoming::Answer(_, payload) = timeout(ANSWER_WITHIN, self.next()).await?? else { continue };
            answered += 1;
            let answer: Value = serde_json::from_slice(&payload).with_context(|| format!("reading {stream}"))?;
            if let Some(error) = answer.get("error") {
                if error.get("err_code").and_then(Value::as_u64) != Some(10037) {
                    bail!("reading {stream}: {error}");
                }
                continue;
            }
            let field = |name: &str| answer.pointer(&format!("/message/{name}"));
            let sequence = field("seq").and_then(Value::as_u64).context("a sequence")?;
            let payload = STANDARD.decode(field("data").and_then(Value::as_str).unwrap_or(""))?;
            let time = field("time").and_then(Value::as_str).unwrap_or("").to_owned();
            messages.push(RawMessage { sequence, payload, time });
        }
        Ok((first, last, messages))
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line).await? == 0 {
            bail!("the NATS server closed the connection");
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// The next thing that matters.
    async fn next(&mut self) -> Result<Incoming> {
        loop {
            let line = self.line().await?;
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["PING"] => self.send(b"PONG\r\n").await?,
                ["PONG"] => return Ok(Incoming::Pong),
                ["MSG", subject, _, length] => return self.payload(subject, 0, length).await,
                ["HMSG", subject, _, headers, length] => return self.payload(subject, headers.parse()?, length).await,
                ["INFO", ..] => {}
                _ => bail!("the NATS server says: {line}"),
            }
        }
    }

    async fn payload(&mut self, subject: &str, headers: usize, length: &str) -> Result<Incoming> {
        let mut payload = vec![0; length.parse::<usize>()? + 2];
        self.stream.read_exact(&mut payload).await?;
        payload.truncate(payload.len() - 2);
        let token = subject.rsplit('.').next().and_then(|token| token.parse().ok()).unwrap_or(0);
        Ok(Incoming::Answer(token, payload.split_off(headers)))
    }
}

enum Incoming {
    Pong,
    /// The last token of the inbox, and the payload.
    Answer(u64, Vec<u8>),
}
