//! `cgroup_mkdir` and `cgroup_release`: a cgroup is identified before a process can be in it, and forgotten when nothing
//! refers to it any more (its directory may be gone long before, while a socket lives on).

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use enforcer_common::counter::Counter;

use crate::ctx::cgroup::CgroupNode;
use crate::maps::{Claims, count, offsets, scratch};
use crate::record::tell_cgroup;

#[btf_tracepoint(function = "cgroup_mkdir")]
fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    let Some(node) = CgroupNode::new(&ctx, offsets()) else { return 0 };
    let (Some(id), Some(parent)) = (node.id(), node.parent_id()) else { return 0 };
    // Of a subtree that nobody judges nothing is remembered.
    if !Claims::BOTH.iter().any(|claims| claims.knows(parent)) {
        return 0;
    }
    let Some(event) = scratch() else {
        count(Counter::CGROUPS_FAILED);
        return 0;
    };
    event.id = id;
    event.parent = parent;
    event.made = 1;
    if !node.read_name(event) || !Claims::BOTH.iter().all(Claims::enter) {
        count(Counter::CGROUPS_FAILED);
    }
    tell_cgroup(event);
    0
}

#[btf_tracepoint(function = "cgroup_release")]
fn cgroup_release(ctx: BtfTracePointContext) -> i32 {
    let Some(id) = CgroupNode::new(&ctx, offsets()).and_then(|node| node.id()) else { return 0 };
    if !Claims::BOTH.iter().any(|claims| claims.knows(id)) {
        return 0;
    }
    for claims in Claims::BOTH {
        claims.forget(id);
    }
    if let Some(event) = scratch() {
        event.id = id;
        event.parent = 0;
        event.made = 0;
        event.length = 0;
        tell_cgroup(event);
    }
    0
}
