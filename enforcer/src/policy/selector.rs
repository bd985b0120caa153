//! Which cgroups a service claims: patterns over whole cgroup paths, never over a leaf name alone.

/// One entry of a service's `match` list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Selector {
    /// A systemd system unit, `nginx.service` or `payments@*.service`.
    Systemd(String),
    /// A cgroup path below the cgroup v2 root, `/shop.slice/orders-*.scope`.
    Cgroup(String),
}

impl Selector {
    /// Whether the cgroup at this path, as seen from the cgroup root, is one that the selector names.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Systemd(unit) => path.rsplit(|byte| *byte == b'/').next() == Some(unit.as_bytes()),
            Self::Cgroup(pattern) => pattern.as_bytes() == path,
        }
    }
}
