//! What the kernel counts of its programs: how often each ran and for how long (`kernel.bpf_stats_enabled`, 5.1).

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, ensure};

use crate::bpftool;
use crate::fdinfo::{self, field};

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
        Some(Runs { times: field(text, "run_cnt")?, nanoseconds: field(text, "run_time_ns")? })
    })
}

/// How many instructions the verifier walked for each program that a process holds (kernel 5.16).
///
/// # Errors
///
/// The process has ended, or the kernel does not tell.
pub fn verified(pid: u32) -> anyhow::Result<BTreeMap<String, u64>> {
    of_programs(pid, |text| field(text, "verified_insns"))
}

fn of_programs<T>(pid: u32, read: impl Fn(&str) -> Option<T>) -> anyhow::Result<BTreeMap<String, T>> {
    let mut found = BTreeMap::new();
    for text in fdinfo::of_process(pid)? {
        if let (Some(id), Some(value)) = (field(&text, "prog_id"), read(&text)) {
            found.insert(bpftool::program_name(id)?, value);
        }
    }
    ensure!(!found.is_empty(), "process {pid} holds no programs");
    Ok(found)
}

/// What was added to a count.
pub fn since(before: &BTreeMap<String, Runs>, after: &BTreeMap<String, Runs>) -> BTreeMap<String, Runs> {
    let added = |name: &String, after: &Runs| {
        let before = before.get(name).copied().unwrap_or_default();
        Runs { times: after.times - before.times, nanoseconds: after.nanoseconds - before.nanoseconds }
    };
    after.iter().map(|(name, runs)| (name.clone(), added(name, runs))).collect()
}
