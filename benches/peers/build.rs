//! Generates the clients of the peers that speak gRPC, with the compiler and the
//! generator that Annals itself is built with.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/etcd.proto", "proto/umadb.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").build_server(false).compile_fds(files)?;
    Ok(())
}
