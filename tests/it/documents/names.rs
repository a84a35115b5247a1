//! Every type of `src/` has a name of its own.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Attribute, Item, Meta,
    visit::{self, Visit},
};

use super::source::{module_of, sources};

/// Names that several modules give to their types on purpose, each with the reason.
const SHARED: &[(&str, &str)] =
    &[("Inner", "what the clones of a handle share; only the module of the handle names it")];

/// The names of the types that a file declares outside of tests.
#[derive(Default)]
struct Types(BTreeSet<String>);

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |meta: &Meta| matches!(meta, Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string() == "test");
    attributes.iter().any(|attribute| is_test(&attribute.meta))
}

impl<'ast> Visit<'ast> for Types {
    fn visit_item(&mut self, item: &'ast Item) {
        let (name, attributes) = match item {
            Item::Struct(item) => (&item.ident, &item.attrs),
            Item::Enum(item) => (&item.ident, &item.attrs),
            Item::Union(item) => (&item.ident, &item.attrs),
            Item::Trait(item) => (&item.ident, &item.attrs),
            Item::Type(item) => (&item.ident, &item.attrs),
            Item::Mod(item) if is_for_tests(&item.attrs) => return,
            // some types are declared in a macro, for example in `pin_project!`
            Item::Macro(item) => {
                self.0.extend(declared(&item.mac.tokens.to_string()));
                return;
            }
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            self.0.insert(name.to_string());
        }
    }
}

/// The names that follow `struct` and `enum` in the tokens of a macro.
fn declared(tokens: &str) -> Vec<String> {
    let words: Vec<_> = tokens.split_whitespace().collect();
    let pairs = words.windows(2).filter(|pair| matches!(pair[0], "struct" | "enum"));
    let names = pairs.map(|pair| pair[1].to_owned());
    // `$name` stands for a name that is given elsewhere
    names.filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase())).collect()
}

/// The names that several files declare, each with these files.
fn shared(files: &[(String, String)]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in files.iter().filter(|(file, _)| !module_of(file).iter().any(|module| module == "tests")) {
        let mut types = Types::default();
        types.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")));
        types.0.into_iter().for_each(|name| found.entry(name).or_default().push(file.clone()));
    }
    assert!(found.len() * 10 > files.len(), "{}", found.len());
    found.retain(|_, files| files.len() > 1);
    found
}

#[test]
fn no_two_modules_declare_types_of_one_name() {
    // Goal: a type's name says which type it is, wherever a reader meets it. Method: parse every source, and collect the names
    // of its types outside of tests; each name is in one file, but for those that are listed with a reason.
    let mut found = shared(&sources("src"));
    for (name, _) in SHARED {
        assert!(found.remove(*name).is_some(), "{name} is not shared any more, remove it from the list");
    }
    let lines: Vec<_> = found.iter().map(|(name, files)| format!("{name}: {}", files.join(", "))).collect();
    assert!(lines.is_empty(), "give each of these types a name of its own:\n{}", lines.join("\n"));
}

#[test]
fn a_planted_pair_of_names_is_found() {
    // Goal: the search above can fail. Method: pairs of sources that declare one name twice, and pairs that do not.
    let names = |one: &str, other: &str| {
        let files = [("a.rs".to_owned(), one.to_owned()), ("b/mod.rs".to_owned(), other.to_owned())];
        shared(&files).into_keys().collect::<Vec<_>>()
    };
    for other in
        ["enum Gate {}", "trait Gate {}", "mod c { struct Gate; }", "pin_project! { pub struct Gate<B> { b: B } }"]
    {
        assert_eq!(names("struct Gate;", other), ["Gate"], "{other}");
    }
    for other in ["struct Door;", "use super::Gate;", "#[cfg(test)] mod tests { struct Gate; }", "fn gate() {}"] {
        assert_eq!(names("struct Gate;", other), Vec::<String>::new(), "{other}");
    }
}
