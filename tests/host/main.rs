//! What `cargo test` shows without privileges.
#![forbid(unsafe_code)]

mod abi;
mod budgets;
mod capacities;
mod cases;
mod properties;
