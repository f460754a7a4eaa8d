//! Generates Rust from every `.proto` file under `proto/`.
//!
//! The compiler is protox, which is written in Rust: no `protoc` has to be
//! installed, and its version cannot change what we generate. The folder is
//! walked, so a new file needs no entry here.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use prost::Message as _;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One of the metadata of a proposed event.
const METADATA_ENTRY: &str = ".event_store.client.streams.AppendReq.ProposedMessage.MetadataEntry";

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    // Cargo looks at the whole tree below a folder named here.
    println!("cargo::rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    collect_protos(&root, &mut files)?;
    // Folders list their entries in any order; the output must not depend on it.
    files.sort();

    let mut descriptors = protox::compile(&files, [&root])?;
    let mut types = descriptors.clone();
    metadata_as_list(&mut types)?;
    let mut generator = tonic_prost_build::Config::new();
    // The entries of a map stand in no file, so nothing is said of them there.
    generator.disable_comments([METADATA_ENTRY]);
    let services = tonic_prost_build::configure().bytes(".").include_file("modules.rs");
    services.compile_fds_with_config(types, generator)?;

    // The comments are in the generated code by now; reflection does without.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    Ok(())
}

/// Makes the metadata of proposed events what it is on the wire, a list of messages with a
/// key and a value each, of one type for both ways to append. As a map it would be a hash
/// table and four copied texts for every event, to look up two of them once.
fn metadata_as_list(files: &mut FileDescriptorSet) -> Result<()> {
    const ENTRY: &str = "MetadataEntry";
    let file = files.file.iter_mut().find(|file| file.package() == "event_store.client.streams");
    let messages = &mut file.ok_or("no file has the streams service")?.message_type;

    let proposed = nested(messages, "AppendReq").and_then(|append| nested(&mut append.nested_type, "ProposedMessage"));
    let entry = proposed.and_then(|proposed| nested(&mut proposed.nested_type, ENTRY));
    let entry = entry.ok_or("an append's metadata is no map")?;
    entry.options = None;
    entry.field.iter_mut().for_each(|field| field.set_type(Type::Bytes));

    let batch = nested(messages, "BatchAppendReq");
    let proposed = batch.and_then(|batch| nested(&mut batch.nested_type, "ProposedMessage"));
    let proposed = proposed.ok_or("a batch has no events")?;
    proposed.nested_type.retain(|nested| nested.name() != ENTRY);
    let metadata = proposed.field.iter_mut().find(|field| field.name() == "metadata");
    let metadata = metadata.ok_or("a batch's events have no metadata")?;
    metadata.type_name = Some(METADATA_ENTRY.to_owned());
    Ok(())
}

/// The message with this name among others.
fn nested<'m>(messages: &'m mut [DescriptorProto], name: &str) -> Option<&'m mut DescriptorProto> {
    messages.iter_mut().find(|message| message.name() == name)
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
