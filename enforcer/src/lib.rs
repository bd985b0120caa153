//! The host side of enforcer.
#![forbid(unsafe_code)]

pub mod check;
pub mod identities;
pub mod kernel;
pub mod policy;
pub mod tables;
pub mod validate;
