//! `cargo xtask protos`: every service of a large public collection generates and compiles.
//!
//! Knows: npm's package of Google's schemas, rpc-codegen as a command, cargo check.
//! Does not know: what is generated.
//!
//! The generated Rust is some 94 MB, and one crate of it all takes more than 11 GB to check. So packages are
//! checked in crates of [`SCHEMA_PER_CRATE`] bytes of schema each, one after the other; a crate that
//! fails is halved until the packages that are at fault stand alone.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::bench::target_dir;
use crate::steps;

/// npm's package, under the Apache-2.0 licence: the schemas of Google's public APIs.
const PACKAGE: &str = "google-proto-files";
/// Pinned, so that a run says something about us and not about the collection.
const VERSION: &str = "5.0.3";

/// Bytes of `.proto` files with services in one crate; a larger package is a crate of its own.
const SCHEMA_PER_CRATE: u64 = 1 << 20;
/// Lines of an error that are shown; all of it is in a file.
const SHOWN: usize = 30;

/// Part of every test run: small packages that differ as much as any do. Streams of all kinds, routes,
/// routes with additional bindings, long-running operations, proto2, keywords as names, deep nesting,
/// packages beside messages of the same name.
const SAMPLE: [&str; 27] = [
    "google.actions.sdk.v2",
    "google.api.servicemanagement.v1",
    "google.appengine.v1",
    "google.bigtable.v2",
    "google.bytestream",
    "google.chat.v1",
    "google.cloud.asset.v1",
    "google.cloud.bigquery.storage.v1",
    "google.cloud.functions.v2",
    "google.cloud.kms.v1",
    "google.cloud.language.v2",
    "google.cloud.location",
    "google.cloud.secretmanager.v1",
    "google.cloud.speech.v2",
    "google.cloud.tasks.v2",
    "google.cloud.texttospeech.v1",
    "google.cloud.translation.v3",
    "google.datastore.v1",
    "google.devtools.build.v1",
    "google.firestore.v1",
    "google.iam.v1",
    "google.logging.v2",
    "google.longrunning",
    "google.monitoring.v3",
    "google.pubsub.v1",
    "google.spanner.v1",
    "grafeas.v1",
];

#[derive(Args)]
pub(crate) struct Options {
    /// Only packages whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Only the sample that every test run checks
    #[arg(long)]
    sample: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let collection = fetch()?;
    let wanted = |package: &str| {
        let by_name = options.filter.as_ref();
        (!options.sample || SAMPLE.contains(&package))
            && by_name.is_none_or(|part| package.contains(part.as_str()))
    };
    steps::step(&mut steps::cargo(&["build", "--package", "rpc-codegen"]))?;
    check(&collection, wanted)
}

/// The sample, as a part of a test run, which has built everything. Without the collection it is not run, and says so.
pub(crate) fn sample() -> Result<()> {
    match fetch() {
        Ok(collection) => check(&collection, |package| SAMPLE.contains(&package)),
        Err(error) => {
            println!(
                "==> NOT RUN: the sample of {PACKAGE} {VERSION}, which every run generates and checks: {error:#}"
            );
            Ok(())
        }
    }
}

/// The `.proto` files of one package that have services.
#[derive(Clone)]
struct Package {
    name: String,
    /// Relative to the collection.
    files: Vec<PathBuf>,
    services: usize,
    bytes: u64,
}

/// Generates and checks the packages that are `wanted`, and says how it went.
fn check(collection: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut packages = packages(collection)?;
    packages.retain(|package| wanted(&package.name));
    if packages.is_empty() {
        bail!("no package with services has such a name");
    }
    let sum = |packages: &[Package]| packages.iter().map(|p| p.services).sum::<usize>();
    let (all, services) = (packages.len(), sum(&packages));
    let checker = Checker::new(collection)?;
    let started = Instant::now();
    let (mut left, mut done, mut generated) = (crates(packages), 0, 0);
    let mut failed: Vec<(String, PathBuf)> = Vec::new();
    while let Some(next) = left.pop_front() {
        let began = Instant::now();
        let outcome = checker.check(&next);
        let names = names(&next);
        match outcome {
            Ok(bytes) => {
                generated += bytes;
                done += sum(&next);
                println!(
                    "==> {done} of {services} services; {} s of {} s: {names}",
                    began.elapsed().as_secs(),
                    started.elapsed().as_secs(),
                );
            }
            Err(error) if next.len() == 1 => {
                println!("==> FAILED: {names}\n{error}");
                let log = checker.folder.join(format!("{names}.log"));
                fs::write(&log, error)?;
                failed.push((names, log));
            }
            Err(_) => {
                println!("==> a failure among {names}: looking for it");
                let (first, second) = next.split_at(next.len() / 2);
                left.push_front(second.to_vec());
                left.push_front(first.to_vec());
            }
        }
    }
    println!(
        "==> {done} of {services} services in {} of {all} packages of {PACKAGE} {VERSION} generated and checked: \
         {} MB of Rust in {} s",
        all - failed.len(),
        generated >> 20,
        started.elapsed().as_secs()
    );
    if failed.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = failed
        .iter()
        .map(|(name, log)| format!("    {name}: see {}", log.display()))
        .collect();
    bail!("{} packages failed:\n{}", failed.len(), lines.join("\n"))
}

/// First and last name, and how many.
fn names(packages: &[Package]) -> String {
    match packages {
        [one] => one.name.clone(),
        [first, .., last] => format!("{} … {} ({})", first.name, last.name, packages.len()),
        [] => String::new(),
    }
}

/// Packages put together into crates, in their order.
fn crates(packages: Vec<Package>) -> VecDeque<Vec<Package>> {
    let mut crates: VecDeque<Vec<Package>> = VecDeque::new();
    let mut room = 0;
    for package in packages {
        match crates.back_mut() {
            Some(last) if package.bytes <= room => {
                room -= package.bytes;
                last.push(package);
            }
            _ => {
                room = SCHEMA_PER_CRATE.saturating_sub(package.bytes);
                crates.push_back(vec![package]);
            }
        }
    }
    crates
}

/// The package, unpacked under the target directory; fetched once.
fn fetch() -> Result<PathBuf> {
    let folder = target_dir()?.join("protos");
    let unpacked = folder.join(format!("{PACKAGE}-{VERSION}"));
    if unpacked.exists() {
        return Ok(unpacked);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let spec = format!("{PACKAGE}@{VERSION}");
    let mut npm = Command::new("npm");
    npm.current_dir(&folder);
    npm.args(["pack", "--silent", &spec]).stdout(Stdio::null());
    steps::step(&mut npm)
        .with_context(|| format!("{spec} cannot be fetched (offline, or no npm: install it)"))?;
    // Unpacked elsewhere first: what lies in its place is whole.
    let fresh = folder.join("fresh");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--strip-components=1", "--file"]);
    tar.arg(folder.join(format!("{PACKAGE}-{VERSION}.tgz")));
    steps::step(tar.arg("--directory").arg(&fresh))?;
    fs::rename(&fresh, &unpacked)?;
    Ok(unpacked)
}

/// Every package with services, by name.
fn packages(collection: &Path) -> Result<Vec<Package>> {
    let mut found: BTreeMap<String, Package> = BTreeMap::new();
    let mut folders = vec![collection.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder)
            .with_context(|| format!("cannot look into {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "proto") {
                let text = fs::read(&path)?;
                let text = String::from_utf8_lossy(&text);
                let services = text.lines().filter(|line| line.starts_with("service "));
                let services = services.count();
                if services == 0 {
                    continue;
                }
                let name = package_of(&text);
                let package = found.entry(name.to_owned()).or_insert_with(|| Package {
                    name: name.to_owned(),
                    files: Vec::new(),
                    services: 0,
                    bytes: 0,
                });
                let relative = path.strip_prefix(collection);
                let relative = relative.expect("the walk began at the collection");
                package.files.push(relative.to_owned());
                package.services += services;
                package.bytes += text.len() as u64;
            }
        }
    }
    for package in found.values_mut() {
        package.files.sort();
    }
    Ok(found.into_values().collect())
}

/// What a schema says its package is.
fn package_of(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim);
    let name = lines.find_map(|line| line.strip_prefix("package ")?.split(';').next());
    name.unwrap_or_default().trim()
}

/// One crate, filled again and again.
struct Checker<'a> {
    collection: &'a Path,
    /// The crate, and the reports of what failed.
    folder: PathBuf,
    /// The workspace's own, where what the crate depends on has been checked already.
    target: PathBuf,
}

impl<'a> Checker<'a> {
    fn new(collection: &'a Path) -> Result<Self> {
        let folder = target_dir()?.join("protos/check");
        fs::create_dir_all(folder.join("src"))?;
        let core = steps::root().join("rpc-core");
        fs::write(
            folder.join("Cargo.toml"),
            format!(
                "[package]\nname = \"protos\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
                 [dependencies]\nrpc-core = {{ path = {core:?} }}\n\n[workspace]\n\n\
                 [profile.dev]\nopt-level = 1\ndebug = \"line-tables-only\"\nincremental = false\n\
                 [profile.dev.build-override]\nopt-level = 0\n"
            ),
        )?;
        fs::write(
            folder.join("src/lib.rs"),
            "//! What was generated.\n\ninclude!(\"generated/all.rs\");\n",
        )?;
        // The versions that the workspace is tested with.
        fs::copy(steps::root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
        Ok(Self {
            collection,
            target: target_dir()?,
            folder,
        })
    }

    /// The bytes of Rust that were generated and checked, or what was wrong.
    fn check(&self, packages: &[Package]) -> Result<u64, String> {
        let generated = self.folder.join("src/generated");
        let io = |error: std::io::Error| format!("{}: {error}", generated.display());
        if generated.exists() {
            fs::remove_dir_all(&generated).map_err(io)?;
        }
        let mut codegen = Command::new(self.target.join("debug/rpc-codegen"));
        codegen.current_dir(self.collection);
        codegen.arg("--out").arg(&generated);
        codegen.args(["-I", ".", "--include-file", "all.rs"]);
        codegen.args(packages.iter().flat_map(|package| &package.files));
        succeed(&mut codegen)?;
        let mut check = steps::cargo(&["check", "--quiet", "--offline", "--manifest-path"]);
        check.arg(self.folder.join("Cargo.toml"));
        check.arg("--target-dir").arg(&self.target);
        succeed(&mut check)?;
        let sizes = fs::read_dir(&generated).map_err(io)?.flatten();
        let rust = sizes.filter(|e| e.path().extension().is_some_and(|end| end == "rs"));
        Ok(rust.flat_map(|e| e.metadata()).map(|m| m.len()).sum())
    }
}

/// Runs a program that should say nothing; what it says if it fails, cut short.
fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines: Vec<&str> = said.lines().take(SHOWN).collect();
    if said.lines().count() > SHOWN {
        lines.push("…");
    }
    Err(format!("{}\n{}", output.status, lines.join("\n")))
}
