//! Wrong schemas, and the exact words about them.

use std::fs;
use std::path::Path;

use rpc_codegen::{Error, configure};

/// Generates from `files` (name and text), naming the first, and hands over what it is told.
fn failure(files: &[(&str, &str)]) -> Error {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    compile(directory.path(), files[0].0).expect_err("the schema is wrong")
}

fn compile(directory: &Path, name: &str) -> Result<(), Error> {
    let builder = configure()
        .out_dir(directory.join("out"))
        .emit_rerun_if_changed(false);
    builder.compile_protos(&[name], &[directory])
}

/// The message without the temporary directory.
fn explained(files: &[(&str, &str)]) -> String {
    let error = failure(files);
    let path = error.problems()[0].path.clone().unwrap_or_default();
    let directory = path.strip_suffix(files[0].0).unwrap_or_default();
    if directory.is_empty() {
        error.to_string()
    } else {
        error.to_string().replace(directory, "")
    }
}

const HEAD: &str =
    "syntax = \"proto3\";\npackage p;\nmessage HelloRequest {}\nmessage HelloReply {}\n";

fn service(methods: &str) -> String {
    format!("{HEAD}service Greeter {{\n{methods}\n}}\n")
}

#[test]
fn an_unknown_type_suggests_the_nearest_name() {
    let text = service("  rpc SayHello(HelloReqest) returns (HelloReply);");
    assert_eq!(
        explained(&[("a.proto", &text)]),
        "a.proto:6:16: name 'HelloReqest' is not defined\n    hint: did you mean 'HelloRequest'?"
    );
}

#[test]
fn a_type_of_no_known_name_asks_for_its_import() {
    let text = service("  rpc SayHello(Parcel) returns (HelloReply);");
    assert_eq!(
        explained(&[("a.proto", &text)]),
        "a.proto:6:16: name 'Parcel' is not defined\n    hint: define it, or import the file that does"
    );
}

#[test]
fn a_type_of_an_import_is_suggested_too() {
    let text =
        "syntax = \"proto3\";\nimport \"b.proto\";\nmessage M {\n  p.HelloRepl reply = 1;\n}\n";
    assert_eq!(
        explained(&[("a.proto", text), ("b.proto", HEAD)]),
        "a.proto:4:3: 'p.HelloRepl' resolves to 'p.HelloRepl', which is not defined\n    hint: did you mean 'HelloReply'?"
    );
}

#[test]
fn a_missing_import_says_where_it_was_looked_for() {
    let error = explained(&[(
        "a.proto",
        "syntax = \"proto3\";\nimport \"nowhere.proto\";\n",
    )]);
    assert!(
        error.starts_with("a.proto:2:1: import 'nowhere.proto' not found\n    hint: looked in "),
        "{error}"
    );
}

#[test]
fn an_error_in_an_import_names_the_import() {
    let files = [
        ("a.proto", "syntax = \"proto3\";\nimport \"b.proto\";\n"),
        ("b.proto", "syntax = \"proto3\";\nmess M {}\n"),
    ];
    let error = failure(&files);
    let problem = &error.problems()[0];
    assert!(
        problem.path.as_ref().unwrap().ends_with("b.proto"),
        "{error}"
    );
    assert_eq!(problem.position, Some((2, 1)));
}

#[test]
fn a_syntax_error_points_at_the_word() {
    assert_eq!(
        explained(&[(
            "a.proto",
            "syntax = \"proto3\";\n\n  message M { string name 1; }\n"
        )]),
        "a.proto:3:27: expected '=', but found '1'"
    );
}

#[test]
fn a_file_that_ends_too_soon_points_at_its_end() {
    let problem =
        failure(&[("a.proto", "syntax = \"proto3\";\nmessage M {")]).problems()[0].clone();
    assert_eq!(problem.position, Some((2, 12)));
}

#[test]
fn a_bad_field_points_at_the_second_of_two() {
    let text =
        "syntax = \"proto3\";\nmessage M {\n  string a = 1;\n  string b = 1;\n  string c = 0;\n}\n";
    let error = failure(&[("a.proto", text)]);
    let positions: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| problem.position)
        .collect();
    assert_eq!(
        error.problems()[0].message,
        "message numbers must be between 1 and 536870911"
    );
    assert_eq!(positions[0], Some((5, 14)), "{error}");

    let text = text.replace("= 0", "= 3");
    assert_eq!(
        explained(&[("a.proto", &text)]),
        "a.proto:4:14: field number '1' is already used"
    );
}

#[test]
fn every_problem_of_a_file_is_told() {
    let text = "syntax = \"proto3\";\nmessage M {\n  Abcdef a = 1;\n  Ghijkl b = 2;\n}\n";
    let error = failure(&[("a.proto", text)]);
    let lines: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| problem.position.unwrap().0)
        .collect();
    assert_eq!(lines, [3, 4], "{error}");
}

#[test]
fn methods_that_get_one_rust_name_are_refused() {
    let text = service(
        "  rpc SayHello(HelloRequest) returns (HelloReply);\n  rpc say_hello(HelloRequest) returns (HelloReply);",
    );
    let error = failure(&[("a.proto", &text)]);
    assert_eq!(error.problems()[0].position, Some((7, 7)), "{error}");
    assert_eq!(
        error.problems()[0].message,
        "method 'say_hello' becomes 'say_hello' in Rust, which is taken by method 'SayHello'"
    );
}

#[test]
fn methods_that_meet_the_clients_own_are_refused() {
    let text = service("  rpc New(HelloRequest) returns (HelloReply);");
    assert_eq!(
        explained(&[("a.proto", &text)]),
        "a.proto:6:7: method 'New' becomes 'new' in Rust, which is taken by the client's constructor\n    \
         hint: rename one of the two"
    );
    let text = service(
        "  rpc Say(HelloRequest) returns (HelloReply);\n  rpc SayWith(HelloRequest) returns (HelloReply);",
    );
    let error = explained(&[("a.proto", &text)]);
    assert!(
        error.contains("a.proto:7:7: method 'SayWith' becomes 'say_with'"),
        "{error}"
    );
}

#[test]
fn a_service_whose_server_has_a_messages_name_is_refused() {
    let text = service("  rpc SayHello(HelloRequest) returns (HelloReply);")
        + "message GreeterServer {}\n";
    assert_eq!(
        explained(&[("a.proto", &text)]),
        "a.proto:5:9: service 'Greeter' becomes 'GreeterServer' in Rust, which is taken by message 'GreeterServer'\n    \
         hint: rename one of the two"
    );
}

/// What is said about the names of one file with these contents, without hints.
fn clashes(contents: &str) -> Vec<String> {
    let error = failure(&[("a.proto", &format!("syntax = \"proto3\";\n{contents}"))]);
    let shown = error.problems().iter().map(|problem| {
        let (line, column) = problem.position.unwrap();
        format!("{line}:{column}: {}", problem.message)
    });
    shown.collect()
}

#[test]
fn names_that_rust_would_not_tell_apart_are_refused() {
    assert_eq!(
        clashes("message Foo_Bar {}\nmessage FooBar {}\nenum FOO_BAR { ZERO = 0; }"),
        [
            "3:9: message 'FooBar' becomes 'FooBar' in Rust, which is taken by message 'Foo_Bar'",
            "4:6: enum 'FOO_BAR' becomes 'FooBar' in Rust, which is taken by message 'Foo_Bar'"
        ]
    );
    assert_eq!(
        clashes("message M {\n  message A_b {}\n  message A_B {}\n}"),
        ["4:11: message 'A_B' becomes 'AB' in Rust, which is taken by message 'A_b'"]
    );
}

#[test]
fn values_that_differ_only_by_the_enums_name_are_refused() {
    assert_eq!(
        clashes("enum Mood {\n  MOOD_GLAD = 0;\n  GLAD = 1;\n}"),
        ["4:3: value 'GLAD' becomes 'Glad' in Rust, which is taken by value 'MOOD_GLAD'"]
    );
}

#[test]
fn fields_that_differ_only_by_case_are_refused() {
    // Most of these protox itself refuses: in proto3 all, in proto2 those that are one name in JSON.
    let text = "syntax = \"proto2\";\n\
                message M {\n  optional string ab = 1;\n  optional string AB = 2;\n\
                \x20 oneof Ab { string cd = 3; string CD = 4; }\n}\n";
    let error = failure(&[("a.proto", text)]);
    let told: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| (problem.position.unwrap(), problem.message.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (
                (4, 19),
                "field 'AB' becomes 'ab' in Rust, which is taken by field 'ab'"
            ),
            (
                (5, 36),
                "field 'CD' becomes 'Cd' in Rust, which is taken by field 'cd'"
            ),
            (
                (5, 9),
                "oneof 'Ab' becomes 'ab' in Rust, which is taken by field 'ab'"
            ),
        ]
    );
}

#[test]
fn packages_that_become_one_module_are_refused() {
    let files = [
        (
            "a.proto",
            "syntax = \"proto3\";\npackage foo;\nimport \"b.proto\";\nmessage A {}\n",
        ),
        (
            "b.proto",
            "syntax = \"proto3\";\npackage Foo;\nmessage B {}\n",
        ),
    ];
    assert_eq!(
        explained(&files),
        "a.proto:2:1: package 'foo' becomes 'foo' in Rust, which is taken by package 'Foo'\n    \
         hint: rename one of the two"
    );
}

#[test]
fn editions_are_refused_with_the_way_out() {
    let error = explained(&[("a.proto", "edition = \"2023\";\nmessage M {}\n")]);
    assert!(error.starts_with("a.proto:1:1: "), "{error}");
    assert!(
        error.ends_with("or start the file with syntax = \"proto3\";"),
        "{error}"
    );
}

#[test]
fn missing_files_and_directories_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = compile(directory.path(), "none.proto").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("none.proto: no such file\n    hint: paths are relative to "),
        "{error}"
    );

    let error = configure()
        .out_dir(directory.path())
        .compile_protos(&["a.proto"], &["no/such"])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("no/such: this include directory does not exist\n"),
        "{error}"
    );

    let error = configure()
        .out_dir(directory.path())
        .compile_protos(&[] as &[&str], &[directory.path()])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no input files\n    hint: name at least one .proto file"
    );
}

#[test]
fn a_file_outside_the_includes_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let (outside, inside) = (
        directory.path().join("a.proto"),
        directory.path().join("inside"),
    );
    fs::create_dir(&inside).unwrap();
    fs::write(&outside, HEAD).unwrap();
    let error = configure()
        .out_dir(directory.path())
        .compile_protos(&[&outside], &[&inside])
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is not in any include path\n    hint: included are "),
        "{error}"
    );
}

#[test]
fn wrong_options_are_named() {
    let compile = |builder: rpc_codegen::Builder| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.proto"), HEAD).unwrap();
        let builder = builder
            .out_dir(directory.path())
            .emit_rerun_if_changed(false);
        builder
            .compile_protos(&["a.proto"], &[directory.path()])
            .unwrap_err()
            .to_string()
    };
    let error = compile(configure().type_attribute(".", "derive(Eq"));
    assert!(
        error.starts_with("the attribute for \".\" is not valid Rust: derive(Eq: "),
        "{error}"
    );
    let error = compile(configure().extern_path(".p", "not a path"));
    assert!(
        error.starts_with("extern_path(\".p\", \"not a path\"): 'not a path' is not a Rust path\n"),
        "{error}"
    );
    let error = compile(configure().include_file("sub/all.rs"));
    assert!(
        error.starts_with("include_file(\"sub/all.rs\"): this is not a plain file name\n"),
        "{error}"
    );
    let error = compile(configure().extern_path("p", "::q"));
    assert!(error.contains("must be fully qualified"), "{error}");
}

#[test]
fn an_unwrap_in_a_build_script_reads_like_the_error() {
    let error = failure(&[("a.proto", "syntax = \"proto3\";\nmess M {}\n")]);
    assert_eq!(format!("{error:?}"), format!("\n{error}"));
}
