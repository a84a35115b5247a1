//! The arrows of `ARCHITECTURE.md`, kept: who may name whom, and what nobody may do.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const FILE_LINES_MAX: usize = 500;

/// Files that may be longer, each with the reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Modules of `src/`, each with those of the other modules that it may name.
const MODULES: &[(&str, &[&str])] = &[
    // the macro-made types of the contract, and all modules, are declared here
    ("lib", &["config", "error", "limits", "server", "shutdown", "tokens"]),
    ("main", &[]),
    (
        "server",
        &[
            "auth",
            "config",
            "domain",
            "error",
            "grpc",
            "http",
            "limits",
            "nats",
            "rooms",
            "store",
            "subscriptions",
            "sync",
        ],
    ),
    ("grpc", &["rooms", "subscriptions", "delivery", "domain", "error", "limits", "v1", "sync"]),
    // readiness asks the store whether the connection stands
    ("http", &["rooms", "store", "domain", "error", "limits"]),
    ("auth", &["domain", "error", "limits"]),
    ("tokens", &["auth", "domain", "error"]),
    ("rooms", &["subscriptions", "delivery", "store", "domain", "error", "limits", "sync"]),
    ("subscriptions", &["delivery", "store", "domain", "error", "limits", "sync"]),
    ("delivery", &["domain", "error", "limits"]),
    ("store", &["nats", "domain", "error", "limits", "sync"]),
    ("nats", &["domain", "error", "limits", "sync"]),
    ("domain", &["error", "limits"]),
    ("error", &["limits"]),
    ("limits", &[]),
    ("sync", &[]),
    ("config", &["limits"]),
    ("shutdown", &[]),
];

/// Crates that only some modules may name. A name stands for all that begin with it and `_` too.
const CRATES: &[(&str, &[&str])] = &[
    ("async_nats", &["nats", "store"]),
    ("tonic", &["grpc", "http", "server", "lib"]),
    ("prost", &["grpc", "lib"]),
    ("axum", &["http", "server"]),
    ("jsonwebtoken", &["auth"]),
    ("anyhow", &["main"]),
    ("clap", &["config", "main", "tokens"]),
];

/// A token of Rust that matters here: a word, `::`, or one of `{`, `}`, `,` and `;`.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    PathSeparator,
    Mark(char),
}

/// The tokens of a source, without comments and the contents of strings.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => chars.by_ref().take_while(|c| *c != '\n').for_each(drop),
            'r' if matches!(chars.peek(), Some('"' | '#')) => skip_raw_string(&mut chars),
            '"' => skip_string(&mut chars),
            '\'' => skip_character(&mut chars),
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            ':' if chars.next_if_eq(&':').is_some() => tokens.push(Token::PathSeparator),
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Mark(c)),
        }
    }
    tokens
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn skip_string(chars: &mut Chars) {
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' => return,
            _ => {}
        }
    }
}

fn skip_raw_string(chars: &mut Chars) {
    let mut hashes = 0;
    while chars.next_if_eq(&'#').is_some() {
        hashes += 1;
    }
    if chars.next_if_eq(&'"').is_none() {
        return; // a raw identifier
    }
    while let Some(c) = chars.next() {
        if c == '"' && (0..hashes).all(|_| chars.next_if_eq(&'#').is_some()) {
            return;
        }
    }
}

/// A character literal; of a lifetime only the quote.
fn skip_character(chars: &mut Chars) {
    let mut ahead = chars.clone();
    match (ahead.next(), ahead.next()) {
        (Some('\\'), _) => {
            chars.next();
            chars.next();
            chars.by_ref().take_while(|c| *c != '\'').for_each(drop);
        }
        (Some(_), Some('\'')) => {
            chars.next();
            chars.next();
        }
        _ => {}
    }
}

/// Every path that is named, the branches of a `use` each by itself.
fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if matches!(tokens[at], Token::Word(_)) {
            at = path(tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the path that begins at `at`, below `prefix`; gives where it ends.
fn path(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut whole = prefix.to_vec();
    while let Some(Token::Word(word)) = tokens.get(at) {
        whole.push(word.clone());
        at += 1;
        if tokens.get(at) != Some(&Token::PathSeparator) {
            break;
        }
        at += 1;
        if tokens.get(at) == Some(&Token::Mark('{')) {
            at += 1;
            while let Some(token) = tokens.get(at) {
                match token {
                    Token::Word(_) => at = path(tokens, at, &whole, found),
                    Token::Mark('}') => return at + 1,
                    _ => at += 1,
                }
            }
            return at;
        }
    }
    found.push(whole);
    at
}

/// Where a path leads in this crate: `crate` and `super` taken off; `None` if it does not begin with either.
fn module_named(path: &[String], depth: usize) -> Option<&str> {
    let first = path.first()?;
    let ups = path.iter().take_while(|word| *word == "super").count();
    let skip = match first.as_str() {
        "crate" => 1,
        // a module declared inside a file makes its `super` reach less far than this says, never further
        "super" if ups >= depth => ups,
        _ => return None,
    };
    path.get(skip).map(String::as_str)
}

/// What is wrong with one file.
fn violations(file: &str, source: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let components: Vec<_> = file.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let (module, depth) = (components[0], components.len());
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{file}: the module {module} has no place in the architecture")];
    };
    let tokens = tokens(source);
    let has_inner_modules = tokens.windows(3).any(|window| match window {
        [Token::Word(keyword), Token::Word(_), Token::Mark('{')] => keyword == "mod",
        _ => false,
    });
    for path in paths(&tokens) {
        let first = path[0].as_str();
        let is = |name: &str| first == name || first.strip_prefix(name).is_some_and(|rest| rest.starts_with('_'));
        for (name, users) in CRATES {
            if is(name) && !users.contains(&module) {
                wrong.push(format!("{file}: {module} must not name {}", path.join("::")));
            }
        }
        let through_super = first == "super" && has_inner_modules;
        if let Some(named) = module_named(&path, depth).filter(|_| !through_super)
            && named != module
            && (named == "v1" || MODULES.iter().any(|(name, _)| *name == named))
            && !allowed.contains(&named)
        {
            wrong.push(format!("{file}: {module} must not name {}", path.join("::")));
        }
        if matches!(&path[..], [tokio, .., spawn] if tokio == "tokio" && spawn == "spawn")
            || matches!(&path[..], [task, spawn] if task == "task" && spawn == "spawn")
        {
            wrong.push(format!("{file}: {}: every task belongs to somebody who waits for it", path.join("::")));
        }
        if let Some(word) = path.iter().find(|word| word.contains("unbounded")) {
            wrong.push(format!("{file}: {word}: every channel is bounded"));
        }
    }
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX && !LONG_FILES.iter().any(|(name, _)| *name == file) {
        wrong.push(format!("{file}: has {lines} lines, more than {FILE_LINES_MAX}"));
    }
    wrong
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn the_arrows_point_one_way() {
    // Goal: the map in ARCHITECTURE.md is true. Method: read every source, look at each path that it names.
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut modules = BTreeSet::new();
    for path in files {
        let file = path.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
        modules.insert(file.split(['/', '.']).next().expect("a name").to_owned());
        wrong.extend(violations(&file, &fs::read_to_string(&path).expect("UTF-8")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // every place of the map is there, so nothing was checked in vain
    assert_eq!(modules, MODULES.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn no_file_of_the_tests_is_long() {
    // Goal: a reader finds a test by the names of folders and files. Method: count the lines of each file.
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut files);
    for file in &files {
        let lines = fs::read_to_string(file).expect("UTF-8").lines().count();
        assert!(lines <= FILE_LINES_MAX, "{}: {lines}", file.display());
    }
    assert!(files.len() > 100, "{}", files.len());
}

#[test]
fn a_limit_that_is_reached_is_always_named() {
    // Goal: LIMIT_REACHED always says which limit, out of a closed set. Method: only the constructor that takes one may make
    // such an error.
    let (mut files, mut made) = (Vec::new(), 0);
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let source = fs::read_to_string(&file).expect("a source file").split_whitespace().collect::<String>();
        made += source.matches("new(Reason::LimitReached").count();
    }
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
        ("rooms/publish.rs", "use crate::auth::Auth;"),
        ("auth/mod.rs", "use tonic::Status;"),
        ("grpc/mod.rs", "use jsonwebtoken::decode;"),
        ("http.rs", "use crate::{\n    error::Error,\n    v1,\n};"),
        ("store/mod.rs", "use crate::rooms::Rooms;"),
        ("store/live.rs", "use super::super::rooms::Rooms;"),
        ("store/embedded/mod.rs", "use super::super::grpc;"),
        ("store/embedded/log.rs", "use super::super::super::grpc;"),
        ("domain/room.rs", "use crate::store::Store;"),
        ("domain/mod.rs", "use super::rooms::Rooms;"),
        ("error.rs", "use crate::domain::RoomId;"),
        ("limits.rs", "use crate::{config::Config};"),
        ("config.rs", "use tonic::Code;"),
        ("grpc/mod.rs", "use crate::{rooms::Rooms, store::Store};"),
        ("grpc/mod.rs", "use async_nats::{jetstream::stream};"),
        ("rooms/mod.rs", "fn f() { tokio::spawn(async {}); }"),
        ("rooms/mod.rs", "fn f() { tokio::task::spawn(async {}); }"),
        ("rooms/mod.rs", "use tokio::{sync::Notify, spawn};"),
        ("rooms/mod.rs", "use tokio::task; fn f() { task::spawn(async {}); }"),
        ("delivery/live.rs", "let (a, b) = tokio::sync::mpsc::unbounded_channel();"),
        ("helpers.rs", ""),
        ("server.rs", &"\n".repeat(FILE_LINES_MAX + 1)),
    ] {
        assert_eq!(violations(file, source).len(), 1, "{file}: {source:.80}");
    }
    for (file, source) in [
        ("rooms/mod.rs", "// async_nats, tonic::Status and crate::v1 are not for this place\nuse crate::store::Store;"),
        ("rooms/mod.rs", "fn f() { tasks.spawn(g(\"tokio::spawn\", r#\"a\" tonic::x\"#, '\"', b'{')); }"),
        ("rooms/publish.rs", "use super::Rooms; use crate::{domain::{Draft, Room}, error::Result};"),
        ("grpc/convert.rs", "use crate::{domain, v1}; use tonic_types::StatusExt; fn f<'a>(a: &'a v1::Room) {}"),
        ("store/nats.rs", "use async_nats::{Client, jetstream::{self, stream}}; use super::streams;"),
        ("http.rs", "mod tests { use super::limit; }"),
        ("server.rs", &"\n".repeat(FILE_LINES_MAX)),
    ] {
        assert_eq!(violations(file, source), Vec::<String>::new(), "{file}: {source:.80}");
    }
}
