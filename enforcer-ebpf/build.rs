//! Tells the linker, which is also what compiles the programs, how.
#![forbid(unsafe_code)]

use std::env;

/// Otherwise setting and copying memory is a call of a function that goes byte by byte.
const INLINE_COPIES: &str = "--disable-expand-memcpy-in-order";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Only the target's linker knows it; on the host the crate is merely checked.
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "bpf") {
        println!("cargo::rustc-link-arg-bins={INLINE_COPIES}");
    }
}
