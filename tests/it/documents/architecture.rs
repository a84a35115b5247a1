//! The arrows of `ARCHITECTURE.md`, kept: who may name whom, and what nobody may do.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Names, Source, module_of, sources};

const FILE_LINES_MAX: usize = 500;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Modules of `src/`, each with those of the other modules that it may name.
const MODULES: &[(&str, &[&str])] = &[
    // the macro-made types of the contract, and all modules, are declared here
    (
        "lib",
        &[
            "auth",
            "check",
            "config_file",
            "error",
            "healthcheck",
            "limits",
            "nats",
            "rooms",
            "server",
            "shutdown",
            "tokens",
            "traces",
        ],
    ),
    ("main", &["cli"]),
    // a client of the contract, which knows the service only through the generated types
    ("cli", &[]),
    (
        "server",
        &[
            "auth",
            "domain",
            "error",
            "flags",
            "grpc",
            "http",
            "limits",
            "metrics",
            "nats",
            "rooms",
            "store",
            "subscriptions",
            "sync",
            "traces",
        ],
    ),
    ("grpc", &["rooms", "subscriptions", "delivery", "domain", "error", "limits", "metrics", "v1", "sync"]),
    // readiness asks the store whether the connection stands; events carry the frames of the contract
    ("http", &["grpc", "rooms", "store", "domain", "error", "limits", "metrics"]),
    ("auth", &["domain", "error", "flags", "limits", "metrics"]),
    ("tokens", &["auth", "domain", "error"]),
    ("check", &["auth", "error", "limits", "metrics", "nats", "server", "traces"]),
    ("config_file", &["limits"]),
    ("healthcheck", &["flags", "limits"]),
    (
        "rooms",
        &["subscriptions", "delivery", "store", "domain", "error", "flags", "limits", "metrics", "sync", "traces"],
    ),
    ("subscriptions", &["delivery", "store", "domain", "error", "limits", "metrics", "sync"]),
    ("delivery", &["domain", "error", "limits"]),
    ("store", &["nats", "domain", "error", "limits", "metrics", "sync", "traces"]),
    ("nats", &["domain", "error", "limits", "metrics", "sync", "traces"]),
    // the steps of a call are found from below, so nothing is handed through
    ("traces", &["error", "flags", "limits", "metrics", "sync"]),
    // every component is given its metrics; they know nothing of it
    ("metrics", &["error"]),
    ("domain", &["error", "limits"]),
    ("error", &["limits"]),
    ("limits", &[]),
    ("sync", &[]),
    ("flags", &["error"]),
    ("shutdown", &[]),
];

/// Crates that only some modules may name. A name stands for all that begin with it and `_` too.
const CRATES: &[(&str, &[&str])] = &[
    ("async_nats", &["nats", "store"]),
    ("tonic", &["cli", "grpc", "http", "server", "traces", "lib"]),
    ("prost", &["cli", "grpc", "lib"]),
    ("axum", &["grpc", "http", "server"]),
    ("jsonwebtoken", &["auth"]),
    ("anyhow", &["main"]),
    ("prometheus_client", &["metrics"]),
    ("opentelemetry", &["traces"]),
    // the flags of a component stand beside it
    (
        "clap",
        &[
            "auth",
            "check",
            "cli",
            "config_file",
            "flags",
            "healthcheck",
            "main",
            "nats",
            "rooms",
            "server",
            "tokens",
            "traces",
        ],
    ),
    ("toml", &["cli", "config_file"]),
];

/// Modules whose folders are each a place of their own in the search for circles.
const SPLIT: &[&str] = &["store"];

/// Arrows that close a circle today. Remove each one together with the last import that draws it.
const CIRCLES: &[(&str, &str)] = &[];

/// The modules that the files are.
fn modules(files: &[(String, String)]) -> BTreeSet<Names> {
    files.iter().map(|(file, _)| module_of(file)).filter(|module| !module.is_empty()).collect()
}

/// What is wrong with one file.
fn violations(file: &str, text: &str, modules: &BTreeSet<Names>) -> Vec<String> {
    let mut wrong = Vec::new();
    let module = file.split(['/', '.']).next().expect("a name");
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{file}: the module {module} has no place in the architecture")];
    };
    let source = Source::parse(file, text, modules);
    for path in &source.paths {
        let written = path.written.join("::");
        let first = &path.written[0];
        let is = |name: &str| first == name || first.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
        for (name, users) in CRATES {
            if is(name) && !users.contains(&module) {
                wrong.push(format!("{file}: {module} must not name {written}"));
            }
        }
        if let Some(named) = path.absolute.first().filter(|_| path.is_ours)
            && named != module
            && (named == "v1" || MODULES.iter().any(|(name, _)| name == named))
            && !allowed.contains(&named.as_str())
        {
            wrong.push(format!("{file}: {module} must not name {written}"));
        }
        let is_root = |name: &String| name != "v1" && !modules.contains(std::slice::from_ref(name));
        if path.is_ours && !matches!(module, "lib" | "main") && path.absolute.first().is_some_and(is_root) {
            wrong.push(format!("{file}: {written}: name the module that defines it, not the root of the crate"));
        }
        if matches!(&path.absolute[..], [tokio, .., spawn] if tokio == "tokio" && spawn == "spawn") {
            wrong.push(format!("{file}: {written}: every task belongs to somebody who waits for it"));
        }
    }
    for word in source.words.iter().filter(|word| word.contains("unbounded")) {
        wrong.push(format!("{file}: {word}: every channel is bounded"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX && !LONG_FILES.iter().any(|(name, _)| *name == file) {
        wrong.push(format!("{file}: has {lines} lines, more than {FILE_LINES_MAX}"));
    }
    wrong
}

/// The place of a module: its folder, or its file directly below `src/`.
fn place(module: &[String]) -> String {
    let depth = if module.first().is_some_and(|first| SPLIT.contains(&first.as_str())) { 2 } else { 1 };
    module.iter().take(depth).cloned().collect::<Vec<_>>().join("::")
}

/// Who names whom, each arrow with a file and a path that draw it. The root of the crate names all, and is left out.
fn arrows(files: &[(String, String)]) -> BTreeMap<(String, String), String> {
    let modules = modules(files);
    let mut arrows = BTreeMap::new();
    for (file, text) in files.iter().filter(|(file, _)| !module_of(file).is_empty()) {
        let from = place(&module_of(file));
        for path in Source::parse(file, text, &modules).paths.into_iter().filter(|path| path.is_ours) {
            let mut named = path.absolute;
            while !named.is_empty() && !modules.contains(&named) {
                named.pop();
            }
            let to = place(&named);
            if !to.is_empty() && to != from {
                arrows.entry((from.clone(), to)).or_insert_with(|| format!("{file}: {}", path.written.join("::")));
            }
        }
    }
    arrows
}

/// The arrows by which a place reaches itself.
fn in_circles(arrows: &BTreeSet<(&str, &str)>) -> Vec<(String, String)> {
    let reaches = |from: &str, goal: &str| {
        let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(place) = next.pop() {
            next.extend(arrows.iter().filter(|(from, to)| *from == place && seen.insert(to)).map(|(_, to)| *to));
        }
        seen.contains(goal)
    };
    let circles = arrows.iter().filter(|(from, to)| reaches(to, from));
    circles.map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
}

#[test]
fn no_place_needs_itself() {
    // Goal: each part can be understood after those that it stands on. Method: draw an arrow for each path that a source names,
    // and follow the arrows; no place is reached from itself.
    let drawn = arrows(&sources("src"));
    let all: BTreeSet<_> = drawn.keys().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    let known: BTreeSet<_> = CIRCLES.iter().copied().collect();
    let found = in_circles(&all.difference(&known).copied().collect());
    let lines = found.into_iter().map(|arrow| format!("(\"{}\", \"{}\"), // {}", arrow.0, arrow.1, drawn[&arrow]));
    let lines: Vec<_> = lines.collect();
    assert!(lines.is_empty(), "these arrows are parts of circles:\n{}", lines.join("\n"));
    // an exception that is no longer needed would hide the next one
    let closing = in_circles(&all);
    let gone: Vec<_> = known.iter().filter(|(from, to)| !closing.contains(&((*from).into(), (*to).into()))).collect();
    assert!(gone.is_empty(), "no longer parts of circles, remove them: {gone:?}");
    assert!(all.len() > 50, "{}", all.len());
}

#[test]
fn a_planted_circle_is_found() {
    // Goal: the search above can fail. Method: sources whose imports lead back to where they began, and sources whose imports
    // do not.
    let drawn = |sources: &[(&str, &str)]| {
        let files: Vec<_> = sources.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        let arrows = arrows(&files);
        in_circles(&arrows.keys().map(|(from, to)| (from.as_str(), to.as_str())).collect())
    };
    let arrow = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let leaf = ("sync.rs", "");
    for (back, expected) in [
        ("use crate::rooms::Rooms;", 3),
        ("use super::super::{rooms as others}; fn f() { others::f() }", 3),
        ("fn f() -> crate::rooms::Rooms { stream! { yield 1 } }", 3),
        ("fn f() { stream! { yield crate::rooms::f(x) } }", 3),
        ("#[derive(crate::rooms::Derive)] struct S;", 3),
        ("pub(in crate::rooms) struct S; use crate::sync::Lock;", 0),
        ("mod rooms { use super::Log; } use rooms::Log;", 0),
        ("use crate::{sync::rooms, Error}; // crate::rooms\n", 0),
    ] {
        let files = [
            ("rooms/mod.rs", "use crate::delivery::Ring;"),
            ("delivery/mod.rs", "mod ring; use crate::store::log::Log;"),
            ("store/log/mod.rs", back),
            leaf,
        ];
        assert_eq!(drawn(&files).len(), expected, "{back}");
    }
    // folders below store are places of their own, and so is the file above them
    let files = |log: &'static str, names: &'static str| {
        [("store/mod.rs", "use self::log::Log;"), ("store/log/mod.rs", log), ("store/names.rs", names)]
    };
    assert_eq!(drawn(&files("use super::names::Name;", "")), []);
    let both = [arrow("store::log", "store::names"), arrow("store::names", "store::log")];
    assert_eq!(drawn(&files("use super::names::Name;", "fn f() { super::log::f() }")), both);
    let hallway = [arrow("store", "store::log"), arrow("store::log", "store")];
    assert_eq!(drawn(&files("use super::Store;", "")), hallway);
}

#[test]
fn the_arrows_point_one_way() {
    // Goal: the map in ARCHITECTURE.md is true. Method: read every source, look at each path that it names.
    let files = sources("src");
    let known = modules(&files);
    let wrong: Vec<_> = files.iter().flat_map(|(file, text)| violations(file, text, &known)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let modules: BTreeSet<_> =
        files.iter().map(|(file, _)| file.split(['/', '.']).next().expect("a name").to_owned()).collect();
    // every place of the map is there, so nothing was checked in vain
    assert_eq!(modules, MODULES.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn no_file_of_the_tests_is_long() {
    // Goal: a reader finds a test by the names of folders and files. Method: count the lines of each file.
    let files = sources("tests");
    for (file, text) in &files {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{file}: {lines}");
    }
    assert!(files.len() > 100, "{}", files.len());
}

#[test]
fn a_limit_that_is_reached_is_always_named() {
    // Goal: LIMIT_REACHED always says which limit, out of a closed set. Method: only the constructor that takes one may make
    // such an error.
    let without_spaces = |text: &str| text.split_whitespace().collect::<String>();
    let made: usize =
        sources("src").iter().map(|(_, text)| without_spaces(text).matches("new(Reason::LimitReached").count()).sum();
    assert_eq!(made, 1, "Error::limit_reached makes them all");
}

#[test]
fn the_map_in_the_documentation_has_the_same_places() {
    // Goal: the rules here and the table there are about the same modules. Method: each module is in the table.
    let map = include_str!("../../../ARCHITECTURE.md");
    let rows: Vec<_> = map.lines().filter_map(|line| line.strip_prefix("| `src/")).collect();
    for (module, _) in MODULES.iter().filter(|(module, _)| !matches!(*module, "lib" | "main" | "shutdown")) {
        let named = rows.iter().any(|row| {
            let first = row.split(" | ").next().expect("a cell");
            first.trim_end_matches(['`', '/']).trim_end_matches(".rs") == *module
        });
        assert!(named, "{module}");
    }
}

#[test]
fn a_planted_violation_is_found() {
    // Goal: the checks above can fail. Method: a source for each rule that breaks it, and sources that break none.
    let modules = modules(&sources("src"));
    for (file, source) in [
        ("rooms/mod.rs", "use async_nats::Client;"),
        ("server.rs", "fn f() { async_nats::connect(url) }"),
        ("rooms/life.rs", "use tonic::Status;"),
        ("store/nats.rs", "use tonic_types::StatusExt;"),
        ("delivery/log.rs", "fn f() -> tonic::Status {}"),
        ("delivery/log.rs", "use crate::store::Reader;"),
        ("delivery/log.rs", "use crate::rooms::Rooms;"),
        ("rooms/publish.rs", "use crate::{domain::Room, grpc::convert};"),
        ("rooms/publish.rs", "use crate::v1::Room;"),
        ("rooms/publish.rs", "use crate::Reason;"),
        ("rooms/publish.rs", "use crate::auth::Auth;"),
        ("auth/mod.rs", "use tonic::Status;"),
        ("grpc/mod.rs", "use jsonwebtoken::decode;"),
        ("http/mod.rs", "use crate::{\n    error::Error,\n    v1,\n};"),
        ("store/mod.rs", "use crate::rooms::Rooms;"),
        ("store/live.rs", "use super::super::rooms::Rooms;"),
        ("store/embedded/mod.rs", "use super::super::grpc;"),
        ("store/embedded/log.rs", "use super::super::super::grpc;"),
        ("domain/room.rs", "use crate::store::Store;"),
        ("domain/mod.rs", "use super::rooms::Rooms;"),
        ("error.rs", "use crate::domain::RoomId;"),
        ("limits.rs", "use crate::{flags::count};"),
        ("flags.rs", "use tonic::Code;"),
        ("grpc/mod.rs", "use clap::Args;"),
        ("store/mod.rs", "use clap::Args;"),
        ("grpc/mod.rs", "use crate::{rooms::Rooms, store::Store};"),
        ("grpc/mod.rs", "use async_nats::{jetstream::stream};"),
        ("rooms/mod.rs", "fn f() { tokio::spawn(async {}); }"),
        ("rooms/mod.rs", "fn f() { tokio::task::spawn(async {}); }"),
        ("rooms/mod.rs", "use tokio::{sync::Notify, spawn};"),
        ("rooms/mod.rs", "use tokio::task; fn f() { task::spawn(async {}); }"),
        ("delivery/ephemeral.rs", "fn f() { let (a, b) = tokio::sync::mpsc::unbounded_channel(); }"),
        ("helpers.rs", ""),
        ("server.rs", &"\n".repeat(FILE_LINES_MAX + 1)),
    ] {
        assert_eq!(violations(file, source, &modules).len(), 1, "{file}: {source:.80}");
    }
    for (file, source) in [
        ("rooms/mod.rs", "// async_nats, tonic::Status and crate::v1 are not for this place\nuse crate::store::Store;"),
        ("rooms/mod.rs", "fn f() { tasks.spawn(g(\"tokio::spawn\", r#\"a\" tonic::x\"#, '\"', b'{')); }"),
        ("rooms/publish.rs", "use super::Rooms; use crate::{domain::{Draft, Room}, error::Result};"),
        ("grpc/convert.rs", "use crate::{domain, v1}; use tonic_types::StatusExt; fn f<'a>(a: &'a v1::Room) {}"),
        ("store/nats.rs", "use async_nats::{Client, jetstream::{self, stream}}; use super::streams;"),
        ("http.rs", "mod tests { use super::limit; }"),
        ("http.rs", "macro_rules! answer { () => { $crate::error::Error }; } pub(crate) struct S;"),
        ("server.rs", &"\n".repeat(FILE_LINES_MAX)),
    ] {
        assert_eq!(violations(file, source, &modules), Vec::<String>::new(), "{file}: {source:.80}");
    }
}
