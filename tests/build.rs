//! Builds the kernel side twice more: as an object in which a test can negate any check of the decision, and as one that looks both
//! ends of a call up and decides nothing.
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
        for (variable, file) in
            [("NEGATED_OBJECT", "enforcer-ebpf-negated"), ("LOOKUPS_OBJECT", "enforcer-ebpf-lookups")]
        {
            println!("cargo::rustc-env={variable}={}", Path::new(&directory).join(file).display());
        }
    }
    object::main(&[&["negated"], &["lookups"]])
}
