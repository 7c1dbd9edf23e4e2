//! `export` and `import`: a store to a file and back, whatever its engine.
//!
//! Knows:       the order that makes both whole or nothing.
//! Does not know: rows, the file's format.
//!
//! An export is one moment's state, written beside its name and renamed when it is synced. An import reads the
//! file through before it writes anything; one that is interrupted leaves no store, and is made again.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use wechat_demo::storage::archive::{Reader, Writer};
use wechat_demo::storage::engine::copy::{Source, Target};
use wechat_demo::storage::location::{Location, Purpose};
use wechat_demo::storage::store::Identity;

/// Bytes of rows that are read, checked and written together.
const PIECE_BYTES: usize = 1 << 20;

/// Flags of `export`.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    from: Location,
}

/// Flags of `import`.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// A file that `export` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    to: Location,
}

/// Writes a store to a file.
pub(crate) fn export(flags: &Export) -> anyhow::Result<ExitCode> {
    let name = flags.file.display();
    if flags.file.exists() {
        bail!("{name} is there already; give another name, or remove it");
    }
    let engine = flags.from.open(Purpose::Read)?;
    if Identity::load(&*engine)?.is_none() {
        bail!("there is no store yet; nothing is exported");
    }
    let mut part = flags.file.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let file =
        File::create(&part).with_context(|| format!("{} cannot be written", part.display()))?;
    let bar = bar("exporting", 0);
    let written = (|| -> anyhow::Result<u64> {
        let mut writer = Writer::new(BufWriter::new(&file))?;
        let mut source = Source::new(&*engine)?;
        while let Some(piece) = source.piece(PIECE_BYTES)? {
            writer.put(&piece)?;
            bar.inc(piece.len() as u64);
        }
        writer.finish()?.flush()?;
        file.sync_all()?;
        Ok(source.rows())
    })();
    bar.finish_and_clear();
    let rows = match written {
        Ok(rows) => rows,
        Err(error) => {
            // Half an export is of no use; that it cannot be removed changes nothing.
            let _ = fs::remove_file(&part);
            return Err(error.context(format!("{name} was not written")));
        }
    };
    fs::rename(&part, &flags.file).with_context(|| format!("{name} cannot be put in place"))?;
    sync_folder(&flags.file).with_context(|| format!("the folder of {name}"))?;
    println!("exported {rows} rows to {name}");
    Ok(ExitCode::SUCCESS)
}

/// Makes a store of a file.
pub(crate) fn import(flags: &Import) -> anyhow::Result<ExitCode> {
    let name = flags.file.display();
    let open = || -> anyhow::Result<Reader<BufReader<File>>> {
        let file = File::open(&flags.file)?;
        Ok(Reader::new(BufReader::new(file))?)
    };
    let bytes = fs::metadata(&flags.file).map_or(0, |file| file.len());
    let read = |bar: &ProgressBar, put: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>| {
        let mut reader = open().with_context(|| format!("{name} cannot be read"))?;
        while let Some(piece) = reader.piece().with_context(|| format!("{name}"))? {
            put(&piece)?;
            bar.inc(piece.len() as u64);
        }
        bar.finish_and_clear();
        Ok::<u64, anyhow::Error>(reader.rows())
    };
    read(&bar("checking", bytes), &mut |_| Ok(()))?;
    let engine = flags.to.open(Purpose::Write)?;
    let Some(mut target) = Target::begin(&*engine)? else {
        bail!("there is a store already; import into an empty directory or database");
    };
    let unfinished = "the import is not finished; make it again, nothing uses what is there";
    let rows = read(
        &bar("importing", bytes),
        &mut |piece| Ok(target.put(piece)?),
    )
    .context(unfinished)?;
    target.finish().context(unfinished)?;
    println!("imported {rows} rows from {name}");
    Ok(ExitCode::SUCCESS)
}

/// A new name survives a power cut once its folder is synced.
fn sync_folder(file: &Path) -> std::io::Result<()> {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Bytes done, on a terminal; nothing elsewhere. `all` is 0 where it is not known.
fn bar(what: &'static str, all: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match all {
        0 => (
            ProgressBar::new_spinner(),
            "{spinner} {prefix} {bytes} {elapsed}",
        ),
        _ => (
            ProgressBar::new(all),
            "{prefix:<10} {wide_bar} {bytes}/{total_bytes} {elapsed}",
        ),
    };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    bar.set_style(style);
    bar.set_prefix(what);
    bar
}
