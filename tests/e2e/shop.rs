//! What most policies of tests begin with: two services, of which one may call the other or not.

use std::net::SocketAddr;

/// A caller and an answerer.
pub(crate) const SERVICES: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
";

/// Permits it, at the port 8080.
pub(crate) const RULE: &str = "allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp] }
";

/// This port of the loopback device.
pub(crate) fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
