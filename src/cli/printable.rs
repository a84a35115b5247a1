//! Text and payloads of others on a terminal: nothing that is printed can move the cursor, change colours or hide.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// The mark before a payload that is not text.
const BASE64_MARK: &str = "base64:";

/// Joins the parts of one emoji; harmless beside other characters.
const ZERO_WIDTH_JOINER: char = '\u{200d}';

/// Whether a terminal shows the character and does nothing else.
fn is_shown(c: char) -> bool {
    use GeneralCategory as Category;
    let hides = matches!(
        c.general_category(),
        Category::Control
            | Category::Format
            | Category::Surrogate
            | Category::PrivateUse
            | Category::Unassigned
            | Category::LineSeparator
            | Category::ParagraphSeparator
    );
    !hides || c == ZERO_WIDTH_JOINER
}

/// The text with every character that is not shown replaced by its escape.
pub(crate) fn safe(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| is_shown(c) || c == '\n') {
        return Cow::Borrowed(text);
    }
    let escaped =
        text.chars().map(|c| if is_shown(c) || c == '\n' { c.to_string() } else { c.escape_unicode().to_string() });
    Cow::Owned(escaped.collect())
}

/// The same in one line.
pub(crate) fn safe_line(text: &str) -> Cow<'_, str> {
    match safe(text) {
        line if !line.contains('\n') => line,
        lines => Cow::Owned(lines.replace('\n', "\\n")),
    }
}

/// A payload for people: as it is if it is text, else in base64 behind a mark. Each further line of a text begins with
/// `indent`, so that no payload looks like a line of its own.
pub(crate) fn payload(payload: &[u8], indent: &str) -> String {
    let is_text = |text: &&str| text.chars().all(|c| is_shown(c) || matches!(c, '\n' | '\t'));
    match std::str::from_utf8(payload).ok().filter(is_text) {
        Some(text) if text.contains('\n') => text.trim_end_matches('\n').replace('\n', &format!("\n{indent}")),
        Some(text) => text.to_owned(),
        None => format!("{BASE64_MARK}{}", STANDARD.encode(payload)),
    }
}

#[cfg(test)]
mod tests {
    use super::{payload, safe, safe_line};

    #[test]
    fn a_payload_is_text_or_base64() {
        for (given, shown) in [
            (&b"hello"[..], "hello"),
            ("Grüße \u{1f469}\u{200d}\u{1f680}".as_bytes(), "Grüße \u{1f469}\u{200d}\u{1f680}"),
            (b"one\ttwo\nthree\n", "one\ttwo\n  three"),
            (b"", ""),
            (&[0xff, 0], "base64:/wA="),
            (b"\x1b[2J", "base64:G1sySg=="),
            (b"a\rb", "base64:YQ1i"),
            ("\u{202e}abc".as_bytes(), "base64:4oCuYWJj"),
        ] {
            assert_eq!(payload(given, "  "), shown);
        }
    }

    #[test]
    fn text_of_others_cannot_steer_a_terminal() {
        assert_eq!(safe("a\nb"), "a\nb");
        assert_eq!(safe("a\x1b]0;x\x07"), "a\\u{1b}]0;x\\u{7}");
        assert_eq!(safe_line("a\nb\x1b"), "a\\nb\\u{1b}");
    }
}
