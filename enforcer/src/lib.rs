//! The host side of enforcer.
#![forbid(unsafe_code)]

pub mod policy;
pub mod validate;
