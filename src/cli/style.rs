//! Colours and weights of text on a terminal.

use anstyle::{AnsiColor, Style as AnsiStyle};

/// What a text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A heading or a name.
    Strong,
    /// What a reader may skip.
    Faint,
    /// Something failed.
    Error,
    /// Something needs attention.
    Warning,
    /// Something is well.
    Good,
}

/// The text with the escape sequences of its style, or the text alone.
pub(crate) fn paint(style: Style, text: &str, is_coloured: bool) -> String {
    if !is_coloured {
        return text.to_owned();
    }
    let ansi = match style {
        Style::Strong => AnsiStyle::new().bold(),
        Style::Faint => AnsiStyle::new().dimmed(),
        Style::Error => AnsiColor::Red.on_default().bold(),
        Style::Warning => AnsiColor::Yellow.on_default(),
        Style::Good => AnsiColor::Green.on_default(),
    };
    format!("{ansi}{text}{ansi:#}")
}

/// The text with foreground and background exchanged.
pub(crate) fn reverse(text: &str) -> String {
    let ansi = AnsiStyle::new().invert();
    format!("{ansi}{text}{ansi:#}")
}
