//! Checks the values of the file with the parser of the flags, and makes arguments from them.

use std::ffi::OsString;

use clap::{
    Arg, ArgAction, Command,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    FILE_FLAG,
    values::{FileValue, TomlValue},
};

/// The arguments that one value of the file stands for.
pub(super) struct FileFlag {
    /// Without the dashes.
    pub flag: String,
    pub arguments: Vec<OsString>,
}

/// Checks each value, as if it were the only argument of the command.
///
/// # Errors
/// Each problem with its line, for the operator.
pub(super) fn check(command: &Command, values: Vec<FileValue>) -> Result<Vec<FileFlag>, Vec<String>> {
    let alone = Command::new("unibus").args(command.get_arguments().cloned());
    let mut problems = Vec::new();
    let mut flags = Vec::new();
    for value in values {
        match check_one(&alone, &value) {
            Ok(flag) => flags.push(flag),
            Err(problem) => problems.push(format!("line {}: `{}` {problem}", value.line, value.key)),
        }
    }
    if problems.is_empty() { Ok(flags) } else { Err(problems) }
}

/// The flags that the file may set.
pub(super) fn settable(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let flags = command.get_arguments().filter(|flag| flag.get_env().is_some() && flag.get_id() != FILE_FLAG);
    flags.filter_map(|flag| Some((flag.get_long()?, flag)))
}

/// Whether this value of the flag must not be shown.
pub(super) fn is_secret(flag: &Arg, value: &str) -> bool {
    // a URL may contain a user and a password
    flag.is_hide_env_values_set() || value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

fn check_one(command: &Command, value: &FileValue) -> Result<FileFlag, String> {
    let key = &*value.key;
    let Some((_, flag)) = settable(command).find(|(name, _)| *name == key) else {
        let known = nearest(command, key);
        return Err(known.map_or_else(
            || "is no flag; docs/configuration.md lists the flags".to_owned(),
            |known| format!("is no flag; the nearest one is `{known}`"),
        ));
    };
    let given: Vec<&str> = match (&value.value, flag.get_action()) {
        (TomlValue::Other(kind), _) => return Err(format!("is {kind}; give one value, as for --{key}")),
        (TomlValue::Truth(truth), ArgAction::SetTrue) => {
            let arguments = if *truth { vec![format!("--{key}").into()] } else { Vec::new() };
            return Ok(FileFlag { flag: key.to_owned(), arguments });
        }
        (_, ArgAction::SetTrue) => return Err("must be true or false, without quotes".to_owned()),
        (TomlValue::List(_), ArgAction::Set) => return Err(format!("is a list; give one value, as for --{key}")),
        (TomlValue::List(items), _) => items.iter().map(String::as_str).collect(),
        (TomlValue::Truth(true), _) => vec!["true"],
        (TomlValue::Truth(false), _) => vec!["false"],
        (TomlValue::Text(text), _) => vec![text.as_str()],
    };
    if value.is_exposed && given.iter().any(|given| is_secret(flag, given)) {
        return Err(
            "is a secret, and other users of this machine can read or change the file; run chmod 600 on it".to_owned()
        );
    }
    for given in &given {
        if let Some(problem) = refusal(command, key, given) {
            let shown = if is_secret(flag, given) { String::new() } else { format!("is {given:?}: ") };
            return Err(format!("{shown}{problem}"));
        }
    }
    let arguments = given.iter().map(|given| format!("--{key}={given}").into()).collect();
    Ok(FileFlag { flag: key.to_owned(), arguments })
}

/// Why the parser of the flag refuses the value. Missing other flags do not count here.
fn refusal(command: &Command, key: &str, given: &str) -> Option<String> {
    let error = command.clone().try_get_matches_from(["unibus".to_owned(), format!("--{key}={given}")]).err()?;
    let about = error.get(ContextKind::InvalidArg)?.to_string();
    let flag = about.split([' ', '=']).next()?;
    if flag.trim_start_matches('-') != key || error.kind() == ErrorKind::MissingRequiredArgument {
        return None;
    }
    if let Some(source) = std::error::Error::source(&error) {
        return Some(source.to_string());
    }
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return Some(format!("give one of {}", valid.join(", ")));
    }
    let text = error.to_string();
    text.lines().next().map(|line| line.trim_start_matches("error: ").to_owned())
}

/// The name of a flag that is written similarly.
fn nearest(command: &Command, key: &str) -> Option<String> {
    // as the flags are written, so that a mistaken `_` does not hide the name
    let written = key.replace('_', "-").to_lowercase();
    let known = |name: &str| settable(command).any(|(flag, _)| flag == name);
    if known(&written) {
        return Some(written);
    }
    let error = command.clone().try_get_matches_from(["unibus".to_owned(), format!("--{written}=x")]).err()?;
    match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => {
            let name = flag.trim_start_matches('-').split('=').next()?;
            known(name).then(|| name.to_owned())
        }
        _ => None,
    }
}
