//! Nonsense of every kind is answered, and harms nobody.

use std::{collections::HashMap, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{
    Code, Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;
use unibus::v1;

use crate::support::{Client, Lobby, Random, Unibus, create_ephemeral, create_room, history, payloads, publish};

/// Calls of each kind for each method.
const CALLS: usize = 60;
/// Messages of a call whose requests are a stream, at most.
const STREAMED_MAX: usize = 6;
/// How long an answer may be awaited; a subscription that is open says nothing more for longer.
const ANSWER_WAIT: Duration = Duration::from_millis(60);
/// Bytes of the details of an error.
const DETAILS_BYTES_MAX: usize = 4096;
/// How deep messages are nested.
const DEPTH_MAX: usize = 4;

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The contract, as far as it says what requests look like.
struct Contract {
    methods: Vec<MethodDescriptorProto>,
    messages: HashMap<String, DescriptorProto>,
}

impl Contract {
    fn read() -> Self {
        let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("the contract");
        let mut contract = Self { methods: Vec::new(), messages: HashMap::new() };
        for file in set.file {
            let package = format!(".{}", file.package());
            for message in file.message_type {
                contract.add(&package, message);
            }
            contract.methods.extend(file.service.into_iter().flat_map(|service| service.method));
        }
        contract
    }

    fn add(&mut self, scope: &str, message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in message.nested_type.clone() {
            self.add(&name, nested);
        }
        self.messages.insert(name, message);
    }

    /// A message of this type with any fields of the right kinds, and some that nobody knows.
    fn message(&self, random: &mut Random, name: &str, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let fields = &self.messages[name].field;
        for field in fields {
            let most = if field.label() == Label::Repeated { 3 } else { 1 };
            for _ in 0..random.count(0..most + 1) {
                self.field(random, field, depth, &mut bytes);
            }
        }
        if random.count(0..8) == 0 {
            varint(&mut bytes, 900 << 3);
            varint(&mut bytes, random.within(0..u64::MAX));
        }
        bytes
    }

    fn field(&self, random: &mut Random, field: &FieldDescriptorProto, depth: usize, bytes: &mut Vec<u8>) {
        let tag = u64::try_from(field.number()).expect("a field's number") << 3;
        let delimited = match field.r#type() {
            Type::Message if depth == DEPTH_MAX => return,
            Type::Message => self.message(random, field.type_name(), depth + 1),
            Type::String if field.name() == "room_id" && random.count(0..4) > 0 => {
                (*random.choice(&["lobby", "live"])).into()
            }
            Type::String => text(random).into_bytes(),
            Type::Bytes => some_bytes(random, 40),
            Type::Double
            | Type::Float
            | Type::Group
            | Type::Fixed32
            | Type::Fixed64
            | Type::Sfixed32
            | Type::Sfixed64 => {
                panic!("{field:?}")
            }
            _ => {
                varint(bytes, tag);
                return varint(bytes, number(random));
            }
        };
        varint(bytes, tag | 2);
        varint(bytes, delimited.len() as u64);
        bytes.extend(delimited);
    }
}

fn varint(bytes: &mut Vec<u8>, value: u64) {
    prost::encoding::encode_varint(value, bytes);
}

/// A number at or beyond some bound.
fn number(random: &mut Random) -> u64 {
    let bounds = [0, 0, 1, 1, 2, 3, 200, 999_999_999, 1 << 31, (1 << 31) - 1, u64::MAX >> 1, 1 << 63, u64::MAX];
    let any = random.within(0..u64::MAX);
    let bound = *random.choice(&bounds);
    *random.choice(&[bound, any, any % 2000])
}

/// Names that exist, such as nearly do, and others.
fn text(random: &mut Random) -> String {
    const KNOWN: &[&str] =
        &["lobby", "live", "lobby", "live", "ann", "ghost", "", "labels", "retention.max_age", "a b"];
    match random.count(0..6) {
        0 => String::from_utf8_lossy(&some_bytes(random, 30)).into_owned(),
        1 => {
            use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
            BASE64_URL_SAFE_NO_PAD.encode(some_bytes(random, 40))
        }
        2 => "\u{1f422}".repeat(random.count(0..300)),
        _ => (*random.choice(KNOWN)).to_owned(),
    }
}

fn some_bytes(random: &mut Random, most: usize) -> Vec<u8> {
    let count = random.count(0..most + 1);
    (0..count).map(|_| u8::try_from(random.within(0..256)).expect("a byte")).collect()
}

/// A message with some bytes changed, left out or added.
fn spoilt(random: &mut Random, mut message: Vec<u8>) -> Vec<u8> {
    for _ in 0..random.count(1..4) {
        let at = random.count(0..message.len() + 1);
        match random.count(0..3) {
            0 => message.truncate(at),
            1 => message.splice(at..at, some_bytes(random, 3)).for_each(drop),
            _ => {
                if let Some(byte) = message.get_mut(at) {
                    *byte ^= 1 << random.count(0..8);
                }
            }
        }
    }
    message
}

/// Calls a method with these requests; how it ended, or OK if it still goes on.
async fn call(channel: &Channel, method: &str, requests: Vec<Vec<u8>>) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("a connection");
    let path: PathAndQuery = format!("/unibus.v1.RoomService/{method}").parse().expect("a path");
    let read = async {
        let requests = Request::new(futures_util::stream::iter(requests));
        let mut answers = grpc.streaming(requests, path, Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    match timeout(ANSWER_WAIT, read).await {
        Ok(Err(status)) => status,
        Ok(Ok(())) | Err(_) => Status::new(Code::Ok, ""),
    }
}

/// The service serves, and has lost nothing of what it had.
async fn serves(client: &Client, note: &str) {
    publish(client, "kept", note.to_owned()).await.unwrap_or_else(|status| panic!("{note}: {status}"));
    assert_eq!(payloads(&history(client, "kept", 1).await.messages), [note]);
}

async fn ensure_rooms(client: &Client) {
    use crate::support::{ephemeral, persisted};
    // whoever deleted or changed one by chance did no wrong
    let _ = client.clone().create_room(persisted("lobby")).await;
    let _ = client.clone().create_room(ephemeral("live")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_to_any_call_is_answered_with_a_status_that_is_no_fault_of_the_service() {
    // Goal: no request, however strange, breaks anything. Method: for every method of the contract, requests of the right form
    // with values at and beyond all bounds; these with bytes changed; and bytes that are no request. A request that can be
    // read is never answered with a fault; one that cannot be read is refused with a reason. The service then serves as
    // before.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "kept").await;
    create_ephemeral(&client, "live").await;
    let endpoint = Endpoint::from_shared(format!("http://{}", lobby.unibus.address())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let contract = Contract::read();
    assert!(contract.methods.len() >= 19, "the methods were not found");
    let mut random = Random::seeded();
    for method in &contract.methods {
        ensure_rooms(&client).await;
        let mut codes: HashMap<Code, usize> = HashMap::new();
        for kind in 0..3 {
            for _ in 0..CALLS {
                let most = if method.client_streaming() { STREAMED_MAX } else { 1 };
                let count = random.count(1..most + 1);
                let mut requests = Vec::new();
                for _ in 0..count {
                    let message = contract.message(&mut random, method.input_type(), 0);
                    requests.push(match kind {
                        0 => message,
                        1 => spoilt(&mut random, message),
                        _ => some_bytes(&mut random, 60),
                    });
                }
                let status = call(&channel, method.name(), requests.clone()).await;
                *codes.entry(status.code()).or_default() += 1;
                let case = || format!("{} {requests:?}: {status:?}", method.name());
                match status.code() {
                    // a call that panics is reset, which clients take for cancelled
                    Code::Cancelled
                    | Code::Unknown
                    | Code::DataLoss
                    | Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::Internal
                    | Code::Unimplemented => panic!("{}", case()),
                    Code::Ok => {}
                    _ => {
                        assert!(status.get_details_error_info().is_some(), "{}", case());
                        assert!(status.details().len() < DETAILS_BYTES_MAX, "{}", case());
                    }
                }
            }
        }
        crate::support::note(format_args!("{}: {codes:?}", method.name()));
        serves(&client, method.name()).await;
    }
    lobby.unibus.shutdown().await.unwrap();
}

/// Sends these bytes over a connection of its own; what came back, to what is no proper request within a moment.
async fn exchange(unibus: &Unibus, bytes: &[u8], is_proper: bool) -> Vec<u8> {
    let mut connection = TcpStream::connect(unibus.address()).await.unwrap();
    let mut answer = Vec::new();
    let talk = async {
        // the service may close before it has read everything
        let _ = connection.write_all(bytes).await;
        if !is_proper {
            let _ = connection.shutdown().await;
        }
        let _ = connection.read_to_end(&mut answer).await;
    };
    let wait = if is_proper { Duration::from_secs(10) } else { Duration::from_millis(500) };
    let _ = timeout(wait, talk).await;
    answer
}

/// The status of an HTTP/1 answer.
fn http_status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_bytes_on_the_port_harm_nobody() {
    // Goal: whoever can connect can break nothing. Method: over raw sockets, HTTP requests with strange paths, queries, methods
    // and headers; gRPC-Web bodies with wrong frames; the beginning of HTTP/2, then noise; noise alone. No answer is a fault
    // of the service, which then serves as before.
    let (lobby, client) = Lobby::without_room().await;
    create_room(&client, "kept").await;
    let mut random = Random::seeded();
    let contract = Contract::read();
    for round in 0..120 {
        let noise = some_bytes(&mut random, 60);
        let text: String = String::from_utf8_lossy(&noise).chars().filter(char::is_ascii_graphic).collect();
        let encoded: String = noise.iter().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"));
        let limit = random.choice(&["-1", "1e9", "99999999999999999999", "0x10", "%31", "", "+5", "1&limit=2"]);
        let method = random.choice(&contract.methods).name().to_owned();
        let frame = [&noise[..], &random.within(0..u64::MAX).to_be_bytes(), &some_bytes(&mut random, 40)].concat();
        let web = format!(
            "POST /unibus.v1.RoomService/{method} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
             content-type: application/grpc-web+proto\r\ncontent-length: {}\r\n\r\n",
            frame.len()
        );
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").into_bytes();
        let requests = [
            get(&format!("/{text}")),
            get(&format!("/rooms/{encoded}/history?limit={limit}")),
            get(&format!("/rooms/kept/history?{text}&limit={limit}")),
            get(&format!("/rooms/kept/history?limit={encoded}")),
            format!("{text} /rooms/kept/history HTTP/1.1\r\nhost: a\r\n{text}: {encoded}\r\n\r\n").into_bytes(),
            [web.as_bytes(), &frame].concat(),
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame[..]].concat(),
            frame,
        ];
        for request in requests {
            let is_proper = request.starts_with(b"GET /rooms/") || request.starts_with(b"POST ");
            let answer = exchange(&lobby.unibus, &request, is_proper).await;
            let status = http_status(&answer);
            let shown = String::from_utf8_lossy(&request);
            assert!(status.is_none_or(|status| status < 500), "round {round}: {shown:?}: {status:?}");
            assert!(!is_proper || status.is_some(), "round {round}: {shown:?}: no answer");
        }
    }
    serves(&client, "after all").await;
    lobby.unibus.shutdown().await.unwrap();
}
