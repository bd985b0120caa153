//! Builds the kernel side once more, as an object in which a test can negate any check of the decision.
#![forbid(unsafe_code)]

#[path = "../xtask/src/object.rs"]
mod object;
#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::env;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Only those who run the kernel tests need it.
    if env::var_os("CARGO_FEATURE_E2E").is_none() {
        return ExitCode::SUCCESS;
    }
    if let Some(directory) = env::var_os("OUT_DIR") {
        println!("cargo::rustc-env=NEGATED_OBJECT={}", Path::new(&directory).join("enforcer-ebpf").display());
    }
    object::main(&["negated"])
}
