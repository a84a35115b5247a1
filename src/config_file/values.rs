//! Reads the values of the file.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use toml::de::{DeTable, DeValue};

use crate::limits::CONFIG_FILE_BYTES_MAX;

/// The mode bits that let the group write a file, or let all users read, write or run it.
const OTHERS: u32 = 0o027;

/// The value of one key.
pub(super) struct FileValue {
    pub key: String,
    /// Counted from 1.
    pub line: usize,
    pub value: TomlValue,
    /// Whether other users can read or change the file.
    pub is_exposed: bool,
}

/// A value as the file has it. Numbers are text, which the parser of the flag reads.
pub(super) enum TomlValue {
    Truth(bool),
    Text(String),
    List(Vec<String>),
    /// A value of this kind, which no flag takes.
    Other(&'static str),
}

/// Reads the file. The values are in the order of the file.
///
/// # Errors
/// Each problem, for the operator.
pub(super) fn read(path: &Path) -> Result<Vec<FileValue>, Vec<String>> {
    let (text, is_exposed) = read_text(path).map_err(|error| vec![format!("it cannot be read: {error}")])?;
    let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    // without the text of the line, which may be a secret
    let table = DeTable::parse(&text).map_err(|error| {
        let problem = error.message();
        vec![error.span().map_or_else(|| problem.to_owned(), |at| format!("line {}: {problem}", line(at.start)))]
    })?;
    let mut values: Vec<_> = table
        .get_ref()
        .iter()
        .map(|(key, value)| {
            let line = line(key.span().start);
            FileValue { key: key.get_ref().to_string(), line, value: written(value.get_ref()), is_exposed }
        })
        .collect();
    values.sort_by_key(|value| value.line);
    Ok(values)
}

/// The text of the file, and whether other users can read or change it.
fn read_text(path: &Path) -> io::Result<(String, bool)> {
    let file = File::open(path)?;
    let is_exposed = file.metadata()?.mode() & OTHERS != 0;
    let mut text = String::new();
    let bytes = file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > CONFIG_FILE_BYTES_MAX) {
        return Err(io::Error::other(format!("it is larger than {CONFIG_FILE_BYTES_MAX} bytes")));
    }
    Ok((text, is_exposed))
}

fn written(value: &DeValue<'_>) -> TomlValue {
    match value {
        DeValue::Boolean(truth) => TomlValue::Truth(*truth),
        DeValue::Array(items) => {
            let items = items.iter().map(|item| scalar(item.get_ref()));
            items.collect::<Option<_>>().map_or(TomlValue::Other("a list of lists or tables"), TomlValue::List)
        }
        DeValue::Table(_) => TomlValue::Other("a table"),
        other => scalar(other).map_or(TomlValue::Other("a date"), TomlValue::Text),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(
            i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
        ),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}
