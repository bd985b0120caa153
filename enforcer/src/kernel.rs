//! The programs and maps in the kernel: the only part of the host side that knows aya.
//!
//! [`Enforcement`] goes through its life in one order: [`load`](Enforcement::load) (everything is in the kernel,
//! nothing is attached), [`install`](Enforcement::install) (a policy is filled into the idle slot, read back, and
//! put in force by one store), [`attach`](Enforcement::attach) (all hooks or none).

pub mod btf;
pub mod feature;
mod ledger;
pub mod leftovers;
pub mod load;
pub mod maps;
pub mod pins;
mod sys;
pub mod watch;

pub use feature::Unsupported;
pub use ledger::{Ledger, Tally};
pub use load::{Enforcement, LoadError, OBJECT, Options};
pub use maps::{CgroupOwners, Counts, MapError};
pub use pins::{PinError, Pins, Removed};
pub use watch::Tampering;

/// Gives memory that was freed back to the system.
pub fn trim_memory() {
    sys::trim_memory();
}

/// An error with its causes, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(err) = cause {
        let words = err.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = err.source();
    }
    text
}
