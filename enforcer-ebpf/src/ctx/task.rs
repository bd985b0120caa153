//! The task in whose context a hook runs.

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use enforcer_common::limits::MAX_ANCESTORS;
use enforcer_common::{Party, Tables};

/// What an event says of a process.
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) comm: [u8; 16],
}

/// The process that makes the attempt.
#[inline(always)]
pub(crate) fn process() -> Process {
    Process {
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: (bpf_get_current_uid_gid() & 0xffff_ffff) as u32,
        // The helper fails only for a buffer of no size.
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    }
}

/// The cgroup v2 id of the current task.
#[inline(always)]
pub(crate) fn cgroup() -> u64 {
    // SAFETY: the helper takes nothing and reads only the current task.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The current task as a party: by its own cgroup, or by the nearest ancestor that the tables know.
#[inline(always)]
pub(crate) fn party<T: Tables>(tables: &T) -> Party {
    let id = cgroup();
    if tables.cgroup(id).is_some() {
        return Party::Cgroup(id);
    }
    // Only a cgroup that was made a moment ago comes here.
    let mut nearest = Party::Unknown;
    let mut level = 0;
    while level < MAX_ANCESTORS {
        // SAFETY: the helper reads only the current task, and returns 0 below its own level.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        if tables.cgroup(id).is_some() {
            nearest = Party::Below(id);
        }
        level += 1;
    }
    nearest
}
