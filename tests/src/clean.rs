//! Removes what a crash of the demo or of a test has left in the kernel, and nothing of anyone else's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use enforcer::kernel::feature::{self, cgroup2_mount};
use enforcer::kernel::leftovers::{self, Attachment, Pinned};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::remove_tree;
use crate::slowness::patience;

/// How long an enforcer may take to stop when it is asked to.
const PATIENCE: Duration = Duration::from_secs(10);

/// The cgroups that sandboxes make; the number of the process that made it ends the name.
const SANDBOXES: [&str; 2] = ["enforcer-test-", "enforcer-demo-"];

/// Where an enforcer pins that is told nothing else, in every BPF file system.
const PINS: &str = "enforcer";

/// Removes pins that no process holds and cgroups whose maker has ended; with `all`, stops running enforcers first and
/// removes every sandbox. Says what it removes, and what it leaves alone and why.
///
/// # Errors
///
/// Something cannot be looked at or removed.
pub fn run(out: &mut impl Write, all: bool) -> anyhow::Result<()> {
    feature::require()?;
    let mut removed = 0;
    let attachments = leftovers::attachments()?;
    for (pid, programs) in by_holder(&attachments) {
        if all && is_enforcer(pid) {
            stop(pid)?;
            writeln!(out, "stopped    process {pid}, which held {programs} attached programs")?;
            removed += 1;
        } else {
            writeln!(out, "left alone process {pid}, which holds {programs} attached programs")?;
        }
    }
    let attachments = leftovers::attachments()?;
    for mount in leftovers::bpf_mounts()? {
        for entry in fs::read_dir(&mount).with_context(|| format!("list {}", mount.display()))? {
            let entry = entry?;
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            // What no process holds may be enforcement that goes on as it is meant to.
            if name == PINS && !all {
                writeln!(out, "left alone pins {}: `enforcer detach` ends enforcement", path.display())?;
            } else if let Some(maker) = maker(&name).filter(|maker| !all && is_alive(*maker)) {
                writeln!(
                    out,
                    "left alone pins {}: process {maker}, which made them, is alive",
                    path.display()
                )?;
            } else if name == PINS || SANDBOXES.iter().any(|prefix| name.starts_with(prefix)) {
                removed += remove_pins(out, &path, &attachments)?;
            }
        }
    }
    let tree = cgroup2_mount()?;
    for entry in fs::read_dir(&tree).with_context(|| format!("list {}", tree.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() || !SANDBOXES.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        if !all && let Some(why) = in_use(&entry.path(), &name, &attachments)? {
            writeln!(out, "left alone cgroup /{name}: {why}")?;
            continue;
        }
        remove_tree(&entry.path())?;
        writeln!(out, "removed    cgroup /{name}")?;
        removed += 1;
    }
    if removed == 0 {
        writeln!(out, "nothing to remove")?;
    }
    Ok(())
}

fn by_holder(attachments: &[Attachment]) -> BTreeMap<u32, usize> {
    let mut holders = BTreeMap::new();
    for pid in attachments.iter().flat_map(|attachment| &attachment.holders) {
        *holders.entry(*pid).or_default() += 1;
    }
    holders
}

/// Removes the pins at and below `top`, unless a process holds one of them: then all are that process's. Returns how
/// many were removed.
fn remove_pins(out: &mut impl Write, top: &Path, attachments: &[Attachment]) -> anyhow::Result<usize> {
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    collect(top, &mut files, &mut directories)?;
    let mut ours = Vec::new();
    for file in files {
        match leftovers::pinned(&file)? {
            Pinned::OurLink(id) => {
                let link = attachments.iter().find(|attachment| attachment.link == id);
                if let Some(pid) = link.and_then(|link| link.holders.first()) {
                    writeln!(out, "left alone pins {}: process {pid} holds them", top.display())?;
                    return Ok(0);
                }
                ours.push((file, link.map_or("a program", |link| link.program.as_str())));
            }
            Pinned::Ours => ours.push((file, "a program or map")),
            Pinned::Foreign => writeln!(out, "left alone pin {}: not of enforcer", file.display())?,
        }
    }
    for (file, what) in &ours {
        fs::remove_file(file).with_context(|| format!("remove pin {}", file.display()))?;
        writeln!(out, "removed    pin {} ({what})", file.display())?;
    }
    // The inner ones first; one that still holds something stays.
    for directory in directories.iter().rev() {
        if fs::read_dir(directory)?.next().is_none() {
            fs::remove_dir(directory).with_context(|| format!("remove {}", directory.display()))?;
        }
    }
    Ok(ours.len())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>, directories: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    directories.push(path.to_path_buf());
    for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        collect(&entry?.path(), files, directories)?;
    }
    Ok(())
}

/// The process that made the sandbox of this name.
fn maker(name: &str) -> Option<u32> {
    let is_sandbox = SANDBOXES.iter().any(|prefix| name.starts_with(prefix));
    name.rsplit('-').next().filter(|_| is_sandbox)?.parse().ok()
}

/// Why the sandbox at `cgroup` is somebody's, if it is.
fn in_use(cgroup: &Path, name: &str, attachments: &[Attachment]) -> anyhow::Result<Option<String>> {
    let Some(maker) = maker(name) else {
        return Ok(Some(String::from("its name does not end in a process")));
    };
    if is_alive(maker) {
        return Ok(Some(format!("process {maker}, which made it, is alive")));
    }
    let (mut ids, mut inside) = (BTreeSet::new(), BTreeSet::new());
    look_inside(cgroup, &mut ids, &mut inside)?;
    // The kernel writes 0 for a process of another pid namespace, whose maker may be alive there.
    if inside.contains(&0) {
        return Ok(Some(String::from("a process of another pid namespace is in it")));
    }
    let on_it = attachments.iter().filter(|found| found.cgroup.is_some_and(|id| ids.contains(&id)));
    let holder = on_it.flat_map(|found| &found.holders).find(|pid| !inside.contains(pid));
    Ok(holder.map(|pid| format!("process {pid} enforces on it")))
}

fn look_inside(cgroup: &Path, ids: &mut BTreeSet<u64>, inside: &mut BTreeSet<u32>) -> anyhow::Result<()> {
    ids.insert(fs::metadata(cgroup)?.ino());
    // The kernel lists no processes where threads have cgroups of their own (EOPNOTSUPP since 4.14), but these.
    for thread in fs::read_to_string(cgroup.join("cgroup.threads"))?.lines() {
        inside.extend(process_of(thread.parse()?));
    }
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            look_inside(&entry.path(), ids, inside)?;
        }
    }
    Ok(())
}

/// The process that a thread is of: 0 for one of another pid namespace, nothing if it has ended.
fn process_of(thread: u32) -> Option<u32> {
    if thread == 0 {
        return Some(0);
    }
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Whether that process runs the `enforcer` command, and not some tool that looks at links.
fn is_enforcer(pid: u32) -> bool {
    let exe = fs::read_link(Path::new("/proc").join(pid.to_string()).join("exe"));
    // The kernel adds a word to the name of a file that was replaced by a newer build.
    exe.is_ok_and(|exe| exe.to_string_lossy().trim_end_matches(" (deleted)").ends_with("/enforcer"))
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn stop(pid: u32) -> anyhow::Result<()> {
    let process = Pid::from_raw(i32::try_from(pid)?);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let start = Instant::now();
        match kill(process, signal) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(()),
            Err(err) => bail!("stop process {pid}: {err}"),
        }
        // It is no child of ours, so nothing tells when it has ended.
        while start.elapsed() < patience(PATIENCE) {
            if leftovers::attachments()?.iter().all(|found| !found.holders.contains(&pid)) {
                return Ok(());
            }
            thread::yield_now();
        }
    }
    bail!("stop process {pid}: it is still there")
}
