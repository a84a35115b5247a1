//! The documents say what the code says: their tables are made from the code, and their lists from what the service does.
//!
//! With `UNIBUS_WRITE_DOCS=1` the tests write the tables instead of comparing them.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write,
    fs,
    path::Path,
    process::Command,
};

use clap::{Args, CommandFactory, Subcommand};
use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;
use unibus::{Config, Healthcheck, Reason, TokenCommand, v1};

use crate::support::{Nats, Unibus};

const README: &str = include_str!("../../../README.md");
const BENCHMARK: &str = include_str!("../../../docs/benchmark.md");
const ERRORS: &str = include_str!("../../../docs/errors.md");
const LIMITS_TABLE: &str = include_str!("../../../docs/limits.md");
const SECURITY: &str = include_str!("../../../docs/security.md");
const PERMISSIONS: &str = include_str!("../../../deploy/nats/permissions.conf");
const LIMITS: &str = include_str!("../../../src/limits.rs");

/// Limits that are nobody's business but the service's.
const INTERNAL_LIMITS: &[&str] = &[
    "NATS_NAME_CHARS_MAX",
    "EMBEDDED_NATS_PAYLOAD_BYTES_MAX",
    "HEADER_FRAMING_BYTES",
    "SENDER_HEADERS_BYTES_MAX",
    "JETSTREAM_HEADERS_BYTES_MAX",
    "REQUEST_SLACK_BYTES",
    "EXCESS_STREAMS_MAX",
    "OTHER_DESCRIPTORS",
    "HEALTHCHECK_ANSWER_BYTES_MAX",
];

/// Compares what a document has between `<!-- name -->` and `<!-- end -->`, or writes it.
#[track_caller]
pub(super) fn assert_marked(document: &str, name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = fs::read_to_string(&path).expect("a document");
    let mark = format!("<!-- {name} -->\n");
    let (before, rest) = text.split_once(&mark).unwrap_or_else(|| panic!("{document} has no part {name}"));
    let (part, after) = rest.split_once("<!-- end -->").expect("an end");
    let expected = expected.trim();
    if env::var_os("UNIBUS_WRITE_DOCS").is_some() {
        fs::write(path, format!("{before}{mark}\n{expected}\n\n<!-- end -->{after}"))
            .expect("a document that can be written");
    } else {
        assert!(part.trim() == expected, "the part {name:?} of {document} should be:\n\n{expected}\n");
    }
}

/// Cells of the rows of all tables of a page, without their heads.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines: Vec<_> = page.lines().collect();
    let is_head = |at: usize| lines.get(at + 1).is_some_and(|next| next.starts_with("|---"));
    let rows = lines.iter().enumerate().filter(|(at, _)| !is_head(*at));
    let rows = rows.filter_map(|(_, line)| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).collect()
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
        writeln!(table, "| `--{flag}` | `{env}` | {} | {meaning}{choice} |", code(&default.join(","))).unwrap();
    }
    assert_marked("docs/configuration.md", "flags", &table);
}

/// The program's commands, added to `program`.
fn with_commands(program: clap::Command) -> clap::Command {
    let healthcheck = Healthcheck::augment_args(clap::Command::new("healthcheck"));
    TokenCommand::augment_subcommands(program).subcommand(healthcheck)
}

#[test]
fn the_commands_are_those_of_the_program() {
    // Goal: who makes tokens by hand finds every flag. Method: make the table from the commands.
    let mut table = String::from("| command | flag | default | meaning |\n|---|---|---|---|\n");
    for command in with_commands(clap::Command::new("unibus")).get_subcommands() {
        for arg in command.get_arguments() {
            let (name, flag) = (command.get_name(), arg.get_long().expect("a long flag"));
            let default = arg.get_default_values().first().map(|value| format!("`{}`", value.to_string_lossy()));
            let meaning = arg.get_help().expect("every flag is explained");
            writeln!(table, "| `unibus {name}` | `--{flag}` | {} | {meaning} |", default.unwrap_or_default()).unwrap();
        }
    }
    assert_marked("docs/configuration.md", "commands", &table);
}

/// The reference of the client commands, as the program prints it.
fn reference() -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_unibus")).arg("reference").output().expect("the binary starts");
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).expect("text")
}

#[test]
fn the_reference_of_the_command_line_is_that_of_the_program() {
    // Goal: no command, flag, variable or exit status is missing or invented. Method: the program itself prints the tables.
    assert_marked("docs/cli.md", "reference", &reference());
}

#[test]
fn the_errors_are_the_closed_list() {
    // Goal: clients may match on the documented reasons. Method: make the table from the list itself.
    let mut table = String::from("| reason | code | retry | meaning |\n|---|---|---|---|\n");
    for reason in Reason::ALL {
        let retry = reason.retry_after().map(|after| format!("after {}", humantime::format_duration(after)));
        let (name, code) = (reason.name(), reason.code().name());
        writeln!(table, "| `{name}` | `{code}` | {} | {} |", retry.unwrap_or_default(), reason.meaning()).unwrap();
    }
    assert_marked("docs/errors.md", "errors", &table);

    let open: Vec<_> = Reason::ALL.iter().filter(|reason| !reason.is_side_effect_free()).map(|r| r.name()).collect();
    assert_eq!(open, ["OUTCOME_UNKNOWN", "TIMEOUT", "INTERNAL"]);
    assert!(ERRORS.contains("Only `OUTCOME_UNKNOWN`, `TIMEOUT` and `INTERNAL` leave open"));
}

#[test]
fn the_limits_that_errors_name_are_the_closed_set() {
    // Goal: a client that reads `limit` finds every value in the page. Method: the names in the source are the rows of the table.
    let source = include_str!("../../../src/error/limit.rs");
    let names = source.lines().filter_map(|line| line.trim().split_once(" = \"")?.1.strip_suffix("\";"));
    let names: BTreeSet<_> = names.collect();
    let rows = rows(ERRORS);
    let cells = rows.iter().filter_map(|row| row.first()).flat_map(|cell| cell.split(", "));
    let listed: BTreeSet<_> = cells
        .filter_map(|cell| cell.strip_prefix('`')?.strip_suffix('`'))
        .filter(|name| !name.bytes().any(|byte| byte.is_ascii_uppercase()))
        .collect();
    assert_eq!(listed, names);
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
    let mut told = Vec::new();
    for row in rows(LIMITS_TABLE) {
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
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            other => panic!("the unit {other}"),
        };
        #[allow(clippy::cast_precision_loss, reason = "all limits are small")]
        let expected = limits.get(name).map(|limit| *limit as f64);
        assert_eq!(Some(number.parse::<f64>().expect("a number") * unit), expected, "{name}");
        assert!(!told.contains(&name), "{name} has two rows");
        told.push(name);
    }
    for name in limits.keys() {
        assert!(told.contains(name) != INTERNAL_LIMITS.contains(name), "{name}");
    }
}

/// Flags of other programs that the documents name.
const OTHER_FLAGS: &[&str] = &[
    "path",
    "go_opt",
    "kotlin_out",
    "list",
    "quick",
    "row",
    "save",
    "show",
    "compare",
    "growth",
    "axis",
    "flame",
    "episodes",
    "episode-seed",
    "setup",
    "help",
    "json",
    "version",
];

/// Variables that libraries of the service read.
const OTHER_VARIABLES: &[&str] =
    &["RUST_LOG", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_HEADERS", "SSL_CERT_FILE"];

/// Every name in capitals that the service has: limits, reasons, codes, values of the contract's enums, variables.
fn names_in_capitals() -> BTreeSet<String> {
    let limits = LIMITS.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let reasons = Reason::ALL.iter().flat_map(|reason| [reason.name(), reason.code().name()]);
    let mut names: BTreeSet<_> = limits.chain(reasons).map(str::to_owned).collect();
    for file in FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap().file {
        names.extend(file.enum_type.iter().flat_map(|kind| &kind.value).map(|value| value.name().to_owned()));
    }
    names.extend(
        Config::command().get_arguments().filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())),
    );
    names.extend(OTHER_VARIABLES.iter().map(|name| (*name).to_owned()));
    names.extend(reference().lines().filter_map(|row| Some(row.strip_prefix("| `")?.split('`').next()?.to_owned())));
    names
}

/// Every name that a page may use: flags, and names in capitals.
struct KnownNames {
    flags: BTreeSet<String>,
    capitals: BTreeSet<String>,
}

fn known_names() -> KnownNames {
    let mut commands = with_commands(Config::command());
    commands.build();
    let flags = |command: &clap::Command| -> Vec<_> {
        command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
    };
    let of_client = reference();
    let of_client =
        of_client.split('`').skip(1).step_by(2).filter_map(|code| Some(code.strip_prefix("--")?.to_owned()));
    let of_service = flags(&commands).into_iter().chain(commands.get_subcommands().flat_map(flags));
    let others = OTHER_FLAGS.iter().map(|flag| (*flag).to_owned());
    KnownNames { flags: of_service.chain(of_client).chain(others).collect(), capitals: names_in_capitals() }
}

/// The names in a page that look like flags or constants, but are not any; and how many there are in all.
fn invented<'a>(page: &'a str, known: &KnownNames) -> (Vec<&'a str>, usize) {
    let (mut wrong, mut found) = (Vec::new(), 0);
    let spans = page.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    for name in spans {
        let is_known = if let Some(flag) = name.strip_prefix("--") {
            let flag = flag.split([' ', '=']).next().expect("a flag");
            flag.ends_with('-') || known.flags.contains(flag)
        } else if name.contains('_')
            && name != "_"
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
        {
            known.capitals.contains(name)
        } else {
            continue;
        };
        found += 1;
        if !is_known {
            wrong.push(name);
        }
    }
    (wrong, found)
}

#[test]
fn the_pages_name_bounds_and_flags_that_there_are() {
    // Goal: no bound, flag or reason that a reader relies on is invented. Method: every flag and every name in capitals that
    // README.md and docs/ name exists.
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut pages: Vec<_> = fs::read_dir(docs).expect("pages").map(|entry| entry.expect("a page").path()).collect();
    // beside the pages lie their pictures
    pages.retain(|path| path.extension().is_some_and(|end| end == "md"));
    pages.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let known = known_names();
    let mut all = 0;
    for path in pages {
        let page = fs::read_to_string(&path).expect("UTF-8");
        let (wrong, found) = invented(&page, &known);
        assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
        all += found;
    }
    assert!(all > 300, "{all}");
    let (_, found) = invented(SECURITY, &known);
    assert!(found > 40, "{found}");
    assert_eq!(
        invented("`--none` `NO_SUCH_BOUND` `ROOMS_PER_CALLER` `--auth enforce`", &known),
        (vec!["--none", "NO_SUCH_BOUND"], 4)
    );
}

#[test]
fn the_readme_shows_rows_of_the_benchmark() {
    // Goal: the figures that a reader meets first are measured ones. Method: each figure of the README's rows is in the table of
    // all rows, in one row.
    let (_, section) = README.split_once("\n## Benchmark\n").expect("a section");
    let shown = rows(section.split("\n## ").next().expect("a section"));
    let measured = rows(BENCHMARK);
    for row in &shown {
        let [_, ours, baseline, ratio] = row[..] else { panic!("{row:?}") };
        let (_, baseline) = baseline.rsplit_once(": ").expect("a figure");
        let is_row = |row: &&Vec<&str>| {
            [6, 7].contains(&row.len()) && row[3] == ratio && row[1].starts_with(&format!("{ours} ("))
        };
        let row = measured.iter().find(is_row).unwrap_or_else(|| panic!("{row:?}"));
        assert!(row[2].contains(&format!(": {baseline} (")), "{row:?}");
    }
    assert_eq!(shown.len(), 6);
    let (_, date) = section.split_once("Measured on ").expect("a date");
    assert!(BENCHMARK.contains(&format!("\nOn {} on ", &date[..10])), "{}", &date[..10]);
}

/// One call with an empty request message, whatever the RPC's types are.
async fn call(client: &mut Grpc<tonic::transport::Channel>, path: &str) -> Result<(), Status> {
    client.ready().await.expect("a connection");
    let path = path.parse::<PathAndQuery>().expect("a path");
    let answer = client.server_streaming(Request::new(()), path, ProstCodec::<(), ()>::default()).await?;
    answer.into_inner().message().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_the_contract_is_served() {
    // Goal: nobody builds on a call that is not there. Method: every RPC of the contract's descriptor, called with an empty
    // message.
    let nats = Nats::start().await;
    let unibus = Unibus::start(&nats).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", unibus.address())).unwrap();
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    let descriptors = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let mut served = 0;
    for service in descriptors.file.iter().flat_map(|file| &file.service) {
        for name in service.method.iter().map(MethodDescriptorProto::name) {
            let answer = call(&mut client, &format!("/unibus.v1.{}/{name}", service.name())).await;
            assert!(!answer.is_err_and(|status| status.code() == Code::Unimplemented), "{name}");
            served += 1;
        }
    }
    assert!(served > 0, "nothing is served");
    unibus.shutdown().await.unwrap();
}

#[test]
fn the_permissions_are_those_that_are_tried() {
    // Goal: an operator copies a list that is enough. Method: it is the one that the tests of permissions use.
    let lines = PERMISSIONS.lines().filter(|line| !line.starts_with('#'));
    assert_marked(
        "docs/nats.md",
        "permissions",
        &format!("```text\n{}\n```", lines.collect::<Vec<_>>().join("\n").trim()),
    );
}
