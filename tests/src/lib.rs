//! How the project is tested: cases as data, and the executors that answer them.
//!
//! A case ([`case`]) is a policy, attempts and what is expected of them. The [`oracle`] answers an attempt straight
//! from the policy, slowly; [`compiled`] answers it as the kernel does, through tables and `decide`; [`kernel`] has
//! processes make it. [`sketch`] makes
//! policies without YAML, for properties and capacities.
//!
//! On a real kernel a [`sandbox`] is a cgroup subtree and a network namespace of a test's own, with a daemon over the
//! one (its log in a file: [`mod@run`]) and [`actor`] processes in both, which can keep connections ([`kept`]) or call
//! without end ([`load`]); [`bpftool`] tells what is attached to it, [`fdinfo`] what a process holds, and [`amount`] says how much of something a test does, and [`slowness`] lets all of it run
//! where every step takes longer; [`mod@bench`] measures in such sandboxes, and [`budget`] says what programs may cost the verifier. A [`machine`] is a whole
//! Debian with systemd, whose services run a [`mod@unit`] each.
#![forbid(unsafe_code)]

pub mod actor;
pub mod amount;
pub mod bench;
pub mod bpftool;
pub mod budget;
pub mod bypass;
pub mod case;
pub mod clean;
pub mod compiled;
pub mod containerd;
pub mod cri;
pub mod datagrams;
pub mod demo;
pub mod engine;
pub mod fdinfo;
pub mod hostile;
pub mod kept;
pub mod kernel;
pub mod load;
pub mod machine;
pub mod oracle;
pub mod run;
pub mod sandbox;
pub mod sketch;
pub mod slowness;
pub mod unit;
pub mod verdicts;
