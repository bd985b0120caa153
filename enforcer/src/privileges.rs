//! What each part of this process may do. Capabilities are a thread's own, and what was given up does not come back.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What enforcing takes, of what the daemon was given: policies are written to maps and programs attached again
/// (`CAP_BPF`, `CAP_NET_ADMIN`), connections closed (`CAP_NET_ADMIN`), owners of sockets found (`CAP_SYS_PTRACE`,
/// `CAP_DAC_READ_SEARCH`), other network namespaces entered and the BPF file system mounted (`CAP_SYS_ADMIN`), namespaces
/// heard of (`CAP_NET_BROADCAST`), and files of others written where root was told to (`CAP_DAC_OVERRIDE`).
pub const SERVING: CapabilitySet =
    LOOKING.union(CapabilitySet::BPF).union(CapabilitySet::NET_BROADCAST).union(CapabilitySet::DAC_OVERRIDE);

/// What starting takes besides: programs are loaded that read the kernel (`CAP_PERFMON`), memory is locked on kernels before
/// 5.11 (`CAP_SYS_RESOURCE`), and the control socket given to its group (`CAP_CHOWN`, `CAP_FOWNER`).
pub const STARTING: CapabilitySet = SERVING
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER);

/// What looking at the host takes, which the control socket is answered from: nothing in the kernel is changed with it by
/// way of BPF.
pub const LOOKING: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYS_ADMIN);

/// Gives up every capability of the calling thread, in every set, and any way to come to some by `execve(2)`. Threads and
/// processes that it makes from then on have none either.
///
/// Only with `CAP_SETPCAP` the bounding set can be emptied too; without that it means nothing, since `no_new_privs` keeps
/// any program that is executed from gaining what is in there (capabilities(7), prctl(2)).
///
/// # Errors
///
/// The kernel or a filter of system calls refuses it.
pub fn drop_all() -> io::Result<()> {
    keep_only(CapabilitySet::empty())
}

/// As [`drop_all`], but the calling thread keeps those of `wanted` that it has; what it executes has none.
///
/// # Errors
///
/// The kernel or a filter of system calls refuses it.
pub fn keep_only(wanted: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let held = capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        empty_bounding_set()?;
    }
    clear_ambient_capability_set()?;
    let kept = held.permitted & wanted;
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?;
    Ok(())
}

fn empty_bounding_set() -> io::Result<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // This kernel knows no more of them.
            Err(Errno::INVAL) => break,
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::read_to_string;
    use std::thread;

    #[test]
    fn a_thread_that_gives_up_all_has_none_and_the_others_keep_theirs() {
        let status = || read_to_string("/proc/thread-self/status").expect("the thread's status");
        let before = status();
        let given_up = thread::spawn(move || {
            super::drop_all().expect("anybody may give up");
            status()
        })
        .join()
        .expect("no panic");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(given_up.contains(&format!("{set}:\t0000000000000000\n")), "{set}: {given_up}");
        }
        assert!(given_up.contains("NoNewPrivs:\t1\n"), "{given_up}");
        let sets = |status: &str| -> Vec<String> {
            status.lines().filter(|line| line.starts_with("Cap")).map(str::to_owned).collect()
        };
        assert_eq!(sets(&before), sets(&status()));
    }
}
