//! The command `rpc-codegen`: the library's generator for those who want to look at its output or check it in.
//!
//! Exit status: 0 done, 1 the schema is wrong or a file cannot be written, 2 the arguments are wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use rpc_codegen::{Builder, configure};

fn main() -> ExitCode {
    match Arguments::parse(std::env::args().skip(1)) {
        Ok(Request::Generate(arguments)) => match arguments.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::from(1)
            }
        },
        Ok(Request::Print(text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("rpc-codegen: {message} (see rpc-codegen --help)");
            ExitCode::from(2)
        }
    }
}

/// What the command line asks for.
enum Request {
    Generate(Box<Arguments>),
    Print(&'static str),
}

struct Arguments {
    out: PathBuf,
    /// Empty = the directories the files are in.
    includes: Vec<PathBuf>,
    protos: Vec<PathBuf>,
    /// Read instead of `.proto` files.
    descriptor_set: Option<PathBuf>,
    builder: Builder,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Request, String> {
        let (mut out, mut includes, mut protos) = (None, Vec::new(), Vec::new());
        let mut descriptor_set = None;
        let mut builder = configure().emit_rerun_if_changed(false);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "-h" | "--help" => return Ok(Request::Print(HELP)),
                "-V" | "--version" => {
                    return Ok(Request::Print(concat!(
                        "rpc-codegen ",
                        env!("CARGO_PKG_VERSION")
                    )));
                }
                "-o" | "--out" => out = Some(PathBuf::from(value()?)),
                "-I" | "--include" => includes.push(PathBuf::from(value()?)),
                "--descriptor-set" => descriptor_set = Some(PathBuf::from(value()?)),
                "--include-file" => builder = builder.include_file(value()?),
                "--bytes" => builder = builder.bytes(value()?),
                "--no-client" => builder = builder.build_client(false),
                "--no-server" => builder = builder.build_server(false),
                "--mock" => builder = builder.build_mock(true),
                "--default-stubs" => builder = builder.generate_default_stubs(true),
                _ if word.starts_with("-I") => includes.push(PathBuf::from(&word[2..])),
                _ if word.starts_with('-') => return Err(format!("unknown option {word}")),
                _ => protos.push(PathBuf::from(word)),
            }
        }
        let out = out.ok_or("--out DIR is missing")?;
        if protos.is_empty() == descriptor_set.is_none() {
            return Err("name .proto files, or a --descriptor-set".to_owned());
        }
        Ok(Request::Generate(Box::new(Self {
            out,
            includes,
            protos,
            descriptor_set,
            builder,
        })))
    }

    fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(path) = self.descriptor_set {
            let encoded = std::fs::read(&path)
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let builder = self.builder.out_dir(self.out);
            return Ok(builder.compile_descriptor_set(&encoded)?);
        }
        let mut includes = self.includes;
        if includes.is_empty() {
            let parents = self.protos.iter().filter_map(|path| path.parent());
            // The parent of a bare file name is the empty path.
            includes = parents
                .map(|parent| PathBuf::from(".").join(parent))
                .collect();
            includes.dedup();
        }
        self.builder
            .out_dir(self.out)
            .compile_protos(&self.protos, &includes)?;
        Ok(())
    }
}

const HELP: &str = "\
Generates rpc-core code from Protocol Buffers.

Usage: rpc-codegen --out DIR [-I DIR]... [options] FILE.proto...
       rpc-codegen --out DIR [options] --descriptor-set FILE

  -o, --out DIR          where the files go; created if missing
  -I, --include DIR      directory that imports are relative to (repeatable; default: those of the files)
      --descriptor-set F read what protoc --descriptor_set_out wrote instead of .proto files: with all options,
                         and for editions
      --include-file F   also write F, which nests all packages as modules
      --bytes PATH       make bytes fields below the protobuf name PATH share the received buffer ('.': all)
      --no-client        leave out clients
      --no-server        leave out service traits and servers
      --mock             write a mock for each service
      --default-stubs    trait methods answer UNIMPLEMENTED unless implemented
  -h, --help             print this
  -V, --version          print the version";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn wrong_arguments_are_named() {
        let message = |line| parse(line).err().unwrap();
        assert_eq!(message("a.proto"), "--out DIR is missing");
        assert_eq!(
            message("--out x"),
            "name .proto files, or a --descriptor-set"
        );
        assert_eq!(message("--out"), "--out needs a value");
        assert_eq!(message("--frobnicate"), "unknown option --frobnicate");
    }

    #[test]
    fn both_forms_of_an_include_are_read() {
        let Ok(Request::Generate(arguments)) = parse("-o out -Ia -I b c.proto") else {
            panic!("not a generation")
        };
        assert_eq!(arguments.includes, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(arguments.protos, [PathBuf::from("c.proto")]);
    }
}
