//! What `cargo test` shows without privileges.
#![forbid(unsafe_code)]

mod capacities;
mod cases;
mod properties;
