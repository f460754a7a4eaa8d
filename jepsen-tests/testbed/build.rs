//! Compiles the library that moves a process's wall clock: see `src/clock.rs`.

use std::path::Path;
use std::{env, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    let source = "src/wall_clock.c";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    let library = Path::new(&env::var("OUT_DIR")?).join("wall_clock.so");
    let mut compiler = cc::Build::new().get_compiler().to_command();
    compiler.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source);
    let status = compiler.status()?;
    status.success().then_some(()).ok_or_else(|| format!("{source} does not compile: {status}").into())
}
