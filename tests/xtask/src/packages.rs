//! The system's and Python's packages that tests need, and how they get onto the machine.
//!
//! Knows: Debian's package names, a probe per package, apt-get.
//! Does not know: which test wants what; a test says so when its tool is missing.
//!
//! Nothing is installed that is already there, and nothing without a line that says what and why.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// One package of the distribution.
struct Need {
    /// Debian's name.
    package: &'static str,
    /// Succeeds exactly when the package is usable.
    probe: &'static [&'static str],
    /// Which tests want it, for the person who watches it being installed.
    why: &'static str,
}

const NEEDS: [Need; 13] = [
    Need {
        package: "curl",
        probe: &["curl", "--version"],
        why: "the HTTP tests ask the console and the JSON door with a client that is not ours",
    },
    Need {
        package: "nghttp2-client",
        probe: &["h2load", "--version"],
        why: "the HTTP/2 tests are loaded by an implementation that is not ours",
    },
    Need {
        package: "python3-venv",
        probe: &["python3", "-c", "import ensurepip"],
        why: "grpcio, gRPC's own implementation, is installed into an environment of the tests",
    },
    Need {
        package: "gdb",
        probe: &["gdb", "--version"],
        why: "coroutines are listed in a live process and in a core file",
    },
    Need {
        package: "gcc",
        probe: &["cc", "--version"],
        why: "a C program is compiled and run on coroutines",
    },
    Need {
        package: "redis-server",
        probe: &["redis-server", "--version"],
        why: "the redis driver, hiredis and a tokio client wait for it on coroutines",
    },
    Need {
        package: "mariadb-server-core",
        probe: &["mariadbd", "--version"],
        why: "the mysql driver waits for it on coroutines, and the mysql engine keeps stores in it",
    },
    Need {
        package: "mariadb-client-core",
        probe: &["my_print_defaults", "--version"],
        why: "mariadb-install-db of mariadb-server-core reads its options with it",
    },
    Need {
        package: "libhiredis-dev",
        probe: &["test", "-e", "/usr/include/hiredis/hiredis.h"],
        why: "a C program's redis client, run on coroutines",
    },
    Need {
        package: "libcurl4-openssl-dev",
        probe: &["curl-config", "--version"],
        why: "libcurl on coroutines; without it the curl crate compiles a copy of its own",
    },
    Need {
        package: "default-jre-headless",
        probe: &["java", "-version"],
        why: "ZooKeeper is a Java program",
    },
    Need {
        package: "libzookeeper-java",
        probe: &["test", "-e", "/usr/share/java/zookeeper.jar"],
        why: "an ensemble of three servers is the coordinator, and names our servers",
    },
    Need {
        package: "chromium",
        probe: &["chromium", "--version"],
        why: "the operations page is looked at, and used, in a browser",
    },
];

/// What the gRPC tests run as peers, from PyPI.
const PYTHON: [&str; 4] = [
    "grpcio",
    "grpcio-tools",
    "grpcio-health-checking",
    "grpcio-reflection",
];

/// Installs what is missing; says what is there.
pub(crate) fn ensure() -> Result<()> {
    ensure_system()?;
    ensure_python()
}

/// Makes `target/python`, an environment with [`PYTHON`]; nothing outside it is touched.
fn ensure_python() -> Result<()> {
    let folder = crate::steps::root().join("target/python");
    let python = folder.join("bin/python");
    let probe = "import grpc, grpc_tools, grpc_health, grpc_reflection";
    let python_arg = python.to_string_lossy();
    if succeeds(&[&*python_arg, "-c", probe]) {
        println!(
            "==> the Python packages the tests need are there: {}",
            PYTHON.join(", ")
        );
        return Ok(());
    }
    let mut venv = Command::new("python3");
    crate::steps::step(venv.args(["-m", "venv"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet"]).args(PYTHON);
    crate::steps::step(&mut pip)
        .context("no Python packages (offline?): tests with grpcio will say NOT RUN")
}

fn ensure_system() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !succeeds(need.probe)).collect();
    if missing.is_empty() {
        let names: Vec<&str> = NEEDS.iter().map(|need| need.package).collect();
        println!(
            "==> system packages the tests need are there: {}",
            names.join(", ")
        );
        return Ok(());
    }
    for need in &missing {
        println!("==> installing {}: {}", need.package, need.why);
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    install(&names)?;
    match missing.iter().find(|need| !succeeds(need.probe)) {
        Some(need) => bail!(
            "{} is installed but `{}` still fails: run that command and mend what it says",
            need.package,
            need.probe.join(" ")
        ),
        None => Ok(()),
    }
}

fn install(names: &[&str]) -> Result<()> {
    let by_hand = format!(
        "install by hand, then run the tests again: apt-get install {}",
        names.join(" ")
    );
    if !succeeds(&["apt-get", "--version"]) {
        bail!("there is no apt-get on this system; with its own package manager {by_hand}");
    }
    if !succeeds(&["test", "-w", "/var/lib/dpkg"]) {
        bail!("installing packages needs root and this is another user; as root {by_hand}");
    }
    apt(&["update"]).with_context(|| format!("no package lists (offline?); {by_hand}"))?;
    let install = [&["install", "--yes", "--no-install-recommends"], names].concat();
    apt(&install).with_context(|| format!("apt-get refused; {by_hand}"))
}

/// apt-get, waiting for another package manager that may be at work.
fn apt(args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=300", "-qq"])
        .args(args);
    crate::steps::step(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn succeeds(command: &[&str]) -> bool {
    let Some((program, args)) = command.split_first() else {
        return false;
    };
    let mut command = Command::new(program);
    let quiet = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
