//! Tries every technique of the bypass corpus on the running kernel, and prints how each is blocked.
use std::path::Path;

use anyhow::{Result, bail};

use crate::demo::{self, Profile};
use crate::{is_root, setup};

/// Does not return if all goes well: this process becomes the program that tries.
///
/// # Errors
/// Not root, or something cannot be installed, built or started.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    if !is_root() {
        bail!(
            "run the bypass corpus: loading programs and creating cgroups needs root\n\
             hint: run `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask bypass`"
        );
    }
    setup::run(&setup::Args { with_tests: true })?;
    demo::become_program(workspace, Profile::Debug, "enforcer-bypass", &[])
}
