//! Generated text, compared with what lies under `tests/golden/CASE/expected`.
//!
//! After a change that is meant, `UPDATE_GOLDEN=1 cargo test -p rpc-codegen --test suite` rewrites the files;
//! their diff is the review.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use rpc_codegen::{Builder, configure};

#[test]
fn a_service_with_its_messages() {
    check("greeter", &["greeter.proto"], configure());
}

#[test]
fn packages_that_refer_to_each_other() {
    check(
        "packages",
        &["shop/order.proto"],
        configure().include_file("all.rs"),
    );
}

#[test]
fn a_package_shares_the_module_of_a_message_with_its_name() {
    check(
        "beside",
        &["plan.proto", "plan_schema.proto", "plan_schema_kind.proto"],
        configure().include_file("all.rs"),
    );
}

#[test]
fn well_known_types_come_from_prost_types() {
    check("well_known", &["well_known.proto"], configure());
}

#[test]
fn oddities_of_proto2_and_keywords_are_written_as_rust() {
    check("odd", &["odd.proto"], configure());
}

#[test]
fn comments_become_docs_that_do_not_run() {
    check("comments", &["comments.proto"], configure());
}

#[test]
fn streams_are_iterators_and_mocks_do_what_they_are_told() {
    let builder = configure().build_mock(true).generate_default_stubs(true);
    check("streams", &["streams.proto"], builder);
}

#[test]
fn options_change_what_they_name() {
    let builder = configure()
        .bytes(".options.Blob.shared")
        .btree_map(".")
        .boxed("Blob.other")
        .type_attribute("Other", "#[derive(PartialOrd)]")
        .enum_attribute("Kind", "#[must_use]")
        .message_attribute("Blob", "#[must_use]")
        .field_attribute("Other.size", "#[doc(alias = \"length\")]")
        .generate_default_stubs(true)
        .build_client(false);
    check("options", &["options.proto"], builder);
}

/// Generates `protos` of the case and compares everything written with everything expected.
fn check(case: &str, protos: &[&str], builder: Builder) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(case);
    let expected = golden.join("expected");
    let out = tempfile::tempdir().unwrap();
    builder
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .compile_protos(protos, &[&golden])
        .unwrap();

    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let _ = fs::remove_dir_all(&expected);
        fs::create_dir_all(&expected).unwrap();
        for name in names(out.path()) {
            fs::copy(out.path().join(&name), expected.join(&name)).unwrap();
        }
        return;
    }
    assert_eq!(
        names(out.path()),
        names(&expected),
        "files written, files expected"
    );
    for name in names(&expected) {
        compare(&expected.join(&name), &out.path().join(&name));
    }
}

fn names(directory: &Path) -> BTreeSet<OsString> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect()
}

fn compare(expected: &PathBuf, actual: &PathBuf) {
    let [left, right] = [expected, actual].map(|path| fs::read(path).unwrap());
    if left == right {
        return;
    }
    let [left, right] = [left, right].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    panic!(
        "{} is not what is generated now (UPDATE_GOLDEN=1 accepts it):\n{}",
        expected.display(),
        diff(&left, &right)
    );
}

/// The lines between what two texts have in common at their heads and ends.
fn diff(left: &str, right: &str) -> String {
    let [left, right] = [left, right].map(|text| text.lines().collect::<Vec<_>>());
    let head = left
        .iter()
        .zip(&right)
        .take_while(|(left, right)| left == right)
        .count();
    let rest = left.len().min(right.len()) - head;
    let tail = (0..rest)
        .take_while(|index| left[left.len() - 1 - index] == right[right.len() - 1 - index])
        .count();
    let removed = left[head..left.len() - tail]
        .iter()
        .map(|line| format!("-{line}\n"));
    let added = right[head..right.len() - tail]
        .iter()
        .map(|line| format!("+{line}\n"));
    format!(
        "from line {}:\n{}",
        head + 1,
        removed.chain(added).collect::<String>()
    )
}
