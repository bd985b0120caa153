//! Reserved ports that the kernel may choose for whoever asks for any port, and what to do about them.

use std::fs;
use std::io;
use std::path::Path;

use crate::policy::{Policy, PortRange};

/// Ports, `low` to `high`, both included.
type Ports = (u16, u16);

/// What the kernel of a network namespace chooses ports from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ephemeral {
    range: Ports,
    /// What it leaves out of that.
    spared: Vec<Ports>,
}

impl Ephemeral {
    /// That of the network namespace of this process.
    ///
    /// # Errors
    ///
    /// `/proc` does not tell it.
    pub fn read() -> io::Result<Self> {
        let read = |name: &str| fs::read_to_string(Path::new("/proc/sys/net/ipv4").join(name));
        let (range, spared) = (read("ip_local_port_range")?, read("ip_local_reserved_ports")?);
        Self::parse(&range, &spared).ok_or_else(|| {
            io::Error::other(format!("the ranges of ports are not understood: {range:?}, {spared:?}"))
        })
    }

    fn parse(range: &str, spared: &str) -> Option<Self> {
        let mut ends = range.split_whitespace().map(|end| end.parse().ok());
        let range = (ends.next()??, ends.next()??);
        let listed = spared.trim().split(',').filter(|entry| !entry.is_empty());
        let spared = listed.map(|entry| {
            let (low, high) = entry.split_once('-').unwrap_or((entry, entry));
            Some((low.parse().ok()?, high.parse().ok()?))
        });
        Some(Self { range, spared: spared.collect::<Option<_>>()? })
    }

    fn chooses(&self, port: u16) -> bool {
        let within = |(low, high): Ports| (low..=high).contains(&port);
        within(self.range) && !self.spared.iter().any(|spared| within(*spared))
    }

    /// The ports that a policy reserves and the kernel may choose, as `net.ipv4.ip_local_reserved_ports` takes them.
    fn reserved_by(&self, policy: &Policy) -> Vec<Ports> {
        let mut ports: Vec<u16> = policy
            .services
            .iter()
            .flat_map(|service| &service.listens)
            .filter_map(|range| match range {
                PortRange::Ports { low, high, .. } => Some(*low..=*high),
                PortRange::Protocol(_) => None,
            })
            .flatten()
            .filter(|port| self.chooses(*port))
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let mut joined: Vec<Ports> = Vec::new();
        for port in ports {
            match joined.last_mut() {
                Some((_, high)) if high.checked_add(1) == Some(port) => *high = port,
                _ => joined.push((port, port)),
            }
        }
        joined
    }

    /// What is to be said of a policy whose reserved ports the kernel may choose; nothing where it cannot.
    pub fn advice(&self, policy: &Policy) -> Option<String> {
        let ports = self.reserved_by(policy);
        if ports.is_empty() {
            return None;
        }
        let listed = ports
            .iter()
            .chain(&self.spared)
            .map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") });
        let listed: Vec<String> = listed.collect();
        let (new, _) = listed.split_at(ports.len());
        Some(format!(
            "the kernel may choose the reserved ports {} for whoever asks for any port: a bind to port 0 is then refused, \
             and a connect may keep the service from its port; `sysctl net.ipv4.ip_local_reserved_ports={}` spares them",
            new.join(", "),
            listed.join(",")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::Ephemeral;
    use crate::policy::{self, Document};

    fn advice(listens: &str, range: &str, spared: &str) -> Option<String> {
        let text = format!(
            "version: 1\nservices:\n  db: {{ match: [{{ cgroup: /db }}], listens: [{listens}] }}\nallow: []\n"
        );
        let ephemeral = Ephemeral::parse(range, spared).expect("as the kernel writes it");
        let loaded = policy::compile_documents(&[Document::new("policy.yaml", text)]);
        ephemeral.advice(&loaded.policy.expect("a valid policy"))
    }

    #[test]
    fn only_ports_that_the_kernel_may_choose_are_told() {
        for (listens, spared, expected) in [
            ("5432/tcp", "\n", None),
            ("32767/tcp, 61000/udp", "\n", None),
            ("40000/tcp, 40000/udp", "\n", Some(("40000 for", "=40000`"))),
            ("40000-40002/tcp, 40003/udp", "\n", Some(("40000-40003 for", "=40000-40003`"))),
            ("32760-32768/tcp, 60999-61001/tcp", "\n", Some(("32768, 60999 for", "=32768,60999`"))),
            ("40000-40002/tcp", "40001\n", Some(("40000, 40002 for", "=40000,40002,40001`"))),
            ("40000-40002/tcp", "8080,40000-40009\n", None),
        ] {
            let told = advice(listens, "32768\t60999\n", spared);
            match (expected, &told) {
                (None, None) => {}
                (Some((ports, sysctl)), Some(told)) => {
                    assert!(told.contains(ports) && told.contains(sysctl), "{listens}: {told}");
                }
                (_, told) => panic!("{listens}: {told:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_no_range() {
        for (range, spared) in
            [("", ""), ("32768", ""), ("a b", ""), ("1 2", "x"), ("1 2", "1-"), ("1 99999", "")]
        {
            assert_eq!(Ephemeral::parse(range, spared), None, "{range:?} {spared:?}");
        }
    }
}
