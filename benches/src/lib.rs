//! Load generators for Annals, and the loop that measures other systems alike.
#![forbid(unsafe_code)]

pub mod load;
