//! What a command prints. Standard output has only results. Everything else goes to standard error.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use prost::Message;
use serde_json::{Value, json};

use super::{
    failure::{CliResult, Failure},
    json,
    printable::safe_line,
    style::{Style, paint},
};

/// When the output has colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colours {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Colours {
    fn are_on(self, stream: &impl anstream::stream::RawStream) -> bool {
        match self {
            Self::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// The form of the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Tables and sentences.
    People,
    /// One JSON object per line.
    Json,
    /// Only the ids or sequences.
    Quiet,
}

/// Prints results, and what goes with them.
#[derive(Clone, Debug)]
pub(crate) struct Printer {
    form: Form,
    is_quiet: bool,
    colours: bool,
    error_colours: bool,
}

impl Printer {
    /// The printer that these flags ask for.
    pub(crate) fn new(is_json: bool, is_quiet: bool, colours: Colours) -> Self {
        let form = match (is_json, is_quiet) {
            (true, _) => Form::Json,
            (false, true) => Form::Quiet,
            (false, false) => Form::People,
        };
        let (colours, error_colours) = (colours.are_on(&io::stdout()), colours.are_on(&io::stderr()));
        Self { form, is_quiet, colours, error_colours }
    }

    /// The printer of a command that calls no service.
    pub(super) fn plain() -> Self {
        Self::new(false, false, Colours::Auto)
    }

    /// The form of the results.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Whether a person sees standard error and wants remarks.
    pub(crate) fn has_watcher(&self) -> bool {
        !self.is_quiet && self.form == Form::People && io::stderr().is_terminal()
    }

    /// Whether standard output has colours.
    pub(crate) fn has_colours(&self) -> bool {
        self.colours
    }

    /// The text in this style, for standard output.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        paint(style, text, self.colours)
    }

    /// Writes bytes to standard output as they are.
    #[allow(clippy::unused_self, reason = "results are written by the printer alone")]
    pub(crate) fn bytes(&self, bytes: &[u8]) -> CliResult {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| Failure::output(&error))
    }

    /// Writes one line to standard output.
    pub(crate) fn line(&self, line: &str) -> CliResult {
        self.bytes(format!("{line}\n").as_bytes())
    }

    /// Writes a message of the contract as one line of JSON. `name` is its type in `unibus.v1`.
    pub(crate) fn json(&self, name: &str, message: &impl Message) -> CliResult {
        self.value(&json::of(name, message)?)
    }

    /// Writes one line of JSON.
    pub(crate) fn value(&self, value: &Value) -> CliResult {
        self.line(&value.to_string())
    }

    /// Writes one result in the form that was asked for: a sentence, a message of the contract, or an id.
    pub(crate) fn result(&self, sentence: &str, name: &str, message: &impl Message, id: &str) -> CliResult {
        match self.form {
            Form::People => self.line(sentence),
            Form::Json => self.json(name, message),
            Form::Quiet if id.is_empty() => Ok(()),
            Form::Quiet => self.line(id),
        }
    }

    /// Writes a table. The first line has the headings.
    pub(crate) fn table(&self, headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> CliResult {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings);
        for row in rows {
            table.add_row(row.iter().map(|cell| safe_line(cell)));
        }
        // the columns have a space on either side
        let lines = table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
        let mut text = String::new();
        for (number, line) in lines.enumerate() {
            text.push_str(&if number == 0 { self.paint(Style::Strong, &line) } else { line });
            text.push('\n');
        }
        self.bytes(text.as_bytes())
    }

    /// Writes names with their values, one pair per line. Pairs without a value are left out.
    pub(crate) fn pairs(&self, pairs: &[(&str, String)]) -> CliResult {
        let pairs: Vec<_> = pairs.iter().filter(|(_, value)| !value.is_empty()).collect();
        let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines = pairs.iter().map(|(name, value)| {
            format!("{}  {}\n", self.paint(Style::Strong, &format!("{name:width$}")), safe_line(value))
        });
        self.bytes(lines.collect::<String>().as_bytes())
    }

    /// Writes a remark to standard error, unless `--quiet` is given.
    pub(crate) fn notice(&self, text: &str) {
        if !self.is_quiet {
            let line = match self.form {
                Form::Json => json!({ "notice": text }).to_string(),
                _ => paint(Style::Faint, &safe_line(text), self.error_colours),
            };
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Writes a warning to standard error: text for people, or this object with `--json`.
    pub(crate) fn warning(&self, text: &str, object: &Value) {
        let line = match self.form {
            Form::Json => object.to_string(),
            _ => format!("{} {}", paint(Style::Warning, "warning:", self.error_colours), safe_line(text)),
        };
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Writes a failure to standard error.
    pub(crate) fn failure(&self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text = match self.form {
            Form::Json => format!("{}\n", failure.json()),
            _ => failure.text(self.error_colours),
        };
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}
