//! Flame graphs of the service: where its CPU time goes while a side has a turn. `perf` takes the samples. Stacks are
//! unwound with the tables for panics, which every build has, so that no special build is needed.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{task::spawn_blocking, time};

const WIDTH: f64 = 1400.0;
const LINE: f64 = 16.0;
const TOP: f64 = 48.0;
/// Narrower frames are left out.
const NARROWEST: f64 = 0.6;
/// Width of a letter of the font.
const LETTER: f64 = 6.2;
/// The symbols that spend most by themselves, in the summary.
const SHOWN: usize = 12;

/// The samples of a process, while it is being watched. The directory keeps them until the graph is drawn.
pub(crate) struct Watched {
    perf: Child,
    dir: TempDir,
}

/// Starts to watch a process.
pub(crate) async fn watch(process: u32) -> Result<Watched> {
    let dir = TempDir::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let mut command = Command::new("perf");
    command.args(["record", "-q", "-F", "499", "--call-graph", "dwarf,16384", "-p", &process.to_string(), "-o"]);
    command.arg(dir.path().join("perf.data")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let perf = command.spawn().context("perf")?;
    // perf does not tell when it has begun
    time::sleep(Duration::from_millis(500)).await;
    Ok(Watched { perf, dir })
}

impl Watched {
    /// Ends the watching and draws the graph as `benches/results/flame-NAME.svg`, numbered if the row has several.
    pub(crate) async fn draw(mut self, row: &str, side: &str) -> Result<()> {
        kill_process(Pid::from_child(&self.perf), Signal::INT)?;
        let what = format!("{row}: {side}, CPU time of the service");
        let path = path_of(row);
        spawn_blocking(move || {
            self.perf.wait()?;
            let output = Command::new("perf")
                .args(["script", "--no-inline", "-F", "comm,ip,sym,dso", "-i"])
                .arg(self.dir.path().join("perf.data"))
                .stderr(Stdio::null())
                .output()?;
            let root = read(&String::from_utf8_lossy(&output.stdout));
            ensure!(root.samples > 0, "perf took no samples");
            fs::write(&path, svg(&root, &what)).with_context(|| path.display().to_string())?;
            eprintln!("  {what}: {}", path.display());
            eprint!("{}", summary(&root));
            Ok(())
        })
        .await?
    }
}

/// The graphs of a row are numbered in the order in which they are drawn.
fn path_of(row: &str) -> PathBuf {
    static LAST: Mutex<(String, u32)> = Mutex::new((String::new(), 0));

    let mut number = 1;
    if let Ok(mut last) = LAST.lock() {
        number += if last.0 == row { last.1 } else { 0 };
        *last = (row.to_owned(), number);
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results").join(format!("flame-{row}-{number}.svg"))
}

/// A frame of the graph: how many samples have it below the same callers.
#[derive(Debug, Default)]
struct Node {
    samples: u64,
    /// Samples in which it is the innermost frame.
    own: u64,
    called: BTreeMap<Frame, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    symbol: String,
    is_kernel: bool,
}

/// Reads what `perf script` prints: for each sample a line with the thread, then a line for each frame from the
/// innermost on, then an empty line.
fn read(text: &str) -> Node {
    let mut root = Node::default();
    for sample in text.split("\n\n") {
        let mut frames: Vec<Frame> = sample.lines().filter_map(frame).collect();
        if frames.is_empty() {
            continue;
        }
        frames.reverse();
        root.samples += 1;
        let mut node = &mut root;
        for frame in frames {
            node = node.called.entry(frame).or_default();
            node.samples += 1;
        }
        node.own += 1;
    }
    root
}

/// A line like `  6aa1d2 tokio::time::now (/path/of/unibus)`.
fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.strip_prefix(['\t', ' '])?.trim_start().split_once(' ')?;
    let (symbol, object) = rest.rsplit_once(" (")?;
    let is_kernel = object.starts_with("[kernel") || object.starts_with("[guest");
    Some(Frame { symbol: symbol.to_owned(), is_kernel })
}

fn svg(root: &Node, what: &str) -> String {
    let height = TOP + LINE * (depth(root) + 1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" \
         font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">{} ({} samples)</text>\n\
         <text x=\"10\" y=\"38\">green: unibus; orange: tokio; violet: gRPC and HTTP; pink: protobuf; \
         yellow: async-nats; red: the allocator; blue: the kernel; grey: everything else. Hover for the whole name.</text>\n",
        escaped(what),
        root.samples
    );
    let scale = WIDTH / root.samples as f64;
    let mut left = 0.0;
    for (frame, node) in &root.called {
        rectangle(&mut svg, frame, node, (left, height - LINE), (scale, root.samples));
        left += node.samples as f64 * scale;
    }
    svg + "</svg>\n"
}

fn depth(node: &Node) -> usize {
    node.called.values().map(|called| 1 + depth(called)).max().unwrap_or(0)
}

fn rectangle(svg: &mut String, frame: &Frame, node: &Node, (left, top): (f64, f64), (scale, all): (f64, u64)) {
    let width = node.samples as f64 * scale;
    if width < NARROWEST {
        return;
    }
    let share = node.samples as f64 / all as f64 * 100.0;
    let name = escaped(&frame.symbol);
    // writing to a text cannot fail
    let _ = write!(
        svg,
        "<g><title>{name}: {share:.1} %</title><rect x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" \
         height=\"{LINE}\" fill=\"{}\" stroke=\"white\" stroke-width=\"0.5\"/>",
        colour(frame)
    );
    let letters = (width / LETTER) as usize;
    if letters > 3 {
        let short: String = short(&frame.symbol).chars().take(letters - 1).collect();
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{}\">{}</text>", left + 2.0, top + LINE - 4.5, escaped(&short));
    }
    svg.push_str("</g>\n");
    let mut left = left;
    for (frame, called) in &node.called {
        rectangle(svg, frame, called, (left, top - LINE), (scale, all));
        left += called.samples as f64 * scale;
    }
}

/// Groups of symbols, by how their names begin, with their colours.
const GROUPS: [(&str, &[&str], &str); 6] = [
    ("unibus", &["unibus::"], "#9ccc9c"),
    ("tokio", &["tokio::", "tokio_", "mio::"], "#f0b27a"),
    ("gRPC and HTTP", &["tonic", "hyper", "h2::", "http", "tower", "axum"], "#c9a6dc"),
    ("protobuf", &["prost"], "#e3b7c8"),
    ("async-nats", &["async_nats::"], "#efd36f"),
    (
        "the allocator",
        &[
            "malloc",
            "_int_",
            "calloc",
            "__libc_calloc",
            "realloc",
            "cfree",
            "mi_",
            "_mi_",
            "free",
            "__rdl_",
            "__rust_",
            "unlink_chunk",
        ],
        "#e8958b",
    ),
];
const KERNEL: (&str, &str) = ("the kernel", "#a3c4ea");
const OTHERS: (&str, &str) = ("everything else", "#d4d4d4");

/// The group of a frame, or nothing for a symbol that any of them may use.
fn group(frame: &Frame) -> Option<(&'static str, &'static str)> {
    if frame.is_kernel {
        return Some(KERNEL);
    }
    let name = frame.symbol.trim_start_matches(['<', '&']);
    let found = GROUPS.iter().find(|(_, starts, _)| starts.iter().any(|start| name.starts_with(start)));
    found.map(|(group, _, colour)| (*group, *colour))
}

fn colour(frame: &Frame) -> &'static str {
    group(frame).unwrap_or(OTHERS).1
}

/// The name without the arguments of its type.
fn short(symbol: &str) -> String {
    let mut depth = 0_usize;
    let mut short = String::new();
    for letter in symbol.trim_start_matches('<').chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            letter if depth == 0 => short.push(letter),
            _ => {}
        }
    }
    short
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The shares of the groups, and the symbols that spend most by themselves. A symbol without a group counts for its
/// nearest caller that has one.
fn summary(root: &Node) -> String {
    let [mut groups, mut symbols]: [BTreeMap<String, u64>; 2] = Default::default();
    own(root, OTHERS.0, &mut |frame, group, samples| {
        *groups.entry(group.to_owned()).or_default() += samples;
        *symbols.entry(frame.symbol.clone()).or_default() += samples;
    });
    let mut text = String::new();
    for (of, shown) in [(groups, GROUPS.len() + 2), (symbols, SHOWN)] {
        let mut of: Vec<_> = of.into_iter().collect();
        of.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
        for (name, samples) in of.into_iter().take(shown) {
            let _ = writeln!(text, "    {:5.1} %  {name}", samples as f64 / root.samples as f64 * 100.0);
        }
        text.push('\n');
    }
    text
}

fn own(node: &Node, caller: &'static str, found: &mut impl FnMut(&Frame, &'static str, u64)) {
    for (frame, called) in &node.called {
        let group = group(frame).map_or(caller, |(group, _)| group);
        found(frame, group, called.own);
        own(called, group, found);
    }
}
