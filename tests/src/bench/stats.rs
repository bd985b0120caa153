//! What the kernel counts of its programs: how often each ran and for how long (`kernel.bpf_stats_enabled`, 5.1).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, ensure};

use crate::bpftool;

/// Runs of a program since it was loaded, as far as statistics were enabled.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Runs {
    /// How often it ran.
    pub times: f64,
    /// How long in all, in nanoseconds. About 60 of each run are the counting itself.
    pub nanoseconds: f64,
}

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// While this lives, the kernel counts. It is the whole machine's switch, and is put back as it was.
pub struct Counting {
    before: String,
}

impl Counting {
    /// Begins.
    ///
    /// # Errors
    ///
    /// The kernel has no such switch, or this process may not turn it.
    pub fn start() -> anyhow::Result<Self> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("read {SWITCH}"))?;
        fs::write(SWITCH, "1").with_context(|| format!("write {SWITCH}"))?;
        Ok(Self { before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Err(err) = fs::write(SWITCH, &self.before) {
            tracing::error!("write {SWITCH}: {err}");
        }
    }
}

/// What is counted of the programs that a process holds, by their names.
///
/// # Errors
///
/// The process has ended, or the kernel does not tell.
pub fn of_process(pid: u32) -> anyhow::Result<BTreeMap<String, Runs>> {
    of_programs(pid, |text| {
        Some(Runs { times: field(text, "run_cnt:")?, nanoseconds: field(text, "run_time_ns:")? })
    })
}

/// How many instructions the verifier walked for each program that a process holds (kernel 5.16).
///
/// # Errors
///
/// The process has ended, or the kernel does not tell.
pub fn verified(pid: u32) -> anyhow::Result<BTreeMap<String, u64>> {
    of_programs(pid, |text| field(text, "verified_insns:"))
}

fn of_programs<T>(pid: u32, read: impl Fn(&str) -> Option<T>) -> anyhow::Result<BTreeMap<String, T>> {
    let directory = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let (Some(id), Some(value)) = (field(&text, "prog_id:"), read(&text)) {
            found.insert(bpftool::program_name(id)?, value);
        }
    }
    ensure!(!found.is_empty(), "process {pid} holds no programs");
    Ok(found)
}

/// A field of what the kernel tells of a program's descriptor (`bpf_prog_show_fdinfo`).
fn field<T: FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// What was added to a count.
pub fn since(before: &BTreeMap<String, Runs>, after: &BTreeMap<String, Runs>) -> BTreeMap<String, Runs> {
    let added = |name: &String, after: &Runs| {
        let before = before.get(name).copied().unwrap_or_default();
        Runs { times: after.times - before.times, nanoseconds: after.nanoseconds - before.nanoseconds }
    };
    after.iter().map(|(name, runs)| (name.clone(), added(name, runs))).collect()
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn programs_are_told_from_other_descriptors() {
        let text =
            "pos:\t0\nflags:\t02000002\nprog_type:\t18\nprog_id:\t42\nrun_time_ns:\t900\nrun_cnt:\t9\n";
        assert_eq!((field(text, "prog_id:"), field(text, "run_cnt:")), (Some(42), Some(9.0)));
        // That of a link, which tells its program's id too.
        let text = "link_type:\tcgroup\nlink_id:\t3\nprog_tag:\t0\nprog_id:\t42\n";
        assert_eq!(field::<f64>(text, "run_cnt:"), None);
    }
}
