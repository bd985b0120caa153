//! One policy of any size, and what each way of enforcing it is told of it. Pure: text in, text out.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::ops::Range;

/// The service whose calls are measured, and its cgroup.
pub const CLIENT: &str = "client";
/// The service that answers them, and its cgroup.
pub const SERVER: &str = "server";
/// A service that no rule lets call anybody, and its cgroup.
pub const STRANGER: &str = "stranger";
/// A cgroup of no service.
pub const UNMANAGED: &str = "unmanaged";

/// Where the server takes TCP connections and ends them at once.
pub const CONNECTIONS: u16 = 7001;
/// The same, for a proxy: it ends them in order, since a proxy takes a reset for a failure and tries again.
pub const ORDERLY: u16 = 7005;
/// Where it answers every byte with one.
pub const ROUND_TRIPS: u16 = 7002;
/// Where it reads whatever comes.
pub const STREAM: u16 = 7003;
/// Where it takes datagrams.
pub const DATAGRAMS: u16 = 7004;

/// Whom a rule is about, by number of the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    /// Who may call.
    pub from: usize,
    /// Who may be called.
    pub to: usize,
    /// Where.
    pub port: u16,
    /// Whether the port is of UDP, not TCP.
    pub udp: bool,
}

/// Where the rules that are measured stand among the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// As many before as after them: what a list costs on average.
    Middle,
    /// Behind all others: where a new rule is appended, and what a refusal costs.
    Last,
}

/// A policy of so many rules, of which four are used.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Names of services, which are also those of their cgroups.
    pub services: Vec<String>,
    /// What is permitted.
    pub edges: Vec<Edge>,
}

/// Ports that the client may reach, and which of them are of UDP.
const USED: [(u16, bool); 4] =
    [(CONNECTIONS, false), (ROUND_TRIPS, false), (STREAM, false), (DATAGRAMS, true)];

/// The first three services.
const NAMED: [&str; 3] = [CLIENT, SERVER, STRANGER];

/// The port that the rules nobody uses are about.
const UNUSED_PORT: u16 = 8080;

impl Workload {
    /// Makes a policy of at least four rules.
    pub fn new(rules: usize, place: Place) -> Self {
        let others = rules.saturating_sub(USED.len());
        // So many services have as many ordered pairs.
        let number = (2..).find(|services| services * (services - 1) >= others).unwrap_or(2);
        let mut services: Vec<String> = NAMED.map(str::to_owned).to_vec();
        services.extend((0..number).map(|index| format!("s{index}")));
        let pairs = (0..number).flat_map(|from| (0..number).map(move |to| (from, to)));
        let mut edges: Vec<Edge> = pairs
            .filter(|(from, to)| from != to)
            .take(others)
            .map(|(from, to)| Edge {
                from: from + NAMED.len(),
                to: to + NAMED.len(),
                port: UNUSED_PORT,
                udp: false,
            })
            .collect();
        let at = match place {
            Place::Middle => others / 2,
            Place::Last => others,
        };
        edges.splice(at..at, USED.map(|(port, udp)| Edge { from: 0, to: 1, port, udp }));
        Self { services, edges }
    }

    /// The address at which a service answers; each has one of its own, so that those who tell services by address can.
    pub fn address(service: usize) -> Ipv4Addr {
        let [.., high, low] = service.to_be_bytes();
        Ipv4Addr::new(127, 1, high, low)
    }

    /// The address of the server.
    pub fn server() -> Ipv4Addr {
        Self::address(1)
    }

    /// The address of a server that is no service.
    pub const fn unmanaged() -> Ipv4Addr {
        Ipv4Addr::new(127, 2, 0, 1)
    }

    /// The policy as enforcer reads it; `root` is the path of the cgroups' parent from the top of the tree. With a
    /// `change` the port of the last rule that nobody uses is another one.
    pub fn yaml(&self, root: &str, change: bool) -> String {
        let mut text = self.services_yaml(root);
        self.rules_yaml(&mut text, 0..self.edges.len(), change);
        text
    }

    /// The same as files, by name: the services, and the rules with so many in each.
    pub fn files(&self, root: &str, each: usize, change: bool) -> Vec<(String, String)> {
        let mut files = vec![(String::from("services.yaml"), self.services_yaml(root))];
        for start in (0..self.edges.len()).step_by(each) {
            let mut text = String::from("version: 1\n");
            self.rules_yaml(&mut text, start..self.edges.len().min(start + each), change);
            files.push((format!("rules-{start:07}.yaml"), text));
        }
        files
    }

    fn services_yaml(&self, root: &str) -> String {
        let mut text = String::from("version: 1\nservices:\n");
        for name in &self.services {
            line(&mut text, format_args!("  {name}: {{ match: [{{ cgroup: {root}/{name} }}] }}"));
        }
        text
    }

    fn rules_yaml(&self, text: &mut String, range: Range<usize>, change: bool) {
        text.push_str("allow:\n");
        let changed = self.edges.iter().rposition(|edge| edge.port == UNUSED_PORT).filter(|_| change);
        for (number, edge) in self.edges.iter().enumerate().take(range.end).skip(range.start) {
            let (from, to) = (self.name(edge.from), self.name(edge.to));
            let port = if changed == Some(number) { UNUSED_PORT + 1 } else { edge.port };
            let protocol = edge.protocol();
            line(
                text,
                format_args!("  - {{ name: r{number}, from: {from}, to: {to}, ports: [{port}/{protocol}] }}"),
            );
        }
    }

    /// The best form for nftables: the first packet of a connection and each datagram are looked up in one set by who
    /// sends, where to and at which port. `root` is the path of the cgroups' parent from `/sys/fs/cgroup`, and `level` how
    /// many directories of the cgroup tree lead to a service.
    pub fn nft_set(&self, root: &str, level: usize) -> String {
        let mut text = String::from("table inet bench {\n");
        for (set, udp) in [("calls", false), ("datagrams", true)] {
            line(
                &mut text,
                format_args!(
                    "set {set} {{\ntypeof socket cgroupv2 level {level} . ip daddr . {} dport\nelements = {{",
                    if udp { "udp" } else { "tcp" }
                ),
            );
            for edge in self.edges.iter().filter(|edge| edge.udp == udp) {
                let (from, to) = (self.name(edge.from), Self::address(edge.to));
                line(&mut text, format_args!("\"{root}/{from}\" . {to} . {},", edge.port));
            }
            text.push_str("}\n}\n");
        }
        line(
            &mut text,
            format_args!(
                "chain out {{\ntype filter hook output priority 0; policy accept;\n\
                 tcp flags & (syn | ack) == syn socket cgroupv2 level {level} . ip daddr . tcp dport @calls accept\n\
                 tcp flags & (syn | ack) == syn reject with tcp reset\n\
                 meta l4proto udp socket cgroupv2 level {level} . ip daddr . udp dport @datagrams accept\n\
                 meta l4proto udp reject\n}}\n}}"
            ),
        );
        text
    }

    /// The form that people write: one line for each rule, behind one that lets through what is established. What is
    /// refused is dropped, and its caller waits for nothing.
    pub fn nft_linear(&self, root: &str, level: usize) -> String {
        let mut text = String::from(
            "table inet bench {\nchain out {\ntype filter hook output priority 0; policy drop;\n\
             ct state established,related accept\n",
        );
        for edge in &self.edges {
            let (from, to) = (self.name(edge.from), Self::address(edge.to));
            let (protocol, port) = (edge.protocol(), edge.port);
            line(
                &mut text,
                format_args!(
                    "socket cgroupv2 level {level} \"{root}/{from}\" ip daddr {to} {protocol} dport {port} accept"
                ),
            );
        }
        text.push_str("}\n}\n");
        text
    }

    /// Who may call the server, by name: what the proxy beside it lets through.
    pub fn callers(&self) -> Vec<&str> {
        let mut callers: Vec<&str> =
            self.edges.iter().filter(|edge| edge.to == 1).map(|edge| self.name(edge.from)).collect();
        callers.dedup();
        callers
    }

    /// Where anybody may be called over TCP: what a verdict loop that sees packets can go by.
    pub fn places(&self) -> impl Iterator<Item = (Ipv4Addr, u16)> {
        self.edges.iter().filter(|edge| !edge.udp).map(|edge| (Self::address(edge.to), edge.port))
    }

    fn name(&self, service: usize) -> &str {
        self.services.get(service).map_or("", String::as_str)
    }
}

impl Edge {
    const fn protocol(self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(text, "{words}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use enforcer::policy::{Document, compile_documents};

    use super::{Place, Workload};

    #[test]
    fn a_workload_has_as_many_rules_as_asked_for_and_every_pair_once() {
        for rules in [4, 5, 10, 1000, 10_000] {
            for place in [Place::Middle, Place::Last] {
                let workload = Workload::new(rules, place);
                assert_eq!(workload.edges.len(), rules);
                let pairs: BTreeSet<_> =
                    workload.edges.iter().map(|edge| (edge.from, edge.to, edge.port)).collect();
                assert_eq!(pairs.len(), rules);
                assert!(workload.edges.iter().all(|edge| edge.to < workload.services.len()));
            }
        }
        let last = Workload::new(10, Place::Last).edges.last().copied().expect("ten rules");
        assert!(last.udp && last.from == 0);
    }

    #[test]
    fn every_form_says_the_same() {
        let workload = Workload::new(6, Place::Middle);
        let yaml = workload.yaml("/bench", false);
        let loaded = compile_documents(&[Document::new("policy.yaml", yaml)]);
        let policy = loaded.policy.expect("valid");
        assert_eq!((policy.services.len(), policy.rules.len()), (5, 6));
        let set = workload.nft_set("unified/bench", 2);
        let linear = workload.nft_linear("unified/bench", 2);
        for (from, to, port) in
            [("client", "127.1.0.1", 7001), ("s0", "127.1.0.4", 8080), ("s1", "127.1.0.3", 8080)]
        {
            let element = format!("\"unified/bench/{from}\" . {to} . {port},\n");
            assert_eq!(set.matches(&element).count(), 1, "{element}");
            let rule = format!("level 2 \"unified/bench/{from}\" ip daddr {to} tcp dport {port} accept\n");
            assert_eq!(linear.matches(&rule).count(), 1, "{rule}");
        }
        assert_eq!(set.matches(" . 7004,\n").count(), 1);
        assert_eq!(linear.matches(" accept\n").count(), 7);
        assert_eq!(workload.callers(), ["client"]);
        assert_eq!(workload.places().count(), 5);
    }

    #[test]
    fn a_change_is_of_one_line() {
        let workload = Workload::new(100, Place::Middle);
        let (before, after) = (workload.yaml("/b", false), workload.yaml("/b", true));
        assert_eq!(before.lines().zip(after.lines()).filter(|(a, b)| a != b).count(), 1);
        assert_eq!(before.lines().count(), after.lines().count());
    }
}
