//! Generates Rust from every `.proto` file under `proto/`.
//!
//! The compiler is protox, which is written in Rust: no `protoc` has to be
//! installed, and its version cannot change what we generate. The folder is
//! walked, so a new file needs no entry here.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message as _;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    // Cargo looks at the whole tree below a folder named here.
    println!("cargo::rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    collect_protos(&root, &mut files)?;
    // Folders list their entries in any order; the output must not depend on it.
    files.sort();

    let mut descriptors = protox::compile(&files, [&root])?;
    tonic_prost_build::configure().bytes(".").include_file("modules.rs").compile_fds(descriptors.clone())?;

    // The comments are in the generated code by now; reflection does without.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}

/// Appends every `.proto` file below `folder` to `files`.
fn collect_protos(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_protos(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
