//! Tests on the running kernel: they need root, and each makes a sandbox of its own.
#![forbid(unsafe_code)]

mod connect;
mod servers;
