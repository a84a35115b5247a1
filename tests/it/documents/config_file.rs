//! The documents of the configuration file, which are made from the flags.
//!
//! With `UNIBUS_WRITE_DOCS=1` the tests write them instead of comparing them.

use std::{env, fmt::Write, fs, path::PathBuf};

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches};
use tempfile::TempDir;
use unibus::{Config, FlagSources};

use super::tables::assert_marked;

/// Characters of a line of the example.
const LINE_CHARS_MAX: usize = 110;

/// The flags that the file may set.
fn settable() -> Vec<(String, Arg)> {
    let command = Config::command();
    let flags = command.get_arguments().filter(|flag| flag.get_long() != Some("config") && flag.get_env().is_some());
    flags.map(|flag| (flag.get_long().expect("a long flag").to_owned(), flag.clone())).collect()
}

fn example_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/unibus.example.toml")
}

/// The text in lines of a comment.
fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        if lines.last().expect("a line").len() + 1 + word.len() > LINE_CHARS_MAX {
            lines.push(String::from("#"));
        }
        let line = lines.last_mut().expect("a line");
        line.push(' ');
        line.push_str(word);
    }
    lines.join("\n")
}

/// The value of a flag as the file has it, and whether it is the default.
fn value(flag: &Arg) -> (String, bool) {
    if matches!(flag.get_action(), ArgAction::SetTrue) {
        return (String::from("false"), true);
    }
    let default = flag.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
    let is_default = default.is_some();
    let name = flag.get_value_names().and_then(|names| names.first()).expect("a name of the value").to_string();
    let shown = default.unwrap_or(name);
    let written = if shown.parse::<u64>().is_ok() { shown } else { format!("\"{shown}\"") };
    (if matches!(flag.get_action(), ArgAction::Append) { format!("[{written}]") } else { written }, is_default)
}

fn example() -> String {
    let mut text = comment(
        "An example of a configuration file of unibus. Every key is the name of a flag; flags and environment win. A key \
         below has its default, or the form of its value in capitals. `unibus check --config FILE` checks a file. A test \
         of the repository makes this file from the flags.",
    );
    text.push('\n');
    for (name, flag) in settable() {
        let help = flag.get_help().expect("every flag is explained").to_string();
        let choices: Vec<_> = flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let is_choice = !choices.is_empty() && !matches!(flag.get_action(), ArgAction::SetTrue);
        let choice = if is_choice { format!(" ({})", choices.join(", ")) } else { String::new() };
        let (value, _) = value(&flag);
        write!(text, "\n{}\n# {name} = {value}\n", comment(&format!("{help}{choice}"))).expect("a String");
    }
    text
}

#[test]
fn the_example_of_the_configuration_file_has_every_flag() {
    // Goal: an operator finds every key and its default in the example. Method: make the example from the flags.
    let expected = example();
    if env::var_os("UNIBUS_WRITE_DOCS").is_some() {
        fs::create_dir_all(example_path().parent().expect("a directory")).expect("a directory");
        fs::write(example_path(), expected).expect("a file that can be written");
    } else {
        let found = fs::read_to_string(example_path()).unwrap_or_default();
        assert!(found == expected, "deploy/unibus.example.toml should be:\n\n{expected}");
    }
}

#[test]
fn the_defaults_in_the_example_are_the_defaults() {
    // Goal: who removes the `#` before a line of the example changes nothing. Method: a file with each key that has a default;
    // the configuration is the one without a file.
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("unibus.toml");
    let with_default = settable().into_iter().filter(|(_, flag)| value(flag).1);
    let lines: Vec<_> = with_default.map(|(name, flag)| format!("{name} = {}", value(&flag).0)).collect();
    assert!(lines.len() > 20, "{lines:?}");
    // this one is only allowed together with `nats-url`, also as a flag
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.starts_with("nats-sync")).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    let arguments = ["unibus".into(), format!("--config={}", path.display()).into()];
    let (_, matches) = FlagSources::parse(Config::command(), arguments).unwrap_or_else(|error| panic!("{error}"));
    let mut config = Config::from_arg_matches(&matches).unwrap();
    assert_eq!(config.config_file.take(), Some(path));
    // the cargo runner sets `UNIBUS_NATS_SERVER` in the environment
    config.embedded.nats_server = None;
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
}

#[test]
fn the_flags_that_change_while_the_service_runs_are_documented() {
    // Goal: an operator knows what needs no restart. Method: make the list from the code; each is a flag.
    let flags: Vec<_> = settable().into_iter().map(|(name, _)| name).collect();
    for live in FlagSources::LIVE {
        assert!(flags.iter().any(|flag| flag == live), "{live}");
    }
    let list: Vec<_> = FlagSources::LIVE.iter().map(|flag| format!("- `--{flag}`\n")).collect();
    assert_marked("docs/configuration.md", "live", &list.concat());
}
