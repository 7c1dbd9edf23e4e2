//! What the documents say is so: code, commands, links and figures.
//!
//! Knows: Markdown as lines. Does not know: prose; a claim in a sentence is the author's to keep.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use tests::{bin, root, run};

/// The documents a reader is led through.
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "rpc-core/README.md",
    "ARCHITECTURE.md",
    "wechat-demo/ARCHITECTURE.md",
    "wechat-demo/OPERATIONS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
];

#[test]
fn code_in_the_readme_is_that_of_the_examples() -> io::Result<()> {
    let readme = read("README.md")?;
    let marked = marked(&readme, "<!-- examples/", ".rs -->");
    assert!(
        marked.len() >= 2,
        "the README shows a service and a client, each under its file's name"
    );
    for (file, below) in marked {
        let file = format!("examples/{file}.rs");
        let fence = below
            .strip_prefix("```rust\n")
            .and_then(|rest| rest.split_once("```\n"));
        let (shown, _) = fence.unwrap_or_else(|| panic!("no ```rust block right under {file}"));
        assert_eq!(
            shown,
            without_front_page(&read(&file)?),
            "README.md shows another {file}: copy it anew, its `//!` lines left out"
        );
    }
    Ok(())
}

#[test]
fn commands_in_the_documents_exist() -> io::Result<()> {
    let mut wanted = BTreeSet::new();
    for document in DOCUMENTS {
        wanted.extend(read(document)?.lines().filter_map(asked_for));
    }
    let known = |of: &str| help(&mut Command::new(bin(of)));
    let (xtask, demo) = (known("xtask")?, known("wechat-demo")?);
    assert!(
        wanted.contains(&Asked::Xtask("test".into())) && wanted.contains(&Asked::Demo("up".into()))
    );
    for asked in wanted {
        match asked {
            Asked::Xtask(name) => assert!(
                xtask.contains(&name),
                "cargo xtask has no `{name}`: {xtask:?}"
            ),
            Asked::Demo(name) => assert!(
                demo.contains(&name),
                "wechat-demo has no `{name}`: {demo:?}"
            ),
            Asked::Example(name) => {
                let file = root().join(format!("examples/src/bin/{name}.rs"));
                assert!(
                    file.exists(),
                    "no example {name}: {} is absent",
                    file.display()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn links_in_the_documents_lead_somewhere() -> io::Result<()> {
    for document in DOCUMENTS {
        let text = read(document)?;
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let folder = Path::new(document)
                .parent()
                .expect("a file lies in a folder");
            assert!(
                root().join(folder).join(target).exists(),
                "{document} links to {target}, which is not there"
            );
        }
    }
    Ok(())
}

/// Each row of the guide's table of libraries ends with the test that shows it.
#[test]
fn every_library_of_the_guide_is_backed_by_a_test() -> io::Result<()> {
    let guide = read("rpc-core/README.md")?;
    let (_, below) = guide
        .split_once("| library | works |")
        .expect("the guide has a table of libraries");
    let rows: Vec<&str> = below
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() > 10, "only {} libraries", rows.len());
    for row in rows {
        let test = last_cell(row);
        assert!(test.contains("::"), "this row names no test:\n{row}");
        assert_is_a_test(test, row)?;
    }
    Ok(())
}

/// Each row of the hooks' table of intended differences as well; its modules are those of `hooks`.
#[test]
fn every_intended_difference_is_backed_by_a_test() -> io::Result<()> {
    let page = read("rpc-core/src/hook/mod.rs")?;
    let (_, below) = page
        .split_once("//! | call in a coroutine |")
        .expect("the front page of the hooks has a table of differences");
    let rows: Vec<&str> = below
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with("//! |"))
        .collect();
    assert!(rows.len() > 10, "only {} differences", rows.len());
    for row in rows {
        match last_cell(row) {
            "the same" => {}
            test if test.starts_with("identity::") => assert_is_a_test(test, row)?,
            test => assert_is_a_test(&format!("hooks::{test}"), row)?,
        }
    }
    Ok(())
}

/// What the last cell of a row says, without its backquotes.
fn last_cell(row: &str) -> &str {
    let cell = row.split('|').rev().nth(1).unwrap_or_default();
    cell.trim().trim_matches('`')
}

/// Fails if the suite has no test of this path; says which row names it.
fn assert_is_a_test(path: &str, row: &str) -> io::Result<()> {
    let (module, name) = path.rsplit_once("::").unwrap_or(("", path));
    let source = read(&format!("tests/suite/{}.rs", module.replace("::", "/")))?;
    assert!(
        source.contains(&format!("\nfn {name}(")),
        "there is no test `{name}` in {module}; the row:\n{row}"
    );
    Ok(())
}

/// A figure in the README is one of the committed report, so it has a date, a machine and peers: each
/// row has the cells of one of the report's rows, some left out.
#[test]
fn figures_in_the_readme_are_those_of_the_committed_report() -> io::Result<()> {
    let readme = read("README.md")?;
    let marked = marked(&readme, "<!-- docs/", ".md -->");
    assert!(
        !marked.is_empty(),
        "the README shows figures under the report's name"
    );
    for (report, below) in marked {
        let report = format!("docs/{report}.md");
        let text = read(&report)?;
        for line in below.lines().take_while(|line| !line.is_empty()) {
            let known = is_rule(line) || text.lines().any(|full| is_part_of(line, full));
            assert!(
                known,
                "README.md shows a line that {report} does not have; copy it anew:\n{line}"
            );
        }
    }
    Ok(())
}

/// What a line of a document tells the reader to run.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Xtask(String),
    Demo(String),
    Example(String),
}

fn asked_for(line: &str) -> Option<Asked> {
    let at = line
        .find("cargo xtask ")
        .or_else(|| line.find("cargo run "))?;
    let words: Vec<&str> = line[at..]
        .split(|c: char| c.is_whitespace() || "`'\";,)".contains(c))
        .collect();
    let after = |word: &str| {
        let index = words.iter().position(|w| *w == word)?;
        Some((*words.get(index + 1)?).to_owned())
    };
    if words.get(1) == Some(&"xtask") {
        after("xtask").map(Asked::Xtask)
    } else if words.contains(&"wechat-demo") {
        after("--").map(Asked::Demo)
    } else {
        after("--bin").map(Asked::Example)
    }
}

/// The subcommands a program's `--help` lists, read from the lines under `Commands:`.
fn help(command: &mut Command) -> io::Result<BTreeSet<String>> {
    let (status, out, err) = run(command.arg("--help"))?;
    assert!(status.success(), "--help failed: {err}");
    let lines = out.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    Ok(lines
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect())
}

/// For each comment `before` NAME `after` on a line of its own: NAME, and the text below it.
fn marked<'a>(text: &'a str, before: &str, after: &str) -> Vec<(&'a str, &'a str)> {
    let named = |(at, _)| {
        let (line, below) = text[at..].split_once('\n')?;
        Some((line.strip_prefix(before)?.strip_suffix(after)?, below))
    };
    text.match_indices(before).filter_map(named).collect()
}

/// A file from its first line of code on.
fn without_front_page(text: &str) -> String {
    let code = text
        .lines()
        .skip_while(|line| line.starts_with("//!") || line.is_empty());
    code.map(|line| format!("{line}\n")).collect()
}

/// `| --- | --- |`
fn is_rule(line: &str) -> bool {
    line.starts_with('|') && line.chars().all(|c| " |-".contains(c))
}

/// The cells of `line` are cells of `full`, in their order; a line that is no row is the same.
fn is_part_of(line: &str, full: &str) -> bool {
    let mut cells = full.split('|').map(str::trim);
    line.split('|')
        .map(str::trim)
        .all(|wanted| cells.any(|cell| cell == wanted))
}

fn read(name: &str) -> io::Result<String> {
    let path = root().join(name);
    fs::read_to_string(&path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

#[test]
fn asked_for_finds_commands_in_prose_and_in_blocks() {
    let example = asked_for("cargo run -p examples --bin greeter_server   # then the client");
    assert_eq!(example, Some(Asked::Example("greeter_server".into())));
    let demo = asked_for("run `cargo run --release -p wechat-demo -- up`, then look");
    assert_eq!(demo, Some(Asked::Demo("up".into())));
    assert_eq!(
        asked_for("(`cargo xtask bench --commit-report`)"),
        Some(Asked::Xtask("bench".into()))
    );
    assert_eq!(asked_for("cargo test -p tests"), None);
}

#[test]
fn a_row_with_cells_left_out_is_part_of_its_row_alone() {
    let full = "| a | side  | 12.0 (1–2) | 3 |";
    assert!(is_part_of("| a | 12.0 (1–2) |", full) && is_part_of(full, full));
    assert!(!is_part_of("| a | 12.1 |", full) && !is_part_of("| 3 | a |", full));
    assert!(!is_part_of("- date: 1", "- date: 2") && is_part_of("- date: 1", "- date: 1"));
}
