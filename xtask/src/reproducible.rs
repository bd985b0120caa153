//! Builds the kernel object from two checkouts with different names, and compares the bytes.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{output, run as run_command};

/// The name of the object among what the build script leaves.
const OBJECT: &str = "enforcer-ebpf";

/// Names of different lengths: a path that finds its way into the object shifts what follows it.
const CHECKOUTS: [&str; 2] = ["one", "another-one"];

/// Copies what git tracks twice, builds both, and compares the objects.
///
/// # Errors
/// A build fails, or the objects differ.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    let scratch = workspace.join("target").join("reproducible");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    }
    let mut objects = Vec::new();
    for name in CHECKOUTS {
        let checkout = scratch.join(name);
        copy_tracked(workspace, &checkout)?;
        // One for each: in a common one cargo would take the second checkout's package for the first's.
        let target = scratch.join(format!("target-of-{name}"));
        // Checking runs the build script, which is all that makes the object.
        let mut check = Command::new("cargo");
        check.args(["check", "--quiet", "--package", "enforcer"]);
        run_command(check.current_dir(&checkout).env("CARGO_TARGET_DIR", &target))?;
        objects.push(object(&target)?);
    }
    ensure!(
        objects.windows(2).all(|pair| pair[0] == pair[1]),
        "compare the kernel objects of two checkouts: they differ\nhint: a path or a time has found its way in"
    );
    let size = objects.first().map_or(0, Vec::len);
    println!("reproducible: {} checkouts, one object of {size} bytes", CHECKOUTS.len());
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))
}

/// Copies the files that git tracks, as they are in the work tree.
fn copy_tracked(workspace: &Path, checkout: &Path) -> Result<()> {
    let tracked = output(Command::new("git").args(["ls-files", "-z"]).current_dir(workspace))?;
    for file in tracked.split('\0').filter(|file| !file.is_empty()) {
        let (from, to) = (workspace.join(file), checkout.join(file));
        if !from.is_file() {
            continue;
        }
        let directory = to.parent().with_context(|| format!("copy {file}: it has no directory"))?;
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        fs::copy(&from, &to).with_context(|| format!("copy {file}"))?;
    }
    Ok(())
}

/// The bytes of the one object below a target directory.
fn object(target: &Path) -> Result<Vec<u8>> {
    let builds = target.join("debug").join("build");
    let mut objects = Vec::new();
    for entry in fs::read_dir(&builds).with_context(|| format!("read {}", builds.display()))? {
        let object = entry?.path().join("out").join(OBJECT);
        if object.is_file() {
            objects.push(object);
        }
    }
    match objects.as_slice() {
        [object] => fs::read(object).with_context(|| format!("read {}", object.display())),
        other => bail!("find {OBJECT} below {}: there are {} of them", builds.display(), other.len()),
    }
}
