//! Path templates such as `/v1/{name=shelves/*}/books:search`, and the tree that finds a path's binding.
//!
//! Knows: the grammar of google/api/http.proto.   Does not know: messages, services.
//!
//! ```text
//! Template = "/" Segments [ ":" LITERAL ]      Segments = Segment { "/" Segment }
//! Segment  = "*" | "**" | LITERAL | Variable   Variable = "{" FieldPath [ "=" Segments ] "}"
//! ```
//! Where several templates fit a path, a literal goes before `*`, and `*` before `**`.

use std::collections::HashMap;
use std::ops::Range;

use percent_encoding::percent_decode_str;

/// One template, parsed.
#[derive(Debug, PartialEq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    /// What stands after the last `:`; empty = nothing.
    verb: String,
    pub variables: Vec<Variable>,
}

#[derive(Debug, PartialEq)]
enum Segment {
    Literal(String),
    /// `*`: one segment, not empty.
    One,
    /// `**`: all that is left, perhaps nothing. Always the last.
    Rest,
}

/// A field that takes its value from the path.
#[derive(Debug, PartialEq)]
pub(super) struct Variable {
    /// Names of the field and those it lies in, outermost first.
    pub field: Vec<String>,
    /// The segments of the template it stands for.
    segments: Range<usize>,
}

impl Template {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser {
            rest: text,
            template: Self {
                segments: Vec::new(),
                verb: String::new(),
                variables: Vec::new(),
            },
        };
        parser.run().map_err(|what| {
            let at = text.len() - parser.rest.len() + 1;
            format!("the path template {text:?} is wrong at character {at}: {what}")
        })?;
        Ok(parser.template)
    }

    /// The variables' values in a path that fits, in the order of `variables`.
    ///
    /// # Errors
    /// A value is no UTF-8.
    fn values(&self, path: &[&str]) -> Result<Vec<String>, String> {
        let values = self.variables.iter().map(|variable| {
            let Range { start, end } = variable.segments.clone();
            let single = end - start == 1 && self.segments[start] != Segment::Rest;
            let end = match self.segments[end - 1] {
                Segment::Rest => path.len(),
                _ => end,
            };
            // As the specification wants it: an escaped slash of a value that spans segments stays escaped.
            let pieces = path[start..end].iter().map(|segment| match single {
                true => decoded(segment),
                false => decoded(&segment.replace("%2F", "%252F").replace("%2f", "%252f")),
            });
            Ok(pieces.collect::<Result<Vec<_>, String>>()?.join("/"))
        });
        values.collect()
    }
}

fn decoded(segment: &str) -> Result<String, String> {
    let text = percent_decode_str(segment).decode_utf8();
    text.map(Into::into)
        .map_err(|_| format!("the part {segment:?} of the path is no UTF-8"))
}

struct Parser<'a> {
    rest: &'a str,
    template: Template,
}

impl Parser<'_> {
    fn run(&mut self) -> Result<(), String> {
        if !self.eat('/') {
            return Err("it has to begin with '/'".into());
        }
        self.segments(false)?;
        if self.eat(':') {
            self.template.verb = self.word("a verb", |c| c != '/' && c != ':')?;
        }
        match self.rest.chars().next() {
            None => Ok(()),
            Some(c) => Err(format!("'{c}' is not expected here")),
        }
    }

    fn segments(&mut self, inside: bool) -> Result<(), String> {
        loop {
            if self.template.segments.last() == Some(&Segment::Rest) {
                return Err("nothing may follow '**'".into());
            }
            self.segment(inside)?;
            if !self.eat('/') {
                return Ok(());
            }
        }
    }

    fn segment(&mut self, inside: bool) -> Result<(), String> {
        if self.eat('{') {
            if inside {
                return Err("a variable cannot hold another".into());
            }
            return self.variable();
        }
        let segment = if self.eat('*') {
            match self.eat('*') {
                true => Segment::Rest,
                false => Segment::One,
            }
        } else {
            Segment::Literal(self.word("a segment", |c| !"/{}*:=".contains(c))?)
        };
        self.template.segments.push(segment);
        Ok(())
    }

    fn variable(&mut self) -> Result<(), String> {
        let mut field = Vec::new();
        loop {
            field.push(self.word("a field's name", |c| c.is_ascii_alphanumeric() || c == '_')?);
            if !self.eat('.') {
                break;
            }
        }
        let start = self.template.segments.len();
        if self.eat('=') {
            self.segments(true)?;
        } else {
            self.template.segments.push(Segment::One);
        }
        if !self.eat('}') {
            return Err("'}' is missing".into());
        }
        let segments = start..self.template.segments.len();
        self.template.variables.push(Variable { field, segments });
        Ok(())
    }

    fn word(&mut self, what: &str, of: impl Fn(char) -> bool) -> Result<String, String> {
        let end = self.rest.find(|c| !of(c)).unwrap_or(self.rest.len());
        if end == 0 {
            return Err(format!("{what} is missing"));
        }
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(word.to_owned())
    }

    fn eat(&mut self, wanted: char) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

/// Templates by their segments.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
    ends: Vec<End>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, Node>,
    one: Option<Box<Node>>,
    rest: Option<Box<Node>>,
    /// Where templates end here, as indices into [`Tree::ends`].
    ends: Vec<usize>,
}

#[derive(Debug)]
struct End {
    /// HTTP's method; `*` = any.
    method: String,
    template: Template,
}

/// What a path leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Search {
    /// The template with this number (they are counted as they were added), and its variables' values.
    Found(usize, Vec<String>),
    /// The path fits, but to these methods: a value for `Allow`.
    OtherMethod(String),
    Nothing,
}

impl Tree {
    /// # Errors
    /// One that fits exactly the same requests is there already.
    pub fn add(&mut self, method: &str, template: Template) -> Result<usize, String> {
        let mut node = &mut self.root;
        for segment in &template.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
                Segment::One => node.one.get_or_insert_default(),
                Segment::Rest => node.rest.get_or_insert_default(),
            };
        }
        let same = |end: &usize| {
            let end = &self.ends[*end];
            end.method == method && end.template.verb == template.verb
        };
        if node.ends.iter().any(same) {
            return Err("another method answers the same requests".into());
        }
        let number = self.ends.len();
        node.ends.push(number);
        self.ends.push(End {
            method: method.to_owned(),
            template,
        });
        Ok(number)
    }

    /// The binding of a request: its path as written, without the query.
    ///
    /// # Errors
    /// A part of the path is no UTF-8 once decoded.
    pub fn find(&self, method: &str, path: &str) -> Result<Search, String> {
        let Some(path) = path.strip_prefix('/') else {
            return Ok(Search::Nothing);
        };
        let mut allowed = Vec::new();
        // What stands after the last ':' is a verb, or else part of the last segment.
        let with_verb = path
            .rsplit_once(':')
            .filter(|(_, verb)| !verb.contains('/'));
        for (path, verb) in with_verb.into_iter().chain([(path, "")]) {
            let segments: Vec<&str> = path.split('/').collect();
            let mut fits = |end: &End| {
                if end.template.verb != verb {
                    return false;
                }
                allowed.push(end.method.clone());
                end.method == method || end.method == "*"
            };
            if let Some(number) = self.descend(&self.root, &segments, &mut fits) {
                let values = self.ends[number].template.values(&segments)?;
                return Ok(Search::Found(number, values));
            }
        }
        if allowed.is_empty() {
            return Ok(Search::Nothing);
        }
        allowed.sort_unstable();
        allowed.dedup();
        Ok(Search::OtherMethod(allowed.join(", ")))
    }

    /// Depth first; a level of the tree has three ways on, and its depth is that of the templates.
    fn descend(
        &self,
        node: &Node,
        path: &[&str],
        fits: &mut impl FnMut(&End) -> bool,
    ) -> Option<usize> {
        let here = |node: &Node, fits: &mut dyn FnMut(&End) -> bool| {
            let mut ends = node.ends.iter().copied();
            ends.find(|end| fits(&self.ends[*end]))
        };
        let deeper = match path.split_first() {
            None => here(node, fits),
            Some((first, rest)) => {
                let literal = node.literals.get(*first);
                let one = node.one.as_deref().filter(|_| !first.is_empty());
                literal
                    .and_then(|node| self.descend(node, rest, fits))
                    .or_else(|| one.and_then(|node| self.descend(node, rest, fits)))
            }
        };
        deeper.or_else(|| node.rest.as_deref().and_then(|node| here(node, fits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(templates: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (method, template) in templates {
            tree.add(method, Template::parse(template).unwrap())
                .unwrap();
        }
        tree
    }

    fn found(number: usize, values: &[&str]) -> Result<Search, String> {
        let values = values.iter().map(|value| (*value).to_owned());
        Ok(Search::Found(number, values.collect()))
    }

    #[test]
    fn the_most_literal_template_wins() {
        let tree = tree(&[
            ("GET", "/v1/{name=shelves/*}"),
            ("GET", "/v1/shelves/all"),
            ("GET", "/v1/{path=**}"),
            ("GET", "/v1/{shelf}/books/{book.id}"),
        ]);
        assert_eq!(tree.find("GET", "/v1/shelves/7"), found(0, &["shelves/7"]));
        assert_eq!(tree.find("GET", "/v1/shelves/all"), found(1, &[]));
        assert_eq!(tree.find("GET", "/v1/a/b/c/d"), found(2, &["a/b/c/d"]));
        assert_eq!(tree.find("GET", "/v1"), found(2, &[""]));
        assert_eq!(tree.find("GET", "/v1/s/books/9"), found(3, &["s", "9"]));
        assert_eq!(tree.find("GET", "/v2/s"), Ok(Search::Nothing));
    }

    #[test]
    fn a_verb_is_part_of_the_request_and_a_colon_may_be_part_of_a_value() {
        let tree = tree(&[("POST", "/v1/{name}:undelete"), ("POST", "/v1/{name}")]);
        assert_eq!(tree.find("POST", "/v1/x:undelete"), found(0, &["x"]));
        assert_eq!(tree.find("POST", "/v1/x:other"), found(1, &["x:other"]));
    }

    #[test]
    fn escapes_are_decoded_but_for_slashes_in_values_of_several_segments() {
        let tree = tree(&[("GET", "/a/{one}"), ("GET", "/b/{many=**}")]);
        let one = tree.find("GET", "/a/x%2Fy%20z");
        assert_eq!(one, found(0, &["x/y z"]));
        let many = tree.find("GET", "/b/x%2Fy/%E4%BD%A0");
        assert_eq!(many, found(1, &["x%2Fy/你"]));
        assert!(tree.find("GET", "/a/%FF").unwrap_err().contains("%FF"));
    }

    #[test]
    fn another_method_is_told_which_ones_are_answered() {
        let tree = tree(&[("PUT", "/v1/{a}"), ("DELETE", "/v1/{a}"), ("*", "/any")]);
        let allow = Search::OtherMethod("DELETE, PUT".into());
        assert_eq!(tree.find("GET", "/v1/x"), Ok(allow));
        assert_eq!(tree.find("BREW", "/any"), found(2, &[]));
    }

    #[test]
    fn the_same_requests_cannot_lead_to_two_places() {
        let mut tree = tree(&[("GET", "/v1/{a}")]);
        let again = Template::parse("/v1/{b=*}").unwrap();
        assert!(tree.add("GET", again).is_err());
        let verb = Template::parse("/v1/{b}:x").unwrap();
        assert_eq!(tree.add("GET", verb), Ok(1));
    }

    #[test]
    fn a_wrong_template_is_refused_with_its_place() {
        for (text, place) in [
            ("v1", "character 1"),
            ("/v1/", "character 5"),
            ("/{a", "character 4"),
            ("/{a=b/{c}}", "cannot hold another"),
            ("/**/a", "nothing may follow"),
            ("/{}", "field's name"),
            ("/a:", "a verb"),
            ("/a{b}", "not expected"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(place), "{error}");
        }
    }
}
