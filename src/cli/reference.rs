//! The reference of all commands as Markdown, made from the command line itself.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command};

use super::{exit::Exit, failure::CliResult, options::VARIABLES, output::Printer};

/// Commands that are explained elsewhere: they run or check the service, or make tokens.
const ELSEWHERE: [&str; 7] = ["serve", "check", "healthcheck", "key", "token", "help", "reference"];

/// Writes the reference to standard output.
pub(super) fn print(mut program: Command, out: &Printer) -> CliResult {
    program.build();
    let mut text = String::from("### Commands\n\n| command | meaning |\n|---|---|\n");
    let commands = leaves(&program, "unibus");
    for (name, command) in &commands {
        let arguments = positions(command);
        let _ = writeln!(text, "| `{name}{arguments}` | {} |", about(command));
    }
    text.push_str("\n### Flags of each command\n\n| command | flag | default | meaning |\n|---|---|---|---|\n");
    for (name, command) in &commands {
        for arg in command.get_arguments().filter(|arg| !is_common(arg)) {
            let _ = writeln!(text, "| `{name}` | {} | {} | {} |", shown(arg), default(arg), meaning(arg));
        }
    }
    text.push_str("\n### Flags of every command\n\n| flag | default | meaning |\n|---|---|---|\n");
    let common = commands.first().map(|(_, command)| command.get_arguments().filter(|arg| arg.is_global_set()));
    for arg in common.into_iter().flatten() {
        let _ = writeln!(text, "| {} | {} | {} |", shown(arg), default(arg), meaning(arg));
    }
    text.push_str("\n### Environment\n\n| variable | meaning |\n|---|---|\n");
    for (name, meaning) in VARIABLES {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    text.push_str("\n### Exit statuses\n\n| status | meaning |\n|---|---|\n");
    for exit in Exit::ALL {
        let _ = writeln!(text, "| {} | {} |", exit.status(), exit.meaning());
    }
    out.bytes(text.as_bytes())
}

/// The commands without commands of their own, each with its whole name.
fn leaves<'a>(command: &'a Command, name: &str) -> Vec<(String, &'a Command)> {
    let children = command.get_subcommands().filter(|child| !ELSEWHERE.contains(&child.get_name()));
    let children: Vec<_> = children.collect();
    if children.is_empty() {
        return vec![(name.to_owned(), command)];
    }
    children.into_iter().flat_map(|child| leaves(child, &format!("{name} {}", child.get_name()))).collect()
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// The arguments without a flag, as in the usage of the command.
fn positions(command: &Command) -> String {
    let named = command.get_positionals().map(|arg| {
        let name = value_names(arg);
        if arg.is_required_set() { format!(" {name}") } else { format!(" [{name}]") }
    });
    named.collect()
}

fn value_names(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Whether the flag is one of every command.
fn is_common(arg: &Arg) -> bool {
    arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version")
}

fn shown(arg: &Arg) -> String {
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), Some(short)) => format!("`--{long}`, `-{short}`"),
        (Some(long), None) => format!("`--{long}`"),
        (None, Some(short)) => format!("`-{short}`"),
        (None, None) => return format!("`{}`", value_names(arg)),
    };
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if takes_value { format!("{name} {}", value_names(arg)) } else { name }
}

fn default(arg: &Arg) -> String {
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    if !takes_value || arg.is_hide_default_value_set() {
        return String::new();
    }
    let defaults = arg.get_default_values();
    let shown = defaults.iter().map(|value| format!("`{}`", value.to_string_lossy()));
    shown.collect::<Vec<_>>().join(", ")
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
        return help.replace('|', "\\|");
    }
    let values = arg.get_possible_values();
    let values: Vec<_> = values.iter().map(|value| format!("`{}`", value.get_name())).collect();
    let choice = if values.is_empty() { String::new() } else { format!(" ({})", values.join(", ")) };
    format!("{help}{choice}").replace('|', "\\|")
}
