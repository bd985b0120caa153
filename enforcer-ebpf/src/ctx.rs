//! The only readers of raw kernel memory: each context type with typed getters over what its hook may read.

pub(crate) mod cgroup;
pub(crate) mod packet;
pub(crate) mod sock;
pub(crate) mod sock_addr;
pub(crate) mod task;
