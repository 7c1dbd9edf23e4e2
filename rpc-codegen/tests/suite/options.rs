//! Descriptor sets, files that stay as they are, and input other than files.

use std::fs;
use std::path::Path;

use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use rpc_codegen::configure;

fn golden(case: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case)
}

fn set(path: &Path) -> FileDescriptorSet {
    FileDescriptorSet::decode(fs::read(path).unwrap().as_slice()).unwrap()
}

fn names(set: &FileDescriptorSet) -> Vec<&str> {
    set.file.iter().map(FileDescriptorProto::name).collect()
}

#[test]
fn a_descriptor_set_holds_a_package_and_what_it_imports() {
    let expected = golden("packages").join("expected");
    assert_eq!(
        names(&set(&expected.join("shop.order.fds.bin"))),
        ["shop/billing.proto", "shop/order.proto"]
    );
    assert_eq!(
        names(&set(&expected.join("shop.billing.fds.bin"))),
        ["shop/billing.proto"]
    );
}

#[test]
fn a_descriptor_set_keeps_custom_options() {
    let directory = tempfile::tempdir().unwrap();
    let text = "syntax = \"proto3\";\nimport \"google/protobuf/descriptor.proto\";\n\
                extend google.protobuf.MessageOptions { string note = 50000; }\n\
                message M { option (note) = \"remember\"; }\n";
    fs::write(directory.path().join("a.proto"), text).unwrap();
    configure()
        .out_dir(directory.path())
        .compile_protos(&["a.proto"], &[directory.path()])
        .unwrap();
    let bytes = fs::read(directory.path().join("_.fds.bin")).unwrap();
    assert!(bytes.windows(8).any(|window| window == b"remember"));
}

#[test]
fn a_ready_descriptor_set_generates_the_same() {
    let out = tempfile::tempdir().unwrap();
    let expected = golden("packages").join("expected");
    let set = set(&expected.join("shop.order.fds.bin"));
    configure()
        .out_dir(out.path())
        .include_file("all.rs")
        .compile_fds(set)
        .unwrap();
    for name in ["shop.order.fds.bin", "shop.billing.fds.bin", "all.rs"] {
        assert!(
            fs::read(out.path().join(name)).unwrap() == fs::read(expected.join(name)).unwrap(),
            "{name} differs"
        );
    }
    let text = fs::read_to_string(out.path().join("shop.order.rs")).unwrap();
    assert!(text.contains("pub trait Orders"), "{text}");
}

#[test]
fn a_set_that_lacks_an_import_is_refused() {
    let mut set = set(&golden("packages").join("expected/shop.order.fds.bin"));
    set.file.remove(0);
    let out = tempfile::tempdir().unwrap();
    let error = configure()
        .out_dir(out.path())
        .compile_fds(set)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("import 'shop/billing.proto' not found"),
        "{error}"
    );
}

#[test]
fn a_set_of_nonsense_is_refused() {
    let file = FileDescriptorProto {
        name: Some("a.proto".to_owned()),
        syntax: Some("editions".to_owned()),
        ..Default::default()
    };
    let out = tempfile::tempdir().unwrap();
    let error = configure()
        .out_dir(out.path())
        .compile_fds(FileDescriptorSet { file: vec![file] })
        .unwrap_err();
    assert!(
        error.to_string().contains("unknown syntax 'editions'"),
        "{error}"
    );
    assert!(
        configure()
            .out_dir(out.path())
            .compile_fds(FileDescriptorSet {
                file: vec![Default::default()]
            })
            .is_err()
    );
}

#[test]
fn an_unchanged_file_is_not_written_again() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("greeter.rs");
    let generate = || {
        configure()
            .out_dir(out.path())
            .compile_protos(&["greeter.proto"], &[golden("greeter")])
            .unwrap();
        fs::metadata(&path).unwrap().modified().unwrap()
    };
    generate();
    // A time stamp of long ago cannot be one that a second write would leave.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(generate(), std::time::UNIX_EPOCH);
}

#[test]
fn external_types_are_used_and_not_generated() {
    let out = tempfile::tempdir().unwrap();
    let builder = configure().extern_path(".shop.billing", "::billing");
    builder
        .out_dir(out.path())
        .compile_protos(&["shop/order.proto"], &[golden("packages")])
        .unwrap();
    assert!(!out.path().join("shop.billing.rs").exists());
    let text = fs::read_to_string(out.path().join("shop.order.rs")).unwrap();
    assert!(text.contains("Response<::billing::Invoice>"), "{text}");
}

#[test]
fn well_known_types_are_generated_where_asked() {
    let out = tempfile::tempdir().unwrap();
    let builder = configure()
        .compile_well_known_types(true)
        .build_server(false);
    builder
        .out_dir(out.path())
        .compile_protos(&["well_known.proto"], &[golden("well_known")])
        .unwrap();
    let text = fs::read_to_string(out.path().join("google.protobuf.rs")).unwrap();
    assert!(text.contains("pub struct Timestamp"), "{text}");
    let text = fs::read_to_string(out.path().join("_.rs")).unwrap();
    assert!(
        text.contains("google::protobuf::Timestamp") && !text.contains("prost_types"),
        "{text}"
    );
    assert!(
        text.contains("ClockClient") && !text.contains("ClockServer"),
        "{text}"
    );
}

#[test]
fn a_schema_gives_its_messages_where_services_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let text =
        "syntax = \"proto3\";\nmessage M {}\nservice S { rpc Watch(M) returns (stream M); }\n";
    fs::write(directory.path().join("a.proto"), text).unwrap();
    let builder = configure().build_client(false).build_server(false);
    builder
        .out_dir(directory.path())
        .compile_protos(&["a.proto"], &[directory.path()])
        .unwrap();
    let text = fs::read_to_string(directory.path().join("_.rs")).unwrap();
    assert!(
        text.contains("pub struct M") && !text.contains("DESCRIPTOR:"),
        "{text}"
    );
}

#[test]
fn services_of_an_external_package_are_external() {
    let directory = tempfile::tempdir().unwrap();
    let text = "syntax = \"proto3\";\npackage theirs;\nmessage M {}\nservice S { rpc Watch(M) returns (stream M); }\n";
    fs::write(directory.path().join("a.proto"), text).unwrap();
    let builder = configure()
        .extern_path(".theirs", "::theirs")
        .out_dir(directory.path());
    builder
        .compile_protos(&["a.proto"], &[directory.path()])
        .unwrap();
    assert!(!directory.path().join("theirs.rs").exists());
}
