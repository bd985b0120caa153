//! Builds the object file that enforcer loads into the kernel.
#![forbid(unsafe_code)]

#[path = "../xtask/src/object.rs"]
mod object;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::process::ExitCode;

fn main() -> ExitCode {
    object::main(&[&[]])
}
