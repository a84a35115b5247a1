//! What a source of the service names, found by parsing it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Ident, ItemMod, ItemUse, Macro, MetaList, UseTree, Visibility,
    buffer::{Cursor, TokenBuffer},
    visit::{self, Visit},
};

/// How often an import is followed to another one.
const IMPORTS_FOLLOWED_MAX: usize = 4;

/// The names of a module or an item, from the root of its crate.
pub(super) type Names = Vec<String>;

/// The sources below a folder of the repository, each with its path below that folder and its text.
pub(super) fn sources(folder: &str) -> Vec<(String, String)> {
    fn files(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                files(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    files(&root, &mut found);
    found.sort();
    let name = |path: &Path| path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
    found.iter().map(|path| (name(path), fs::read_to_string(path).expect("UTF-8"))).collect()
}

/// The module that a file of `src/` is; the root of the crate for `lib.rs` and `main.rs`.
pub(super) fn module_of(file: &str) -> Names {
    let parts = file.trim_end_matches(".rs").split('/');
    parts.filter(|part| !matches!(*part, "mod" | "lib" | "main")).map(str::to_owned).collect()
}

/// A path that a source names.
#[derive(Debug)]
pub(super) struct Named {
    /// The path as it is written, with the branches of a `use` each by itself.
    pub(super) written: Names,
    /// The same path with imports followed, from the root of the crate that it leads into.
    pub(super) absolute: Names,
    /// Whether it leads into this crate.
    pub(super) is_ours: bool,
}

/// All that a source names.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) paths: Vec<Named>,
    pub(super) words: BTreeSet<String>,
}

impl Source {
    /// Parses a file of `src/`; `modules` are those of the crate.
    pub(super) fn parse(file: &str, text: &str, modules: &BTreeSet<Names>) -> Self {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut reader = Reader { module: module_of(file), ..Reader::default() };
        reader.visit_file(&parsed);
        let paths = reader.found.iter().map(|(module, written)| {
            let (absolute, is_ours) = match reader.absolute(module, written, modules, IMPORTS_FOLLOWED_MAX) {
                Ok(ours) => (ours, true),
                Err(foreign) => (foreign, false),
            };
            Named { written: written.clone(), absolute, is_ours }
        });
        Self { paths: paths.collect(), words: reader.words.clone() }
    }
}

/// Walks through a parsed file, and through the tokens of macros, which are not parsed.
#[derive(Default)]
struct Reader {
    module: Names,
    /// Paths as they are written, each with the module where it is.
    found: Vec<(Names, Names)>,
    /// What a module imports under a name.
    imports: BTreeMap<(Names, String), Names>,
    words: BTreeSet<String>,
}

impl Reader {
    fn add(&mut self, path: Names) {
        self.found.push((self.module.clone(), path));
    }

    fn import(&mut self, name: &Ident, path: Names) {
        self.imports.insert((self.module.clone(), name.to_string()), path.clone());
        self.add(path);
    }

    fn use_tree(&mut self, tree: &UseTree, mut prefix: Names) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.use_tree(&path.tree, prefix);
            }
            UseTree::Name(name) if name.ident == "self" => {
                let last = prefix.last().expect("a path before self").clone();
                self.imports.insert((self.module.clone(), last), prefix.clone());
                self.add(prefix);
            }
            UseTree::Name(name) => {
                prefix.push(name.ident.to_string());
                self.import(&name.ident, prefix);
            }
            UseTree::Rename(rename) => {
                if rename.ident != "self" {
                    prefix.push(rename.ident.to_string());
                }
                self.import(&rename.rename, prefix);
            }
            UseTree::Glob(_) => self.add(prefix),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.use_tree(tree, prefix.clone());
                }
            }
        }
    }

    /// The paths among tokens: words with `::` between them.
    fn tokens(&mut self, mut rest: Cursor) {
        while !rest.eof() {
            if let Some((word, mut next)) = rest.ident() {
                let mut path = vec![word.to_string()];
                while let Some((word, after)) = after_separator(next).and_then(Cursor::ident) {
                    path.push(word.to_string());
                    next = after;
                }
                self.words.extend(path.iter().cloned());
                self.add(path);
                rest = next;
            } else if let Some((inside, _, _, next)) = rest.any_group() {
                self.tokens(inside);
                rest = next;
            } else {
                rest = rest.token_tree().expect("not the end").1;
            }
        }
    }

    /// Where a path that is written in `module` leads: into this crate, or else into another one.
    fn absolute(
        &self,
        module: &[String],
        written: &[String],
        modules: &BTreeSet<Names>,
        follow: usize,
    ) -> Result<Names, Names> {
        let first = written.first().expect("a path has a name");
        let (mut from, mut rest) = (module.to_vec(), written);
        match first.as_str() {
            "crate" => return Ok(written[1..].to_vec()),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    from.pop();
                    rest = &rest[1..];
                }
            }
            _ => {
                if let Some(import) = self.imports.get(&(from.clone(), first.clone()))
                    && import[..] != *written
                    && follow > 0
                {
                    let join = |import: Names| [&import[..], &written[1..]].concat();
                    return self.absolute(module, import, modules, follow - 1).map(join).map_err(join);
                }
                let child = [&from[..], std::slice::from_ref(first)].concat();
                if written.len() == 1 || !modules.contains(&child) {
                    return Err(written.to_vec());
                }
            }
        }
        Ok([&from[..], rest].concat())
    }
}

/// What follows a `::`, if that is next.
fn after_separator(cursor: Cursor) -> Option<Cursor> {
    let (first, next) = cursor.punct()?;
    let (second, next) = next.punct()?;
    (first.as_char() == ':' && second.as_char() == ':').then_some(next)
}

impl Visit<'_> for Reader {
    fn visit_item_mod(&mut self, module: &ItemMod) {
        if module.content.is_some() {
            self.module.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.module.pop();
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        self.use_tree(&item.tree, Vec::new());
        visit::visit_item_use(self, item);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_ident(&mut self, word: &Ident) {
        self.words.insert(word.to_string());
    }

    fn visit_macro(&mut self, called: &Macro) {
        visit::visit_macro(self, called);
        self.tokens(TokenBuffer::new2(called.tokens.clone()).begin());
    }

    fn visit_meta_list(&mut self, list: &MetaList) {
        visit::visit_meta_list(self, list);
        self.tokens(TokenBuffer::new2(list.tokens.clone()).begin());
    }

    // who may see an item is no dependency
    fn visit_visibility(&mut self, _: &Visibility) {}
}
