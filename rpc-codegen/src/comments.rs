//! Comments of a schema, made fit for rustdoc.
//!
//! Knows: Markdown's code blocks, `SourceCodeInfo`.   Does not know: Rust code.
//!
//! Comments in `.proto` files show JSON, shell and protobuf text. rustdoc would take each indented or
//! unmarked block for Rust and run it as a test.

use std::collections::HashSet;

use prost_types::source_code_info::Location;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto};

/// Makes all comments of a file inert, and gives every element a location.
///
/// prost-build looks up each element's location and panics if one is missing, as it may be in a
/// descriptor set that another program made.
pub(crate) fn prepare(file: &mut FileDescriptorProto) {
    let paths = element_paths(file);
    let Some(info) = &mut file.source_code_info else {
        return;
    };
    for location in &mut info.location {
        for comment in [
            &mut location.leading_comments,
            &mut location.trailing_comments,
        ]
        .into_iter()
        .flatten()
        {
            *comment = inert(comment);
        }
    }
    let present: HashSet<Vec<i32>> = info
        .location
        .iter()
        .map(|location| location.path.clone())
        .collect();
    let missing = paths.into_iter().filter(|path| !present.contains(path));
    info.location.extend(missing.map(|path| Location {
        path,
        ..Location::default()
    }));
}

/// Marks every code block of a comment as text, unless it says which language it is in.
fn inert(comment: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut state = State::Text;
    for line in comment.lines() {
        let blank = line.trim().is_empty();
        let indented = !blank && indent(line) >= CODE_INDENT;
        if state == State::Indented && !blank && !indented {
            close(&mut lines);
            state = State::Text;
        }
        state = match (state, fence(line)) {
            (State::Text, Some(language)) => {
                let opening = line.trim_end();
                lines.push(match runs(language) {
                    true => format!("{}text", opening.trim_end_matches(language)),
                    false => opening.to_owned(),
                });
                State::Fenced
            }
            (State::Fenced, Some(_)) => {
                lines.push(line.to_owned());
                State::Text
            }
            (State::Text, None)
                if indented && lines.last().is_none_or(|last| ends_paragraph(last)) =>
            {
                lines.extend(["```text".to_owned(), line.to_owned()]);
                State::Indented
            }
            (state, _) => {
                lines.push(line.to_owned());
                state
            }
        };
    }
    if state != State::Text {
        close(&mut lines);
    }
    lines
        .iter()
        .flat_map(|line| [line.as_str(), "\n"])
        .collect()
}

/// Spaces that make a code block: Markdown's four after the one that opens every line, less the one that
/// prost-build adds to lines with more than one.
const CODE_INDENT: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum State {
    Text,
    /// Inside a block that indentation made, now between fences of ours.
    Indented,
    /// Inside a block with fences of its own.
    Fenced,
}

/// What stands after a line's opening or closing fence, if it is one.
fn fence(line: &str) -> Option<&str> {
    let line = line.trim();
    let rest = line
        .strip_prefix("```")
        .or_else(|| line.strip_prefix("~~~"))?;
    // More backticks on the same line make it a code span.
    (!rest.trim_start_matches('`').contains('`')).then_some(rest.trim_matches(['`', '~', ' ']))
}

/// Whether rustdoc would run a block of this language.
fn runs(language: &str) -> bool {
    language.is_empty() || language.to_ascii_lowercase().starts_with("rust")
}

/// Whether an indented line after this one begins a block; otherwise it goes on with a sentence.
fn ends_paragraph(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || fence(line).is_some()
}

/// Ends a block after its last line that is not blank.
fn close(lines: &mut Vec<String>) {
    let end = lines
        .iter()
        .rposition(|line| !line.trim().is_empty())
        .map_or(0, |last| last + 1);
    lines.insert(end, "```".to_owned());
}

/// Columns of white space before the first letter; a tab counts four.
fn indent(line: &str) -> usize {
    line.chars()
        .take_while(|letter| letter.is_whitespace())
        .map(|letter| if letter == '\t' { 4 } else { 1 })
        .sum()
}

/// The `SourceCodeInfo` paths of everything that can carry a comment.
fn element_paths(file: &FileDescriptorProto) -> Vec<Vec<i32>> {
    let mut paths = Vec::new();
    for (path, message) in below(&[], 4, &file.message_type) {
        message_paths(path, message, &mut paths);
    }
    for (path, item) in below(&[], 5, &file.enum_type) {
        enum_paths(path, item, &mut paths);
    }
    for (path, service) in below(&[], 6, &file.service) {
        paths.extend(below(&path, 2, &service.method).map(|(path, _)| path));
        paths.push(path);
    }
    paths
}

fn message_paths(path: Vec<i32>, message: &DescriptorProto, paths: &mut Vec<Vec<i32>>) {
    for (path, nested) in below(&path, 3, &message.nested_type) {
        message_paths(path, nested, paths);
    }
    for (path, item) in below(&path, 4, &message.enum_type) {
        enum_paths(path, item, paths);
    }
    paths.extend(below(&path, 2, &message.field).map(|(path, _)| path));
    paths.extend(below(&path, 8, &message.oneof_decl).map(|(path, _)| path));
    paths.push(path);
}

fn enum_paths(path: Vec<i32>, item: &EnumDescriptorProto, paths: &mut Vec<Vec<i32>>) {
    paths.extend(below(&path, 2, &item.value).map(|(path, _)| path));
    paths.push(path);
}

/// The items of field number `field` of the element at `parent`, with their paths.
fn below<'a, T>(
    parent: &[i32],
    field: i32,
    items: &'a [T],
) -> impl Iterator<Item = (Vec<i32>, &'a T)> {
    (0..)
        .zip(items)
        .map(move |(index, item)| ([parent, &[field, index]].concat(), item))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_stays_as_it_is() {
        let prose = " One line.\n\n - a list\n   that goes on\n";
        assert_eq!(inert(prose), prose);
    }

    #[test]
    fn an_indented_block_becomes_text() {
        let comment = " Example:\n\n    { \"a\": 1 }\n\n    { \"a\": 2 }\n\n Done.\n";
        let expected =
            " Example:\n\n```text\n    { \"a\": 1 }\n\n    { \"a\": 2 }\n```\n\n Done.\n";
        assert_eq!(inert(comment), expected);
        assert_eq!(
            inert(" # Head\n\tcode\n"),
            " # Head\n```text\n\tcode\n```\n"
        );
    }

    #[test]
    fn an_unmarked_fence_becomes_text_and_is_closed() {
        assert_eq!(inert("```\nlet x;\n```\n"), "```text\nlet x;\n```\n");
        assert_eq!(inert("```json\n{}\n```\n"), "```json\n{}\n```\n");
        assert_eq!(inert("```rust\npanic!()\n"), "```text\npanic!()\n```\n");
    }

    #[test]
    fn a_continued_line_is_not_a_block() {
        let comment = " see\n     the next line\n";
        assert_eq!(inert(comment), comment);
    }

    #[test]
    fn every_element_gets_a_location() {
        let field = |name: &str| prost_types::FieldDescriptorProto {
            name: Some(name.to_owned()),
            ..Default::default()
        };
        let mut file = FileDescriptorProto {
            message_type: vec![DescriptorProto {
                field: vec![field("a"), field("b")],
                nested_type: vec![DescriptorProto {
                    field: vec![field("c")],
                    ..Default::default()
                }],
                ..Default::default()
            }],
            source_code_info: Some(Default::default()),
            ..Default::default()
        };
        prepare(&mut file);
        let mut paths: Vec<_> = file
            .source_code_info
            .unwrap()
            .location
            .into_iter()
            .map(|it| it.path)
            .collect();
        paths.sort();
        assert_eq!(
            paths,
            [
                &[4, 0][..],
                &[4, 0, 2, 0],
                &[4, 0, 2, 1],
                &[4, 0, 3, 0],
                &[4, 0, 3, 0, 2, 0]
            ]
            .map(<[i32]>::to_vec)
        );
    }
}
