//! Fuzz targets: for each decoder a function that takes any bytes.
//!
//! A target asserts what must hold of its decoder: it does not panic, it takes no
//! more memory than its input is worth, and what decodes, encodes to what decodes
//! to the same. It answers in words what it made of the input; inputs with a new
//! answer are kept and tried further, which leads deeper without any help of the
//! compiler.
//!
//! ```text
//! annals-fuzz run --seconds 10            every target, from its corpus on
//! annals-fuzz run record --seconds 1800   one of them, for longer
//! annals-fuzz one record FILE             one input, to see it fail
//! annals-fuzz seeds                       writes what real encodings look like into the corpora
//! ```
//!
//! The corpora are in `corpus/`, one file for each input. An input that made a
//! target fail is written to `failures/`; once the decoder is mended it belongs into the
//! corpus. Everything here runs with the stable compiler. With a nightly one and
//! libFuzzer the same functions can be called as they are ([`TARGETS`]).
#![forbid(unsafe_code)]

pub mod mutate;
pub mod seeds;
pub mod targets;

pub use targets::{TARGETS, Target};
