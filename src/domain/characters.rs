//! The characters that are allowed in room ids, subscriber ids, member ids and label names: those that a person can
//! see and tell apart.

use unicode_normalization::is_nfc;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Invisible letters, marks and symbols (Unicode: `Default_Ignorable_Code_Point`, and the empty Braille pattern). All
/// other invisible characters have a category that begins with C.
const INVISIBLE: [(char, char); 10] = [
    ('\u{34f}', '\u{34f}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{e0100}', '\u{e01ef}'),
];

/// Returns what is wrong with a name that must not contain white space.
pub(super) fn problem(name: &str) -> Option<&'static str> {
    if name.chars().any(char::is_whitespace) {
        return Some("must not contain white space");
    }
    problem_but_for_spaces(name)
}

/// Returns what is wrong with a name that may contain the space U+0020, but no other white space.
pub(super) fn problem_but_for_spaces(name: &str) -> Option<&'static str> {
    if name.chars().any(is_unseen) {
        Some("must not contain control, invisible, text-direction, private or unassigned characters")
    } else if name.split(' ').any(|word| word.chars().next().is_some_and(is_mark)) {
        Some("must not begin with a combining mark, and have none after a space")
    } else if !is_nfc(name) {
        Some("must be in Unicode's normalization form C (NFC)")
    } else {
        None
    }
}

/// Whether this is seen only on the character before it, which may be one beside the name.
fn is_mark(c: char) -> bool {
    c.general_category_group() == GeneralCategoryGroup::Mark
}

fn is_unseen(c: char) -> bool {
    use GeneralCategory as Category;
    let category = matches!(
        c.general_category(),
        Category::Control
            | Category::Format
            | Category::Surrogate
            | Category::PrivateUse
            | Category::Unassigned
            | Category::LineSeparator
            | Category::ParagraphSeparator
    );
    let is_strange_space = c != ' ' && c.is_whitespace();
    category || is_strange_space || INVISIBLE.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sees_or_can_tell_apart_is_refused() {
        for bad in [
            "a b",
            "a\u{a0}b",
            "a\u{2003}b",
            "a\u{3000}b",
            "a\u{2028}b",
            "a\u{0}b",
            "a\u{7f}b",
            "a\u{85}b",
            // zero width, joiners, soft hyphen, byte order mark, tags
            "a\u{200b}b",
            "a\u{200d}b",
            "a\u{2060}b",
            "a\u{ad}b",
            "a\u{feff}b",
            "a\u{e0041}b",
            // text direction
            "a\u{202e}b",
            "a\u{2066}b",
            "a\u{200f}b",
            "a\u{61c}b",
            // fillers, selectors, an empty pattern
            "a\u{115f}b",
            "a\u{3164}b",
            "a\u{ffa0}b",
            "a\u{fe0f}b",
            "a\u{e0100}b",
            "a\u{34f}b",
            "a\u{2800}b",
            // private, unassigned, not a character
            "a\u{e000}b",
            "a\u{378}b",
            "a\u{ffff}b",
            // marks that combine with what stands before: one that takes no room, one that does, one around it
            "\u{301}a",
            "\u{301}",
            "\u{903}a",
            "\u{20dd}a",
            // not normalised: e with an accent, the Angstrom sign
            "e\u{301}",
            "\u{212b}",
        ] {
            assert!(problem(bad).is_some(), "{bad:?}");
        }
        for good in
            ["lobby", "a-b/c.d", "é", "日本", "привет", "नमस्ते", "שלום", "🦀", "\u{c5}", "a\u{33d}", "a\u{20dd}b"]
        {
            assert_eq!(problem(good), None, "{good:?}");
        }
        assert_eq!(problem_but_for_spaces("two words"), None);
        assert_eq!(problem_but_for_spaces("two w\u{33d}rds"), None);
        assert!(problem_but_for_spaces("two\u{a0}words").is_some());
        assert!(problem_but_for_spaces("two \u{301}words").is_some());
    }
}
