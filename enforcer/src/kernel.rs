//! The programs and maps in the kernel: the only part of the host side that knows aya.
//!
//! [`Enforcement`] goes through its life in one order: [`load`](Enforcement::load) (everything is in the kernel,
//! nothing is attached), [`install`](Enforcement::install) (a policy is filled into the idle slot, read back, and
//! put in force by one store), [`attach`](Enforcement::attach) (all hooks or none).

pub mod feature;
pub mod leftovers;
pub mod load;
pub mod maps;

pub use feature::Unsupported;
pub use load::{Enforcement, LoadError, Options};
pub use maps::{Counts, MapError};
