//! The host side of enforcer, in reading order: a [`policy`] is read, compiled to [`tables`], put into the
//! [`kernel`], and served by the [`daemon`], which writes the [`audit`] log and answers through its [`control`] socket.
//! [`validate`] and [`check`] answer without a kernel.
#![deny(unsafe_code)]

pub mod audit;
pub mod cgroups;
pub mod check;
pub mod cli;
pub mod connections;
pub mod containers;
pub mod control;
pub mod daemon;
pub mod descriptors;
pub mod detach;
pub mod ephemeral;
pub mod existing;
pub mod failpoint;
pub mod identities;
mod install;
pub mod kernel;
pub mod lock;
pub mod namespaces;
pub mod netns;
pub mod notify;
pub mod output;
pub mod parser;
pub mod policy;
pub mod privileges;
pub mod proc;
pub mod reconcile;
pub mod revision;
pub mod state;
pub mod staying;
pub mod tables;
pub mod timer;
pub mod validate;
pub mod vital;
pub mod watch;
