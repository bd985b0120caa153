//! The `enforcer` command.
#![forbid(unsafe_code)]
fn main() {}
