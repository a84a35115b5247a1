//! The README says what the code says: its tables are made from the code, and its lists from what the service does.

use std::{collections::BTreeMap, time::Duration};

use clap::CommandFactory;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;
use unibus::{
    Config, Reason,
    v1::{self, DeleteRoomRequest, GetRoomRequest, ListRoomsRequest, history_request::Anchor},
};

use crate::support::{
    Client, Frames, Nats, NatsOptions, Process, Unibus, acknowledge, assert_status, create_ephemeral, create_room,
    eventually, explicit, history, page, payloads, persisted, publish, publish_n, reason, sequences,
};

const README: &str = include_str!("../../README.md");
const LIMITS: &str = include_str!("../../src/limits.rs");

/// Limits that are nobody's business but the service's.
const INTERNAL_LIMITS: &[&str] = &["NATS_NAME_CHARS_MAX", "EMBEDDED_NATS_PAYLOAD_BYTES_MAX", "REQUEST_SLACK_BYTES"];

/// What the README has between `<!-- name -->` and `<!-- end -->`.
fn marked(name: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("<!-- {name} -->\n")).unwrap_or_else(|| panic!("no part {name}"));
    rest.split_once("<!-- end -->").expect("an end").0.trim()
}

#[track_caller]
fn assert_marked(name: &str, expected: &str) {
    let expected = expected.trim();
    assert!(marked(name) == expected, "the README's part {name:?} should be:\n\n{expected}\n");
}

/// Cells of the rows of a table, without its head.
fn rows(table: &str) -> Vec<Vec<&str>> {
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.skip(1).map(|row| row.split(" | ").collect()).collect()
}

#[test]
fn the_flags_are_those_of_the_program() {
    // Goal: no flag, variable or default is missing or invented. Method: make the table from the command.
    let mut table = String::from("| flag | environment | default | meaning |\n|---|---|---|---|\n");
    for arg in Config::command().get_arguments() {
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let flag = arg.get_long().expect("a long flag");
        let env = arg.get_env().expect("every flag has a variable").to_string_lossy();
        let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let values: Vec<_> = arg.get_possible_values().iter().map(|value| code(value.get_name())).collect();
        let meaning = arg.get_help().expect("every flag is explained").to_string();
        let choice = if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
        table += &format!("| `--{flag}` | `{env}` | {} | {meaning}{choice} |\n", code(&default.join(",")));
    }
    assert_marked("flags", &table);
}

#[test]
fn the_errors_are_the_closed_list() {
    // Goal: clients may match on the README's reasons. Method: make the table from the list itself.
    let mut table = String::from("| reason | code | retry | meaning |\n|---|---|---|---|\n");
    for reason in Reason::ALL {
        let retry = reason.retry_after().map(|after| format!("after {}", humantime::format_duration(after)));
        let (name, code) = (reason.name(), reason.code().name());
        table += &format!("| `{name}` | `{code}` | {} | {} |\n", retry.unwrap_or_default(), reason.meaning());
    }
    assert_marked("errors", &table);

    let open: Vec<_> = Reason::ALL.iter().filter(|reason| !reason.is_side_effect_free()).map(|r| r.name()).collect();
    assert_eq!(open, ["OUTCOME_UNKNOWN", "TIMEOUT", "INTERNAL"]);
    assert!(README.contains("Only `OUTCOME_UNKNOWN`, `TIMEOUT` and `INTERNAL` leave open"));
}

/// A limit's value, with its unit taken off: bytes, milliseconds, or a count.
fn value(expression: &str, known: &BTreeMap<&str, u64>) -> u64 {
    let factor = |text: &str| known.get(text).copied().or_else(|| text.replace('_', "").parse().ok());
    let product = |text: &str| text.split(" * ").map(factor).product::<Option<u64>>();
    let sum = |text: &str| text.split(" + ").map(product).sum::<Option<u64>>();
    let duration = |call: &str| sum(expression.strip_prefix(call)?.strip_suffix(')')?);
    duration("Duration::from_secs(")
        .map(|seconds| seconds * 1000)
        .or_else(|| duration("Duration::from_millis("))
        .or_else(|| sum(expression))
        .unwrap_or_else(|| panic!("{expression} is not understood"))
}

#[test]
fn the_limits_are_those_of_the_code() {
    // Goal: no limit is missing or wrong. Method: read the constants, and the numbers in the table.
    let mut limits = BTreeMap::new();
    for line in LIMITS.lines().filter_map(|line| line.strip_prefix("pub const ")) {
        let (name, rest) = line.split_once(": ").expect("a type");
        let (_, expression) = rest.trim_end_matches(';').split_once(" = ").expect("a value");
        limits.insert(name, value(expression, &limits));
    }
    let (_, section) = README.split_once("\n## Limits\n").expect("a section");
    let section = section.split("\n## ").next().expect("a section");
    let mut told = Vec::new();
    for row in rows(section) {
        let [_, given, name] = row[..] else { panic!("{row:?}") };
        let name = name.trim_matches('`');
        let (number, unit) = given.split_once(' ').unwrap_or((given, ""));
        let unit = match unit {
            "" | "ms" => 1.0,
            "s" => 1000.0,
            "min" => 60_000.0,
            "d" => 86_400_000.0,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            other => panic!("the unit {other}"),
        };
        #[allow(clippy::cast_precision_loss, reason = "all limits are small")]
        let expected = limits.get(name).map(|limit| *limit as f64);
        assert_eq!(Some(number.parse::<f64>().expect("a number") * unit), expected, "{name}");
        told.push(name);
    }
    for name in limits.keys() {
        assert!(told.contains(name) != INTERNAL_LIMITS.contains(name), "{name}");
    }
}

/// One call with an empty request message, whatever the RPC's types are.
async fn call(client: &mut Grpc<tonic::transport::Channel>, path: &str) -> Result<(), Status> {
    client.ready().await.expect("a connection");
    let path = PathAndQuery::from_maybe_shared(path.to_owned()).expect("a path");
    let answer = client.server_streaming(Request::new(()), path, ProstCodec::<(), ()>::default()).await?;
    answer.into_inner().message().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unimplemented_calls_are_those_that_answer_so() {
    // Goal: nobody builds on a call that is not there, or does without one that is. Method: every RPC of the contract's
    // descriptor, called with an empty message.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap();
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    let descriptors = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let mut missing = String::new();
    let mut served = 0;
    for service in descriptors.file.iter().flat_map(|file| &file.service) {
        for name in service.method.iter().map(|method| method.name()) {
            match call(&mut client, &format!("/unibus.v1.{}/{name}", service.name())).await {
                Err(status) if status.code() == Code::Unimplemented => {
                    assert_eq!(reason(&status), "NOT_IMPLEMENTED", "{name}");
                    missing += &format!("- `{name}`\n");
                }
                Ok(()) | Err(_) => served += 1,
            }
        }
    }
    assert!(served > 0, "nothing is served");
    assert_marked("unimplemented", &missing);
    unibus.shutdown().await.unwrap();
}

/// All that the README says a room can do, on two instances.
async fn use_everything(first: &Client, second: &Client) {
    let subject = v1::CreateRoomRequest { subject: "room.chosen".into(), ..persisted("chosen") };
    first.clone().create_room(subject).await.unwrap();
    create_room(first, "default").await;
    create_ephemeral(first, "ephemeral").await;
    for room_id in ["chosen", "default"] {
        eventually(Duration::from_secs(5), async || {
            let known = second.clone().get_room(GetRoomRequest { room_id: room_id.into() }).await;
            known.map(drop).map_err(|status| reason(&status))
        })
        .await;
        publish_n(first, room_id, 3).await;
        let mut older = Frames::open(first, explicit(room_id, "reader")).await.unwrap();
        assert_eq!(payloads(&older.messages(3).await), ["1", "2", "3"]);
        // another instance takes over, and then acknowledges for the subscriber
        let mut newer = Frames::open(second, explicit(room_id, "reader")).await.unwrap();
        assert_status::<()>(Err(older.end(Duration::from_secs(10)).await), Code::Aborted, "TAKEN_OVER");
        assert_eq!(payloads(&newer.messages(3).await), ["1", "2", "3"]);
        assert_eq!(acknowledge(first, room_id, "reader", 2).await.unwrap(), 2);
        assert_eq!(sequences(&history(second, room_id, 2).await.messages), [2, 3]);
        let after = page(first, room_id, 10, Anchor::AfterSequence(1)).await.unwrap();
        assert_eq!(sequences(&after.messages), [2, 3]);
        drop(newer);
    }
    let mut live = Frames::transient(first, "ephemeral").await;
    publish(second, "ephemeral", "live").await.unwrap();
    assert_eq!(payloads(&live.messages(1).await), ["live"]);
    for room_id in ["chosen", "default", "ephemeral"] {
        first.clone().delete_room(DeleteRoomRequest { room_id: room_id.into() }).await.unwrap();
    }
    let rooms = first.clone().list_rooms(ListRoomsRequest::default()).await.unwrap();
    assert_eq!(rooms.into_inner().rooms, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_are_enough() {
    // Goal: an operator can give the service these rights and no more. Method: a nats-server that holds the service's user
    // to the README's list and lets the tests' own clients do anything; two instances use all kinds of rooms. A right that
    // is missing shows as a failed call, or as a violation in the instance's log.
    let permissions = marked("permissions").trim_start_matches("```text").trim_end_matches("```");
    let nats = NatsOptions::new()
        .extra(&format!(
            "authorization {{ users: [\n{{ user: native, password: native }},\n\
             {{ user: service, password: secret, permissions: {{ {permissions} }} }}\n] }}\nno_auth_user: native\n"
        ))
        .start()
        .await;
    let url = format!("--nats-url={}", nats.url());
    let args = [&*url, "--nats-user=service", "--nats-password=secret"];
    let mut instances = [Process::spawn(&args), Process::spawn(&args)];
    for instance in &mut instances {
        instance.ready().await;
    }
    use_everything(&instances[0].client().await, &instances[1].client().await).await;
    for instance in &mut instances {
        instance.terminate();
        assert!(instance.wait(Duration::from_secs(30)).await.success());
        let lines = instance.stdout();
        let violations: Vec<_> = lines.iter().filter(|line| line.to_lowercase().contains("violation")).collect();
        assert!(violations.is_empty(), "{violations:#?}");
    }
}
