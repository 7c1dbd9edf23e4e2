//! The command, run as a user runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rpc-codegen"))
        .current_dir(directory)
        .args(arguments)
        .output()
        .unwrap()
}

fn told(output: &Output) -> (Option<i32>, String) {
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_correct_schema_is_generated_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("a.proto"),
        "syntax = \"proto3\";\npackage a;\nmessage M {}\n",
    )
    .unwrap();
    let output = run(directory.path(), &["--out", "new/out", "a.proto"]);
    assert_eq!(told(&output), (Some(0), String::new()));
    assert!(
        output.stdout.is_empty(),
        "nothing for cargo, which is not asking"
    );
    assert!(directory.path().join("new/out/a.rs").is_file());
}

#[test]
fn a_wrong_schema_and_wrong_arguments_have_their_own_exit_status() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("a.proto"),
        "syntax = \"proto3\";\nmess M {}\n",
    )
    .unwrap();
    let (status, text) = told(&run(directory.path(), &["--out", ".", "a.proto"]));
    assert_eq!(status, Some(1));
    assert!(text.starts_with("./a.proto:2:1: expected "), "{text}");

    let (status, text) = told(&run(directory.path(), &["--outt", "."]));
    assert_eq!(
        (status, text.as_str()),
        (
            Some(2),
            "rpc-codegen: unknown option --outt (see rpc-codegen --help)\n"
        )
    );
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.proto"), "syntax = \"proto3\";\n").unwrap();
    let (status, text) = told(&run(directory.path(), &["--out", "a.proto/out", "a.proto"]));
    assert_eq!(status, Some(1));
    assert!(
        text.starts_with("a.proto/out: cannot create the directory: "),
        "{text}"
    );
}
