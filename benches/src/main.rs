//! Measures Annals through its wire protocol.
#![forbid(unsafe_code)]

fn main() {}
