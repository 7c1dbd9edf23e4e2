//! A planted sample for each rule: it must be seen, and its harmless twin must pass.
//!
//! A rule that sees nothing would pass for ever; these are the rules' own tests.

use super::*;

fn seen(rule: fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&Source::new(path, text)).len()
}

#[test]
fn upward_imports_are_seen() {
    for text in [
        "use crate::runtime::spawn;",
        "use crate::{base::time, runtime::{park, timer}}; // one of two",
        "fn f() { crate::rpc::status::Status::ok() }",
        "use super::super::coroutine::Stack;",
        "use crate::Status;",
    ] {
        assert!(
            seen(climbing_imports, "rpc-core/src/base/x.rs", text) > 0,
            "{text}"
        );
    }
    assert_eq!(
        seen(
            climbing_imports,
            "rpc-core/src/net/x.rs",
            "use crate::sync::Mutex;"
        ),
        1
    );
    assert_eq!(
        seen(
            climbing_imports,
            "rpc-core/src/rpc/status.rs",
            "use crate::rpc::client::Channel;"
        ),
        1
    );
    assert_eq!(
        seen(
            climbing_imports,
            "rpc-core/src/rpc/client/a.rs",
            "use crate::runtime::reactor::Io;"
        ),
        1
    );
    assert_eq!(seen(climbing_imports, "rpc-core/src/extra.rs", ""), 1);
}

#[test]
fn downward_imports_pass() {
    let text = "use crate::{base::time::Instant, runtime::spawn_detached, net};\nuse super::status::Status;\n\
                // crate::codegen\nlet s = \"crate::codegen\"; crate::syscall!(1);";
    assert_eq!(
        seen(climbing_imports, "rpc-core/src/rpc/server/serve.rs", text),
        0
    );
    assert_eq!(
        seen(
            climbing_imports,
            "rpc-core/src/lib.rs",
            "pub use crate::rpc::server::Server;"
        ),
        0
    );
}

#[test]
fn io_and_clocks_in_pure_rpc_are_seen() {
    for text in [
        "use std::net::TcpStream;",
        "fn f() { Instant::now() }",
        "use crate::net::Conn;",
        "std::thread::spawn(f)",
    ] {
        assert_eq!(
            seen(impure_rpc, "rpc-core/src/rpc/protocol/prpc.rs", text),
            1,
            "{text}"
        );
        assert_eq!(
            seen(impure_rpc, "rpc-core/src/rpc/server/serve.rs", text),
            0,
            "{text}"
        );
    }
}

#[test]
fn roles_that_know_each_other_are_seen() {
    assert_eq!(
        seen(
            role_imports,
            "wechat-demo/src/logic/sync.rs",
            "use crate::storage::Log;"
        ),
        1
    );
    assert_eq!(
        seen(
            role_imports,
            "wechat-demo/src/access/mod.rs",
            "use super::cluster::Launcher;"
        ),
        1
    );
    assert_eq!(
        seen(
            role_imports,
            "wechat-demo/src/model/id.rs",
            "use crate::logic::Account;"
        ),
        1
    );
    assert_eq!(
        seen(
            role_imports,
            "wechat-demo/src/access/mod.rs",
            "use crate::{model::UserId, proto};"
        ),
        0
    );
    assert_eq!(
        seen(
            role_imports,
            "wechat-demo/src/cluster/mod.rs",
            "use crate::storage::Log;"
        ),
        0
    );
    assert_eq!(
        seen(
            sockets_in_logic,
            "wechat-demo/src/logic/x.rs",
            "let s: std::net::TcpStream;"
        ),
        1
    );
}

#[test]
fn unlisted_unsafe_is_seen() {
    let text = "#[cfg(test)] mod tests { fn f() { unsafe { g() } } }";
    assert_eq!(seen(unsafe_outside, "rpc-core/src/rpc/mod.rs", text), 1);
    assert_eq!(
        seen(unsafe_outside, "rpc-core/src/coroutine/stack.rs", text),
        0
    );
    assert_eq!(
        seen(
            unsafe_outside,
            "rpc-core/src/rpc/mod.rs",
            "#![forbid(unsafe_code)] // unsafe"
        ),
        0
    );
}

#[test]
fn clocks_and_dice_are_seen() {
    for text in [
        "use std::time::{Duration, Instant};",
        "SystemTime::now()",
        "rand::random()",
        "libc::getrandom(p, 4, 0)",
    ] {
        assert_eq!(
            seen(seams_bypassed, "wechat-demo/src/logic/x.rs", text),
            1,
            "{text}"
        );
    }
    let fine = "use std::time::Duration; use rpc_core::time::Instant; fn operand() {}";
    assert_eq!(seen(seams_bypassed, "wechat-demo/src/logic/x.rs", fine), 0);
    assert_eq!(
        seen(
            seams_bypassed,
            "rpc-core/src/base/time.rs",
            "use std::time::Instant;"
        ),
        0
    );
}

#[test]
fn bare_files_long_ones_and_leftovers_are_seen() {
    assert_eq!(seen(no_front_page, "x.rs", "// about\n"), 1);
    assert_eq!(
        seen(
            too_long,
            "x.rs",
            &format!("fn f() {{\n{}}}\n", "g();\n".repeat(69))
        ),
        1
    );
    assert_eq!(
        seen(
            too_long,
            "x.rs",
            &format!("fn f() {{\n{}}}\n", "g();\n".repeat(68))
        ),
        0
    );
    assert_eq!(seen(too_long, "x.rs", &"\n".repeat(801)), 1);
    assert_eq!(seen(unfinished, "x.rs", &["// FIX", "ME"].concat()), 1);
    assert_eq!(seen(unfinished, "x.rs", "fn f() { todo!() }"), 1);
    assert_eq!(seen(unfinished, "x.rs", "\"todo!()\" // dbg!"), 0);
}

#[test]
fn paths_of_one_machine_are_seen() {
    let home = ["see /ho", "me/me/x.txt"].concat();
    assert_eq!(machine_paths("README.md", &home).len(), 1);
    assert_eq!(
        machine_paths("README.md", "net/work/a and https://x.org/home/b").len(),
        0
    );
}

#[test]
fn a_dependency_on_rpc_core_is_seen() {
    assert!(links_rpc_core(
        "[dependencies]\nrpc-core.workspace = true\n",
        &["[dependencies]"]
    ));
    assert!(!links_rpc_core(
        "[dev-dependencies]\nrpc-core.workspace = true\n",
        &["[dependencies]"]
    ));
}
