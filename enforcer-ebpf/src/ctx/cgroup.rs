//! `struct cgroup` as the argument of its tracepoints, read at the offsets that the running kernel's BTF tells.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::programs::BtfTracePointContext;
use enforcer_common::event::CgroupEvent;
use enforcer_common::layout::Offsets;

/// A cgroup of the v2 tree.
pub(crate) struct CgroupNode {
    node: *const c_void,
    offsets: Offsets,
}

impl CgroupNode {
    /// The cgroup that a tracepoint is about; `None` if it is of a v1 hierarchy or cannot be read.
    #[inline(always)]
    pub(crate) fn new(ctx: &BtfTracePointContext, offsets: Offsets) -> Option<Self> {
        let cgroup: *const c_void = ctx.arg(0);
        let root: *const c_void = read(cgroup, offsets.cgroup_root)?;
        let hierarchy: u32 = read(root, offsets.root_hierarchy)?;
        if hierarchy != 0 {
            return None;
        }
        let node = read(cgroup, offsets.cgroup_node)?;
        Some(Self { node, offsets })
    }

    /// Its id.
    #[inline(always)]
    pub(crate) fn id(&self) -> Option<u64> {
        read(self.node, self.offsets.node_id)
    }

    /// Its parent's id; `None` for the top of the tree.
    #[inline(always)]
    pub(crate) fn parent_id(&self) -> Option<u64> {
        let parent: *const c_void = read(self.node, self.offsets.node_parent)?;
        if parent.is_null() { None } else { read(parent, self.offsets.node_id) }
    }

    /// Copies its name into an event; false if it cannot be read whole.
    #[inline(always)]
    pub(crate) fn read_name(&self, event: &mut CgroupEvent) -> bool {
        let Some(name) = read::<*const c_void>(self.node, self.offsets.node_name) else { return false };
        let size = CgroupEvent::NAME as u32;
        // SAFETY: the helper writes at most `size` bytes to the field, whatever the address is worth.
        let length = unsafe { bpf_probe_read_kernel_str((&raw mut event.name).cast(), size, name) };
        if length <= 1 {
            return false;
        }
        event.length = (length - 1) as u32;
        true
    }
}

/// Reads a field; an address that is not mapped is an error and not a fault.
#[inline(always)]
fn read<T>(base: *const c_void, offset: u32) -> Option<T> {
    let field = base.wrapping_byte_add(offset as usize).cast::<T>();
    // SAFETY: the helper checks the address, and `T` is an integer or a pointer, for which all bytes are values.
    unsafe { bpf_probe_read_kernel(field) }.ok()
}
