//! What the kernel side and the host side of enforcer agree on: facts, decisions, layouts, names and limits.
//!
//! The crate allocates nothing and does no I/O. It is compiled twice, for `bpfel-unknown-none` inside the
//! programs and for the host inside the daemon, the command line and the tests, and nothing in it asks which of
//! the two it is: [`decide()`] gives the same answer in a hook, in `enforcer check` and under a property test.
//!
//! Reading order: [`identity`] (who), [`facts`] (what a hook knows), [`decision`] (what is answered),
//! [`decide`](mod@decide) (the function between them), [`claims`] (whose a cgroup is), [`layout`] (what the maps hold), [`event`] (what the
//! ring buffer carries), [`counter`] (what is counted), [`names`] and [`limits`].
#![no_std]
#![deny(unsafe_code)]
// A wildcard arm would decide for a variant that nobody has written yet.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod asked;
pub mod claims;
pub mod counter;
pub mod decide;
pub mod decision;
pub mod event;
pub mod facts;
pub mod flow;
pub mod identity;
pub mod kept;
pub mod layout;
pub mod limits;
pub mod names;

pub use asked::Asked;
pub use decide::{
    Check, Tables, decide, decide_bind, decide_create, decide_flow, decide_led, decide_source,
    decide_unreadable,
};
pub use decision::{Decision, Mode, Reason, RuleId, Verdict};
pub use facts::{Address, Direction, Facts, Hook, Known, Party, Port, Protocol};
pub use flow::Flow;
pub use identity::Identity;
