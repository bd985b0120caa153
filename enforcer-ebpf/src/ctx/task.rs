//! The task in whose context a hook runs.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
    bpf_get_current_task_btf,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use enforcer_common::event::Event;
use enforcer_common::layout::TaskFields;
use enforcer_common::{Known, Party};

use crate::maps::{self, KernelTables};

/// Says in an event which process makes the attempt.
#[inline(always)]
pub(crate) fn describe(event: &mut Event) {
    let fields = maps::task_fields();
    // Decided when the program is loaded, since the fields are constants by then: the other way is taken out of it.
    if fields.are_known() {
        copy(event, &fields);
    } else {
        ask(event);
    }
}

/// Reads it where it lies, which the verifier admits at the places that the kernel's own types name.
#[inline(always)]
fn copy(event: &mut Event, fields: &TaskFields) {
    // SAFETY: the helper takes nothing and returns the current task, which stays as long as it runs this.
    let task: *const c_void = unsafe { bpf_get_current_task_btf() }.cast_const().cast();
    event.pid = word(task, fields.process) as u32;
    let credentials = double_word(task, fields.credentials) as *const c_void;
    // Every task has some, which the verifier does not know where the kernel's types say that RCU guards them.
    event.uid = if credentials.is_null() {
        (bpf_get_current_uid_gid() & 0xffff_ffff) as u32
    } else {
        word(credentials, fields.user) as u32
    };
    let name = (&raw mut event.comm).cast::<c_void>();
    for half in [0, 8] {
        let value = double_word(task, fields.name + half);
        // SAFETY: eight of the sixteen bytes of the field. They need not be aligned, which the instruction does not ask for.
        unsafe {
            asm!("*(u64 *)({at} + 0) = {value}", at = in(reg) name.wrapping_byte_add(half as usize), value = in(reg) value,
                options(nostack));
        }
    }
}

/// Reads four bytes of one of the kernel's structures; 0 where there is none.
#[inline(always)]
fn word(structure: *const c_void, offset: u32) -> u64 {
    let value: u64;
    // SAFETY: the verifier knows the type behind the pointer and what lies at the offset, and has a read that faults give 0.
    unsafe {
        asm!("{value} = *(u32 *)({at} + 0)", value = out(reg) value,
            at = in(reg) structure.wrapping_byte_add(offset as usize), options(pure, readonly, nostack));
    }
    value
}

/// The same of eight bytes.
#[inline(always)]
fn double_word(structure: *const c_void, offset: u32) -> u64 {
    let value: u64;
    // SAFETY: as for `word`.
    unsafe {
        asm!("{value} = *(u64 *)({at} + 0)", value = out(reg) value,
            at = in(reg) structure.wrapping_byte_add(offset as usize), options(pure, readonly, nostack));
    }
    value
}

/// Asks helpers for it.
#[inline(always)]
fn ask(event: &mut Event) {
    event.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    event.uid = (bpf_get_current_uid_gid() & 0xffff_ffff) as u32;
    let size = size_of_val(&event.comm) as u32;
    // SAFETY: the helper writes at most `size` bytes to the field. It fails only for a buffer of no size.
    let _: i64 = unsafe { bpf_get_current_comm((&raw mut event.comm).cast(), size) };
}

/// The cgroup v2 id of the current task.
#[inline(always)]
pub(crate) fn cgroup() -> u64 {
    // SAFETY: the helper takes nothing and reads only the current task.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The id of the top of the cgroup v2 tree, which is its first directory (`kernfs_create_root` in fs/kernfs/dir.c).
const TOP: u64 = 1;

/// Whether a task of this cgroup is in no cgroup but the top one, as the threads of the kernel are.
#[inline(always)]
pub(crate) const fn is_top(cgroup: u64) -> bool {
    cgroup == TOP
}

/// Whether a party is known by its own cgroup.
#[inline(always)]
pub(crate) fn is_exact(party: &Party) -> bool {
    party.known() == Known::Cgroup
}

/// The id of the current task's ancestor cgroup at this level, the root being 0; 0 below the task's own level.
#[inline(always)]
pub(crate) fn ancestor(level: u32) -> u64 {
    // SAFETY: the helper reads only the current task.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// The current task, which is in the cgroup `id`, as a party: by that, or by the nearest ancestor that the tables know.
#[inline(always)]
pub(crate) fn party(id: u64, tables: &mut KernelTables) -> Party {
    if tables.find(id) {
        return Party::cgroup(id);
    }
    match tables.nearest_ancestor() {
        0 => Party::UNKNOWN,
        ancestor => Party::below(ancestor),
    }
}
