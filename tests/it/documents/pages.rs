//! The documents as a whole: their links lead somewhere, their commands are run, and the tests that they name exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

const README_LINES_MAX: usize = 180;

/// Blocks of commands that CI does not run as printed: the document, the first line of the block, and the reason.
const NOT_RUN: &[(&str, &str, &str)] = &[
    (
        "docs/benchmark.md",
        "cargo bench --bench load -- --list",
        "takes half an hour, and its figures need a quiet machine",
    ),
    ("docs/nats.md", "nats kv create", "a command of another system"),
    ("docs/deploy.md", "docker build", "needs a container engine; .ci/run deploy runs the image without one"),
    ("docs/deploy.md", "cd deploy", "needs a container engine; .ci/run deploy checks the file"),
    ("docs/deploy.md", "kubectl create", "needs a cluster; .ci/run deploy renders the chart"),
    ("docs/deploy.md", "install -m", "changes the system; .ci/run deploy checks the unit"),
    (
        "docs/reliability.md",
        "cargo build --release --bin unibus --example chaos",
        ".ci/run chaos runs the program with fewer episodes",
    ),
    ("CONTRIBUTING.md", ".ci/run", "runs these checks itself"),
    ("clients/go/README.md", "go get", "the module is not published; .ci/run clients builds it"),
    ("clients/typescript/README.md", "npm install", "the package is not published; .ci/run clients builds it"),
    ("clients/typescript/README.md", "./check.sh", ".ci/run clients runs it"),
    ("clients/python/README.md", "pip install", "the package is not published; .ci/run clients builds it"),
];

/// Languages of blocks that are not commands. `.ci/run clients` runs the quick starts in the languages of the clients.
const NOT_COMMANDS: &[&str] =
    &["text", "json", "rust", "toml", "yaml", "go", "typescript", "ts", "python", "java", "kotlin", "xml"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().expect("a name").to_string_lossy();
        let is_foreign =
            ["target", "node_modules", ".venv", ".git"].contains(&&*name) || name.starts_with("unibus-data");
        if path.is_dir() && !is_foreign {
            sources(&path, extension, found);
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
}

/// A document of this repository.
struct Document {
    /// Its path below the root.
    name: String,
    text: String,
}

impl Document {
    fn all() -> Vec<Self> {
        let mut paths = Vec::new();
        sources(root(), "md", &mut paths);
        let name = |path: &Path| path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        paths.iter().map(|path| Self { name: name(path), text: fs::read_to_string(path).expect("UTF-8") }).collect()
    }

    /// The blocks between fences: language and lines.
    fn blocks(&self) -> Vec<(&str, Vec<&str>)> {
        let mut blocks = Vec::new();
        let mut open: Option<(&str, Vec<&str>)> = None;
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), &mut open) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(language), None) => open = Some((language.trim(), Vec::new())),
                (None, Some((_, lines))) => lines.push(line),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.name);
        blocks
    }

    /// The text outside of blocks, without code.
    fn prose(&self) -> String {
        let mut in_block = false;
        let mut prose = String::new();
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
            } else if !in_block {
                prose.extend(line.split('`').step_by(2));
                prose.push('\n');
            }
        }
        prose
    }

    /// Where the links lead.
    fn links(&self) -> Vec<String> {
        // code spans may be the text of a link, but never its end
        let prose = self.prose();
        let ends = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        ends.map(|(target, _)| target.trim().to_owned()).collect()
    }

    /// The anchors of its headings, as the repository host makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let mut seen = BTreeMap::new();
        let mut in_block = false;
        let mut anchors = BTreeSet::new();
        for line in self.text.lines() {
            if line.starts_with("```") {
                in_block = !in_block;
            }
            let Some(heading) = line.strip_prefix('#').filter(|_| !in_block) else { continue };
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let times = seen.entry(slug.clone()).or_insert(0);
            anchors.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
            *times += 1;
        }
        anchors
    }
}

/// Folders of this repository whose paths the documents name.
const FOLDERS: &[&str] = &[
    "src",
    "tests",
    "examples",
    "benches",
    "docs",
    "proto",
    "clients",
    "conformance",
    "console",
    "deploy",
    ".ci",
    ".cargo",
];

/// The paths in backticks that name no file or folder of `existing`, and how many paths there are in all. A path begins
/// with a folder of the repository, or is the end of the path of a Rust source.
fn missing_paths<'a>(document: &'a Document, existing: &BTreeSet<String>) -> (Vec<&'a str>, usize) {
    let spans = document.text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let is_source = |path: &str| Path::new(path).extension().is_some_and(|end| end == "rs");
    let is_path = |span: &&str| {
        let has_folder = span.split_once('/').is_some_and(|(folder, _)| FOLDERS.contains(&folder));
        // words in capitals stand for the name of any file
        let is_capital = |word: &str| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase());
        let is_plain = !span.contains([' ', '*', '<', '$', ':']) && !span.split(['/', '-', '.']).any(is_capital);
        is_plain && (has_folder || is_source(span))
    };
    let paths: Vec<_> = spans.filter(is_path).collect();
    let exists = |path: &str| {
        let path = path.trim_end_matches('/');
        let is_end = |whole: &String| whole.strip_suffix(path).is_some_and(|before| before.ends_with('/'));
        // the README of a client names its own files
        let is_beside = existing.contains(&resolved(&document.name, path));
        existing.contains(path) || is_beside || (is_source(path) && existing.iter().any(is_end))
    };
    (paths.iter().copied().filter(|path| !exists(path)).collect(), paths.len())
}

/// The files and folders of the repository that documents may name.
fn existing_paths() -> BTreeSet<String> {
    fn add(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            found.insert(path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned());
            if path.is_dir() && path.file_name().is_none_or(|name| name != "node_modules" && name != ".venv") {
                add(&path, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    let folders = FOLDERS.iter().map(|folder| root().join(folder)).filter(|folder| folder.is_dir());
    folders.for_each(|folder| add(&folder, &mut found));
    found.extend(FOLDERS.iter().filter(|folder| root().join(folder).is_dir()).map(|folder| (*folder).to_owned()));
    found.insert("build.rs".to_owned());
    found
}

/// The path of a link, without `.` and `..`.
fn resolved(document: &str, target: &str) -> String {
    let mut parts = Vec::new();
    let whole = Path::new(document).parent().expect("a folder").join(target);
    for component in whole.components() {
        match component {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

/// What is wrong with the links of one document.
fn broken_links(document: &Document, all: &[Document]) -> Vec<String> {
    let mut broken = Vec::new();
    for link in document.links() {
        if link.starts_with("https://") || link.starts_with("http://") {
            continue;
        }
        let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let path = if path.is_empty() { document.name.clone() } else { resolved(&document.name, path) };
        if !root().join(&path).exists() && all.iter().all(|other| other.name != path) {
            broken.push(format!("{}: {link}: no such file", document.name));
        } else if !anchor.is_empty() && !all.iter().any(|other| other.name == path && other.anchors().contains(anchor))
        {
            broken.push(format!("{}: {link}: no such heading", document.name));
        }
    }
    broken
}

/// What is wrong with the blocks of one document.
fn commands_not_run(document: &Document) -> Vec<String> {
    let mut wrong = Vec::new();
    // .ci/tour runs the console blocks of these
    let is_run = document.name == "README.md" || resolved(&document.name, ".") == "docs";
    for (language, lines) in document.blocks() {
        let first = lines.first().copied().unwrap_or_default();
        let is_listed = NOT_RUN.iter().any(|(name, begin, _)| *name == document.name && first.starts_with(begin));
        if !(language == "console" && is_run || language == "sh" && is_listed || NOT_COMMANDS.contains(&language)) {
            wrong.push(format!("{}: nothing runs the {language:?} block that begins with {first:?}", document.name));
        }
    }
    wrong
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    // Goal: no reader ends at a missing page. Method: follow each relative link of each document.
    let documents = Document::all();
    let broken: Vec<_> = documents.iter().flat_map(|document| broken_links(document, &documents)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let links: usize = documents.iter().map(|document| document.links().len()).sum();
    assert!(links > 80, "{links}");
}

#[test]
fn every_path_that_a_document_names_exists() {
    // Goal: no reader searches for a file that was moved or renamed. Method: each path in backticks, of each document.
    let existing = existing_paths();
    let mut all = 0;
    for document in Document::all() {
        let (missing, found) = missing_paths(&document, &existing);
        assert!(missing.is_empty(), "{}: {missing:?}", document.name);
        all += found;
    }
    assert!(all > 60, "{all}");
    let text = "`src/delivery/live.rs` `members/pass.rs` `pass.rs` `ass.rs` `src/nats/bucket/` `src/none/` `none.rs` `src/NAME.rs` `ls src/none`";
    let planted = Document { name: "docs/page.md".to_owned(), text: text.to_owned() };
    let expected = vec!["src/delivery/live.rs", "ass.rs", "src/none/", "none.rs"];
    assert_eq!(missing_paths(&planted, &existing), (expected, 7));
}

#[test]
fn every_page_is_reached_from_the_readme() {
    // Goal: no page is forgotten. Method: follow the links from README.md on.
    let documents = Document::all();
    let mut reached = BTreeSet::from([String::from("README.md")]);
    let mut next = vec![String::from("README.md")];
    while let Some(name) = next.pop() {
        for document in documents.iter().filter(|document| document.name == name) {
            for link in document.links() {
                let path = resolved(&name, link.split('#').next().expect("a path"));
                if documents.iter().any(|document| document.name == path) && reached.insert(path.clone()) {
                    next.push(path);
                }
            }
        }
    }
    let pages = documents.iter().map(|document| &document.name).filter(|name| !name.starts_with('.'));
    let forgotten: Vec<_> = pages.filter(|name| !reached.contains(*name)).collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[test]
fn every_block_of_commands_is_run_or_says_why_not() {
    // Goal: what a reader copies works. Method: .ci/tour runs the console blocks of README.md and docs/; every other block of
    // commands is listed here with the reason.
    let documents = Document::all();
    let wrong: Vec<_> = documents.iter().flat_map(commands_not_run).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, begin, _) in NOT_RUN {
        let document = documents.iter().find(|document| document.name == *name).expect(name);
        let is_there = |(_, lines): &(&str, Vec<&str>)| lines.first().is_some_and(|first| first.starts_with(begin));
        assert!(document.blocks().iter().any(is_there), "{name}: {begin}");
    }
    let console = |name: &str| {
        let document = documents.iter().find(|document| document.name == name).expect(name);
        document.blocks().iter().filter(|(language, _)| *language == "console").count()
    };
    assert!(console("README.md") >= 3 && console("docs/tour.md") >= 15);
}

#[test]
fn the_readme_is_short() {
    // Goal: a reader knows in a minute what this is. Method: count the lines.
    let lines = fs::read_to_string(root().join("README.md")).expect("UTF-8").lines().count();
    assert!(lines <= README_LINES_MAX, "{lines}");
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    // Goal: a reader can check each guarantee. Method: the page names tests after each; each of them is a test function.
    let page = fs::read_to_string(root().join("docs/guarantees.md")).expect("UTF-8");
    let mut files = Vec::new();
    sources(&root().join("tests"), "rs", &mut files);
    let code: String = files.iter().map(|path| fs::read_to_string(path).expect("UTF-8")).collect();
    let (guaranteed, _) = page.split_once("\n## What is not guaranteed\n").expect("a section");
    let paragraphs: Vec<_> = guaranteed.split("\n\n").collect();
    let tests = paragraphs.iter().filter_map(|paragraph| paragraph.strip_prefix("Tests: "));
    let named: Vec<_> = tests.flat_map(|list| list.split('`').skip(1).step_by(2)).collect();
    for name in &named {
        assert!(code.contains(&format!("fn {name}()")), "{name}");
    }
    assert!(named.len() > 80, "{}", named.len());
    // every claim is followed by its tests before the next one
    let mut open = None;
    for paragraph in paragraphs {
        if paragraph.starts_with("Tests: ") {
            open = None;
        } else if paragraph.starts_with("**") {
            assert_eq!(open, None, "a claim without tests");
            open = Some(paragraph);
        }
    }
    assert_eq!(open, None, "a claim without tests");
}

#[test]
fn a_planted_fault_in_a_document_is_found() {
    // Goal: the checks above can fail. Method: a document for each rule that breaks it, and one that breaks none.
    let document = |name: &str, text: &str| Document { name: name.to_owned(), text: text.to_owned() };
    let other =
        || document("docs/other.md", "# Two words, `code`\n\n## Twice\n\n## Twice\n\n```text\n# no heading\n```\n");
    for text in
        ["[a](missing.md)", "[a](other.md#nothing)", "[`a`](#here)", "[a](../docs/none.md)", "[a](other.md#no-heading)"]
    {
        let documents = [document("docs/page.md", text), other()];
        assert_eq!(broken_links(&documents[0], &documents).len(), 1, "{text}");
    }
    let text = "# Here\n[a](other.md#two-words-code) [b](#here) [c](other.md#twice-1) [d](../README.md) [e](https://x.y/#z) `](no)`";
    let documents = [document("docs/page.md", text), other()];
    assert_eq!(broken_links(&documents[0], &documents), Vec::<String>::new());

    for (name, text) in [
        ("docs/page.md", "```sh\nls\n```\n"),
        ("docs/page.md", "```\nls\n```\n"),
        ("docs/deep/page.md", "```console\n$ ls\n```\n"),
        ("SECURITY.md", "```console\n$ ls\n```\n"),
        ("docs/other.md", "```sh\nnats kv create x\n```\n"),
    ] {
        assert_eq!(commands_not_run(&document(name, text)).len(), 1, "{name}: {text}");
    }
    for (name, text) in [
        ("docs/page.md", "```console\n$ ls\n```\n```text\nls\n```\n"),
        ("docs/nats.md", "```sh\nnats kv create x\n```\n"),
    ] {
        assert_eq!(commands_not_run(&document(name, text)), Vec::<String>::new(), "{name}: {text}");
    }
}
