//! What each hook sees, one file per family.
//!
//! | hook | program type | sees | refuses with |
//! |---|---|---|---|
//! | `connect4`, `connect6` | cgroup_sock_addr | the calling task and the address it connects to (TCP, MPTCP, UDP, ping) | `EPERM` |
//! | `sendmsg4`, `sendmsg6` | cgroup_sock_addr | the calling task and the address of one datagram of a UDP socket that is not connected, or that comes with control messages | `EPERM` |
//! | `egress` | cgroup_skb | the sending socket and a packet of it that is not plain TCP | `EPERM` |
//! | `ingress` | cgroup_skb | the receiving socket and a packet for it | drop |
//! | `bind4`, `bind6` | cgroup_sock_addr | the calling task and the port it binds | `EPERM` |
//! | `post_bind4`, `post_bind6` | cgroup_sock | a socket that has just been bound, and its port | `EPERM` |
//! | `sock_create` | cgroup_sock | the calling task, family, type and protocol of a new IP socket | `EPERM` |
//!
//! All of them exist since kernel 4.18; the helpers used need 5.10.

mod bind;
mod call;
mod cgroup;
mod connect;
mod egress;
mod ingress;
mod post_bind;
mod sendmsg;
mod sock_create;

/// What a cgroup program returns to let the attempt go on.
const PASS: i32 = 1;
/// What a cgroup program returns to refuse it.
const REFUSE: i32 = 0;

/// The return code for a decision.
#[inline(always)]
const fn answer(decision: &enforcer_common::Decision) -> i32 {
    if decision.admits() { PASS } else { REFUSE }
}
