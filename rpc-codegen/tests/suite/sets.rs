//! Encoded descriptor sets, as protoc writes them: every option stays, and editions are read.

use std::fs;
use std::path::Path;

use prost::Message;
use protox::Compiler;
use rpc_codegen::configure;

/// The generated file of package `package`, or what was told instead.
fn generated(encoded: &[u8], package: &str) -> Result<String, String> {
    let out = tempfile::tempdir().unwrap();
    let builder = configure().out_dir(out.path()).emit_rerun_if_changed(false);
    let result = builder.compile_descriptor_set(encoded);
    result.map_err(|error| error.to_string())?;
    Ok(fs::read_to_string(out.path().join(format!("{package}.rs"))).unwrap())
}

#[test]
fn a_set_generates_what_its_files_generate() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for case in ["greeter", "streams", "odd", "comments"] {
        let folder = golden.join(case);
        let mut compiler = Compiler::new([&folder]).unwrap();
        compiler.include_imports(true).include_source_info(true);
        compiler.open_file(format!("{case}.proto")).unwrap();
        let encoded = compiler.encode_file_descriptor_set();
        let out = tempfile::tempdir().unwrap();
        let builder = configure().out_dir(out.path()).emit_rerun_if_changed(false);
        let builder = match case {
            "streams" => builder.build_mock(true).generate_default_stubs(true),
            _ => builder,
        };
        builder.compile_descriptor_set(&encoded).unwrap();
        for name in [format!("{case}.rs"), format!("{case}.fds.bin")] {
            let expected = fs::read(folder.join("expected").join(&name)).unwrap();
            assert!(
                fs::read(out.path().join(&name)).unwrap() == expected,
                "{name}"
            );
        }
    }
}

/// Descriptors as far as editions go beyond what prost-types knows.
#[derive(Clone, PartialEq, Message)]
struct Set {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    messages: Vec<Described>,
    #[prost(string, tag = "12")]
    syntax: String,
    #[prost(int32, tag = "14")]
    edition: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Described {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    fields: Vec<Field>,
}

#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    number: i32,
    #[prost(int32, tag = "4")]
    label: i32,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(message, optional, tag = "8")]
    options: Option<Options>,
}

#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(message, optional, tag = "21")]
    features: Option<Features>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Features {
    #[prost(int32, optional, tag = "1")]
    presence: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    repeated_encoding: Option<i32>,
}

const INT32: i32 = 5;
const EXPANDED: i32 = 2;

/// A set with one message of 32-bit fields: name, label, features.
fn edition(edition: i32, fields: &[(&str, i32, Features)]) -> Vec<u8> {
    let field = |(index, (name, label, features)): (usize, &(&str, i32, Features))| Field {
        name: (*name).to_owned(),
        number: index as i32 + 1,
        label: *label,
        kind: INT32,
        options: Some(Options {
            features: Some(*features),
        }),
    };
    let message = Described {
        name: "M".to_owned(),
        fields: fields.iter().enumerate().map(field).collect(),
    };
    let file = File {
        name: "a.proto".to_owned(),
        package: "a".to_owned(),
        messages: vec![message],
        syntax: "editions".to_owned(),
        edition,
    };
    Set { file: vec![file] }.encode_to_vec()
}

fn presence(presence: i32) -> Features {
    let presence = Some(presence);
    Features {
        presence,
        ..Features::default()
    }
}

#[test]
fn in_an_edition_fields_have_presence_and_are_packed_unless_told_otherwise() {
    let expanded = Features {
        repeated_encoding: Some(EXPANDED),
        ..Features::default()
    };
    let set = edition(
        1000,
        &[
            ("plain", 1, Features::default()),
            ("needed", 1, presence(3)),
            ("many", 3, Features::default()),
            ("single", 3, expanded),
        ],
    );
    let text = generated(&set, "a").unwrap();
    let attribute = |field: &str| {
        let (before, _) = text.split_once(&format!("pub {field}:")).unwrap();
        before.lines().rev().nth(1).unwrap().trim().to_owned()
    };
    assert_eq!(attribute("plain"), "#[prost(int32, optional, tag = \"1\")]");
    assert_eq!(
        attribute("needed"),
        "#[prost(int32, required, tag = \"2\")]"
    );
    assert_eq!(attribute("many"), "#[prost(int32, repeated, tag = \"3\")]");
    assert!(attribute("single").contains("packed = \"false\""), "{text}");
}

#[test]
fn a_field_without_presence_is_as_in_proto3_and_those_beside_it_keep_theirs() {
    let fields = [("bare", 1, presence(2)), ("plain", 1, Features::default())];
    let text = generated(&edition(1001, &fields), "a").unwrap();
    assert!(text.contains("pub bare: i32"), "{text}");
    assert!(
        text.contains("pub plain: ::core::option::Option<i32>"),
        "{text}"
    );
}

#[test]
fn what_no_syntax_can_say_is_refused_by_file() {
    let mixed = [("bare", 1, presence(2)), ("needed", 1, presence(3))];
    let text = generated(&edition(1000, &mixed), "a").unwrap_err();
    assert!(
        text.starts_with("a.proto: ") && text.contains("presence"),
        "{text}"
    );
    let text = generated(&edition(9999, &[]), "a").unwrap_err();
    assert!(text.contains("edition 9999 is not known"), "{text}");
    let text = generated(b"no set", "a").unwrap_err();
    assert!(text.contains("FileDescriptorSet"), "{text}");
}
