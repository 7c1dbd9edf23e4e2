//! Rust source as a stream of tokens, read well enough to hold a few house rules.
//!
//! Knows: comments, string and character literals, braces, paths, attributes.
//! Does not know: types, macros' output, name resolution. A file that fools it on purpose can; a file
//! written in good faith cannot, and the compiler holds what must hold against malice.

/// One source file of the workspace.
pub(super) struct Source {
    /// Path from the workspace's root, with `/`.
    pub(super) path: String,
    /// The file as it is.
    pub(super) text: String,
    /// Its tokens, comments and literals left out.
    tokens: Vec<Token>,
}

/// An identifier, or one character of punctuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// Inside an item under `#[cfg(test)]`.
    in_test: bool,
}

/// A path as written (`crate::base::{time, rng}` gives two), relative ones resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    /// `crate::name!(…)`, or `crate::__name` in a re-export: macros by example live at the root,
    /// whatever file holds them.
    pub(super) root_macro: bool,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    /// From the line of `fn` to that of the closing brace, both counted.
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokenize(&blank(text));
        mark_tests(&mut tokens);
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tokens,
        }
    }

    /// Every token, tests included.
    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The tokens that ship: without what stands under `#[cfg(test)]`, and without the files that hold
    /// tests by their name.
    pub(super) fn shipped(&self) -> Vec<Token> {
        let of_tests = ["/tests.rs", "_tests.rs"]
            .iter()
            .any(|name| self.path.ends_with(name));
        if of_tests || self.path.contains("/src/tests/") {
            return Vec::new();
        }
        self.tokens.iter().filter(|t| !t.in_test).cloned().collect()
    }

    /// `rpc-core/src/runtime/park.rs` is `["runtime", "park"]`; `lib.rs` and `main.rs` are empty.
    pub(super) fn module(&self) -> Vec<String> {
        let inner = self
            .path
            .split_once("/src/")
            .map_or(self.path.as_str(), |(_, inner)| inner);
        let mut parts: Vec<String> = inner
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        let last = parts.last().map_or("", String::as_str);
        if last == "mod" || (parts.len() == 1 && (last == "lib" || last == "main")) {
            parts.pop();
        }
        parts
    }

    /// All paths of the shipped code, `self` and `super` resolved to `crate`.
    pub(super) fn paths(&self) -> Vec<Path> {
        PathReader {
            tokens: &self.shipped(),
            at: 0,
            module: self.module(),
            inline: Vec::new(),
        }
        .read()
    }

    /// All functions that have a body, tests included.
    pub(super) fn functions(&self) -> Vec<Function> {
        let tokens = self.tokens();
        (0..tokens.len())
            .filter_map(|at| function_at(tokens, at))
            .collect()
    }
}

/// Replaces comments and literals by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end > at {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|&c| if c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    let after_word = at > 0 && is_word(chars[at - 1]);
    match chars[at] {
        '/' if next == Some('/') => find(chars, at, |c| c == '\n'),
        '/' if next == Some('*') => block_comment_end(chars, at),
        '"' => quoted_end(chars, at + 1, '"'),
        'r' | 'b' | 'c' if !after_word => prefixed_end(chars, at),
        '\'' => char_end(chars, at),
        _ => at,
    }
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') if depth == 1 => return at + 2,
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    chars.len()
}

/// `r"…"`, `br#"…"#`, `b"…"`, `c"…"`, `b'…'`; a raw identifier or a plain word gives `start`.
fn prefixed_end(chars: &[char], start: usize) -> usize {
    let word_end = find(chars, start, |c| !matches!(c, 'r' | 'b' | 'c'));
    let raw = chars[start..word_end].contains(&'r');
    let hashes_end = find(chars, word_end, |c| c != '#');
    match chars.get(hashes_end) {
        Some('"') if raw => raw_end(chars, hashes_end + 1, hashes_end - word_end),
        Some('"') if hashes_end == word_end => quoted_end(chars, word_end + 1, '"'),
        Some('\'') if chars[start..word_end] == ['b'] && hashes_end == word_end => {
            quoted_end(chars, word_end + 1, '\'')
        }
        _ => start,
    }
}

fn raw_end(chars: &[char], start: usize, hashes: usize) -> usize {
    let closes = |at: usize| {
        chars[at] == '"'
            && chars.len() >= at + 1 + hashes
            && chars[at + 1..=at + hashes].iter().all(|&c| c == '#')
    };
    (start..chars.len())
        .find(|&at| closes(at))
        .map_or(chars.len(), |at| at + 1 + hashes)
}

fn quoted_end(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Tells `'x'` from the lifetime `'x`.
fn char_end(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => quoted_end(chars, start + 1, '\''),
        (Some(_), Some('\'')) => start + 3,
        _ => start,
    }
}

fn find(chars: &[char], start: usize, stop: impl Fn(char) -> bool) -> usize {
    (start..chars.len())
        .find(|&at| stop(chars[at]))
        .unwrap_or(chars.len())
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn tokenize(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut word = String::new();
        for c in line.chars().chain([' ']) {
            if is_word(c) {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                let text = std::mem::take(&mut word);
                tokens.push(Token {
                    text,
                    line: index + 1,
                    in_test: false,
                });
            }
            if !c.is_whitespace() {
                tokens.push(Token {
                    text: c.to_string(),
                    line: index + 1,
                    in_test: false,
                });
            }
        }
    }
    tokens
}

/// Marks each item that stands under `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        let Some(attribute_end) = attribute_end(tokens, at) else {
            at += 1;
            continue;
        };
        let words: Vec<&str> = tokens[at..attribute_end]
            .iter()
            .map(|t| t.text.as_str())
            .collect();
        let of_test = words.contains(&"cfg") && words.contains(&"test") && !words.contains(&"not");
        let end = if of_test {
            item_end(tokens, attribute_end)
        } else {
            attribute_end
        };
        if of_test {
            tokens[at..end].iter_mut().for_each(|t| t.in_test = true);
        }
        at = end;
    }
}

/// The index after `#[…]` or `#![…]` when one starts at `at`.
fn attribute_end(tokens: &[Token], at: usize) -> Option<usize> {
    let inner = usize::from(text_at(tokens, at + 1) == "!");
    (text_at(tokens, at) == "#" && text_at(tokens, at + 1 + inner) == "[")
        .then(|| close_of(tokens, at + 1 + inner) + 1)
}

/// The index after the item at `at`: its `;`, or the brace that closes its body.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while let Some(end) = attribute_end(tokens, at) {
        at = end;
    }
    if text_at(tokens, at) == "pub" {
        at += 1;
        if text_at(tokens, at) == "(" {
            at = close_of(tokens, at) + 1;
        }
    }
    let is_use = text_at(tokens, at) == "use";
    while at < tokens.len() {
        match text_at(tokens, at) {
            ";" => return at + 1,
            "{" if !is_use => return close_of(tokens, at) + 1,
            "(" | "[" | "{" => at = close_of(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

/// The index of the bracket that closes the one at `open`; the last token when none does.
fn close_of(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth <= 1 => return at,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
    }
    tokens.len().saturating_sub(1)
}

fn function_at(tokens: &[Token], at: usize) -> Option<Function> {
    let name = text_at(tokens, at + 1);
    if text_at(tokens, at) != "fn" || !name.starts_with(is_word) {
        return None;
    }
    let mut body = at + 2;
    while body < tokens.len() {
        match text_at(tokens, body) {
            "{" => {
                let (first, last) = (tokens[at].line, tokens[close_of(tokens, body)].line);
                return Some(Function {
                    name: name.to_owned(),
                    line: first,
                    lines: last - first + 1,
                });
            }
            ";" => return None,
            "(" | "[" => body = close_of(tokens, body) + 1,
            _ => body += 1,
        }
    }
    None
}

fn text_at(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |t| t.text.as_str())
}

/// Walks the tokens once and collects every path.
struct PathReader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// The file's module.
    module: Vec<String>,
    /// Inline modules we are in: name, and the index of the closing brace.
    inline: Vec<(String, usize)>,
}

impl PathReader<'_> {
    fn read(mut self) -> Vec<Path> {
        let mut found = Vec::new();
        while self.at < self.tokens.len() {
            let at = self.at;
            self.inline.retain(|(_, close)| *close > at);
            if self.text(at) == "mod" && self.text(at + 2) == "{" {
                let close = close_of(self.tokens, at + 2);
                self.inline.push((self.text(at + 1).to_owned(), close));
                self.at += 3;
            } else if self.text(at).starts_with(is_word) && self.joins(at + 1) {
                let line = self.tokens[at].line;
                for segments in self.tree() {
                    let segments = self.resolve(segments);
                    let root_macro = segments.len() == 2
                        && (self.text(self.at) == "!" || segments[1].starts_with("__"));
                    found.push(Path {
                        segments,
                        line,
                        root_macro,
                    });
                }
            } else {
                self.at += 1;
            }
        }
        found
    }

    fn text(&self, at: usize) -> &str {
        text_at(self.tokens, at)
    }

    /// `::` stands at `at`, and a name or a group follows.
    fn joins(&self, at: usize) -> bool {
        let after = self.text(at + 2);
        self.text(at) == ":"
            && self.text(at + 1) == ":"
            && (after.starts_with(is_word) || after == "{" || after == "*")
    }

    /// Reads `a::b::{c, d::e}` from `self.at`, leaving it after the path; one entry per leaf.
    fn tree(&mut self) -> Vec<Vec<String>> {
        let mut stem = vec![self.text(self.at).to_owned()];
        self.at += 1;
        while self.joins(self.at) {
            self.at += 2;
            if self.text(self.at) == "{" {
                return self.group(&stem);
            }
            stem.push(self.text(self.at).to_owned());
            self.at += 1;
        }
        vec![stem]
    }

    fn group(&mut self, stem: &[String]) -> Vec<Vec<String>> {
        let close = close_of(self.tokens, self.at);
        self.at += 1;
        let mut leaves = Vec::new();
        while self.at < close {
            let word = self.text(self.at).starts_with(is_word) || self.text(self.at) == "*";
            if word && self.text(self.at) == "as" {
                self.at += 2;
            } else if word {
                for leaf in self.tree() {
                    let leaf = if leaf == ["self"] { Vec::new() } else { leaf };
                    leaves.push([stem, &leaf].concat());
                }
            } else {
                self.at += 1;
            }
        }
        self.at = close + 1;
        leaves
    }

    /// `self::x` and `super::x` as `crate::…::x`; other paths stay as they are.
    fn resolve(&self, segments: Vec<String>) -> Vec<String> {
        let ups = segments
            .iter()
            .take_while(|s| *s == "super" || *s == "self")
            .count();
        if ups == 0 {
            return segments;
        }
        let supers = segments[..ups].iter().filter(|s| *s == "super").count();
        let mut base = self.module.clone();
        base.extend(self.inline.iter().map(|(name, _)| name.clone()));
        base.truncate(base.len().saturating_sub(supers));
        [vec!["crate".to_owned()], base, segments[ups..].to_vec()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(path: &str, text: &str) -> Vec<String> {
        Source::new(path, text)
            .paths()
            .into_iter()
            .map(|p| p.segments.join("::"))
            .collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = "let a = \"crate::b\"; // crate::c\n/* crate::d /* nested */ crate::e */\n\
                    let f = r#\"crate::g \" crate::h\"#; let i = b\"crate::j\"; let k = '\"'; crate::l::m();";
        assert_eq!(paths("x/src/y.rs", text), ["crate::l::m"]);
    }

    #[test]
    fn lifetimes_are_not_character_literals() {
        let text = "fn f<'a>(x: &'a str) -> &'a str { crate::g::h('\\'', '\\\\', b'\\'', x) }";
        assert_eq!(paths("x/src/y.rs", text), ["crate::g::h"]);
    }

    #[test]
    fn groups_renames_and_relative_paths_are_resolved() {
        let text = "use crate::{a::b as c, d::{self, e::*}};\nuse super::f::G;\nmod inner { use super::super::h::I; }";
        assert_eq!(
            paths("x/src/m/n.rs", text),
            [
                "crate::a::b",
                "crate::d",
                "crate::d::e::*",
                "crate::m::f::G",
                "crate::m::h::I"
            ]
        );
    }

    #[test]
    fn test_items_do_not_ship() {
        let text = "use crate::a::b;\n#[cfg(test)]\nuse crate::c::{d, e};\n#[cfg(test)]\n#[expect(x)]\n\
                    mod tests { use crate::f::g; }\n#[cfg(not(test))] use crate::h::i;";
        assert_eq!(paths("x/src/y.rs", text), ["crate::a::b", "crate::h::i"]);
    }

    #[test]
    fn functions_are_measured_from_fn_to_closing_brace() {
        let text = "trait T { fn no_body(&self) -> [u8; 4]; }\nfn f(\n  a: [u8; 2],\n) where u8: Copy {\n  if a { b }\n}\ntype P = fn(u8);";
        let functions = Source::new("x/src/y.rs", text).functions();
        assert_eq!(
            functions,
            [Function {
                name: "f".to_owned(),
                line: 2,
                lines: 5
            }]
        );
    }

    #[test]
    fn modules_follow_the_tree() {
        let module = |path| Source::new(path, "").module().join("::");
        assert_eq!(module("rpc-core/src/lib.rs"), "");
        assert_eq!(module("rpc-core/src/rpc/mod.rs"), "rpc");
        assert_eq!(
            module("rpc-core/src/rpc/server/serve.rs"),
            "rpc::server::serve"
        );
    }
}
