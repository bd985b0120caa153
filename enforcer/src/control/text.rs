//! What the commands show people: short, aligned, readable without colour.

use std::collections::BTreeMap;
use std::fmt;

use super::api::{
    Applied, Connection, Connections, Coverage, Diff, Endpoint, Identified, Identity, InForce, PairChange,
    Policy, Process, Services, Status,
};
use crate::output::printable;

/// Lines of one kind of finding that are shown; the JSON has all of them.
const LINES: usize = 20;

/// Rows whose columns are padded to the widest entry; the last column is not. What is in them may come from anyone, and may be read
/// on a terminal.
fn table(f: &mut fmt::Formatter<'_>, indent: &str, rows: &[Vec<String>]) -> fmt::Result {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            match widths.get_mut(column) {
                Some(width) => *width = (*width).max(cell.chars().count()),
                None => widths.push(cell.chars().count()),
            }
        }
    }
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(f, "{indent}{}", line.trim_end())?;
    }
    Ok(())
}

/// The first rows of many, and how many are left out.
fn some(f: &mut fmt::Formatter<'_>, indent: &str, rows: &[Vec<String>]) -> fmt::Result {
    table(f, indent, rows.get(..LINES).unwrap_or(rows))?;
    match rows.len().checked_sub(LINES) {
        Some(more @ 1..) => writeln!(f, "{indent}and {more} more: `-o json` shows them all"),
        Some(0) | None => Ok(()),
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", std::net::SocketAddr::new(self.address, self.port), self.protocol)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.pid, self.exe.as_ref().unwrap_or(&self.comm))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = &self.policy;
        let total = |outcome: &str| -> u64 {
            let counted = self.decisions.iter().filter(|decisions| decisions.outcome == outcome);
            counted.map(|decisions| decisions.count).sum()
        };
        let hash = policy.sha256.get(..12).unwrap_or(&policy.sha256);
        let origin = match policy.origin.as_str() {
            "directory" => format!("from {}", policy.directory),
            _ => format!("applied; the directory is {}", policy.directory),
        };
        let row = |name: &str, text: String| vec![name.to_owned(), text];
        table(
            f,
            "",
            &[
                row("enforcer", format!("{}, process {}, since {}", self.version, self.pid, self.started)),
                row(
                    "policy",
                    format!("revision {}, {origin}, sha256 {hash}, since {}", policy.revision, policy.since),
                ),
                row(
                    "",
                    format!(
                        "{}, {}, {}",
                        count(policy.services, "service"),
                        count(policy.networks, "network"),
                        count(policy.rules, "rule")
                    ),
                ),
                row(
                    "cgroups",
                    format!(
                        "{} below {}, identified by the {}",
                        self.cgroups.known, self.cgroup_root, self.kernel.cgroups_identified_by
                    ),
                ),
                row(
                    "decisions",
                    format!(
                        "{} allowed, {} denied, {} would be denied",
                        total("allowed"),
                        total("denied"),
                        total("would-deny")
                    ),
                ),
                row(
                    "events",
                    format!(
                        "{} produced, {} written to {}, {} lost",
                        self.events.produced, self.events.written, self.events.audit, self.events.lost
                    ),
                ),
            ],
        )?;
        if !policy.audited.is_empty() {
            writeln!(f, "\nin audit mode, where what is denied passes: {}", policy.audited.join(", "))?;
        }
        let refusals: Vec<Vec<String>> = self
            .decisions
            .iter()
            .filter(|decisions| decisions.outcome != "allowed")
            .map(|decisions| {
                vec![decisions.outcome.clone(), decisions.reason.clone(), decisions.count.to_string()]
            })
            .collect();
        if !refusals.is_empty() {
            writeln!(f, "\nrefusals")?;
            table(f, "  ", &refusals)?;
        }
        if self.degraded.is_empty() {
            writeln!(f, "\nnot degraded")?;
        } else {
            writeln!(f, "\ndegraded")?;
            let rows: Vec<Vec<String>> =
                self.degraded.iter().map(|what| vec![what.code.clone(), what.text.clone()]).collect();
            table(f, "  ", &rows)?;
        }
        write!(f, "{}", self.coverage)
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<(&str, Vec<Vec<String>>)> = Vec::new();
        let selectors = self.unmatched_selectors.iter();
        parts.push((
            "selectors that no cgroup answers to",
            selectors.map(|unmatched| vec![unmatched.service.clone(), unmatched.selector.clone()]).collect(),
        ));
        let listeners = self.unknown_listeners.iter();
        parts.push((
            "listeners of unknown owners",
            listeners
                .map(|listener| {
                    vec![listener.at.to_string(), listener.why.clone(), listener.cgroups.join(" ")]
                })
                .collect(),
        ));
        let overlaps = self.overlapping_claims.iter();
        parts.push((
            "cgroups that more than one service claims",
            overlaps
                .map(|overlap| {
                    let claims = overlap.claims.iter();
                    let claims: Vec<String> =
                        claims.map(|claim| format!("{} ({})", claim.service, claim.selector)).collect();
                    vec![overlap.cgroup.clone(), claims.join(", ")]
                })
                .collect(),
        ));
        let pending = self.pending_containers.iter();
        parts.push((
            "containers of which no runtime has told",
            pending.map(|cgroup| vec![cgroup.clone()]).collect(),
        ));
        let proxies = self.proxies.iter();
        parts.push((
            "proxies, which call and answer in their own name",
            proxies
                .map(|proxy| {
                    let ports: Vec<String> = proxy.ports.iter().map(ToString::to_string).collect();
                    vec![
                        proxy.name.clone(),
                        format!("process {}", proxy.process.pid),
                        format!("as {}", proxy.service),
                        ports.join(" "),
                    ]
                })
                .collect(),
        ));
        parts.retain(|(_, rows)| !rows.is_empty());
        if parts.is_empty() {
            writeln!(f, "\neverything that was seen is under control")?;
        } else {
            writeln!(f, "\nnot under control")?;
        }
        for (what, rows) in parts {
            writeln!(f, "  {what}")?;
            some(f, "    ", &rows)?;
        }
        if !self.limits.is_empty() {
            writeln!(f, "\nopen by design")?;
        }
        let limits: Vec<Vec<String>> =
            self.limits.iter().map(|limit| vec![limit.code.clone(), limit.text.clone()]).collect();
        table(f, "  ", &limits)
    }
}

impl fmt::Display for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.services.is_empty() {
            return writeln!(f, "the policy declares no service");
        }
        for (number, service) in self.services.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {}", service.name, service.mode)?;
            if !service.reserves.is_empty() {
                write!(f, ", reserves {}", service.reserves.join(" "))?;
            }
            writeln!(f)?;
            let mut rows = Vec::new();
            for cgroup in &service.cgroups {
                let by = if cgroup.matched.cgroup == cgroup.path {
                    format!("by {}", cgroup.matched.selector)
                } else {
                    format!("below {}", cgroup.matched.cgroup)
                };
                let ports: Vec<String> = cgroup.ports.iter().map(ToString::to_string).collect();
                let processes = match cgroup.processes.len() {
                    1 => String::from("1 process"),
                    number => format!("{number} processes"),
                };
                rows.push(vec![cgroup.path.clone(), processes, by, ports.join(" ")]);
            }
            some(f, "  ", &rows)?;
            for selector in service.selectors.iter().filter(|selector| selector.matches == 0) {
                writeln!(f, "  no cgroup answers to {}", printable(&selector.selector))?;
            }
        }
        if !self.complete {
            writeln!(f, "\nthere was no time to look at every process")?;
        }
        Ok(())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, answer) in self.answers.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{}: {answer}", printable(&self.of))?;
        }
        Ok(())
    }
}

impl fmt::Display for Identified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if let Some(mode) = &self.mode {
            write!(f, " ({mode})")?;
        }
        writeln!(f)?;
        let row = |name: &str, text: String| vec![name.to_owned(), text];
        let mut rows = Vec::new();
        if let Some(cgroup) = &self.cgroup {
            let gone = if self.exists { "" } else { " (there is none at present)" };
            rows.push(row("cgroup", format!("{cgroup}{gone}")));
        }
        if let Some(at) = &self.at {
            rows.push(row("socket", at.to_string()));
        }
        for process in &self.processes {
            rows.push(row("process", process.to_string()));
        }
        rows.push(row("because", self.explanation.clone()));
        // The first is part of the explanation.
        for miss in self.nearest.iter().skip(1) {
            rows.push(row("also near", format!("{} of `{}`: {}", miss.selector, miss.service, miss.why)));
        }
        table(f, "  ", &rows)
    }
}

impl fmt::Display for Policy {
    /// The documents, each below its name, as YAML that could be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for document in &self.documents {
            writeln!(f, "# {}", printable(&document.file))?;
            f.write_str(&document.text)?;
        }
        Ok(())
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "in force as revision {}", self.revision)
    }
}

/// Live connections that are alike, in one row.
#[derive(Default)]
struct Alike {
    number: usize,
    age: Option<u64>,
    sent: u64,
    received: u64,
}

/// One row for each pair of ends, port and answer, the largest groups first.
fn alike(connections: &[Connection]) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<(bool, &str, &str, String, String), Alike> = BTreeMap::new();
    for connection in connections {
        let answer = match (&connection.rule, connection.verdict.as_str(), connection.outdated) {
            (Some(rule), "allow", _) => format!("rule {rule}"),
            (None, "allow", _) => connection.reason.clone(),
            (_, _, true) => format!("{}, older than the policy", connection.reason),
            (_, _, false) => format!("{} ({})", connection.reason, connection.mode),
        };
        let port = format!("{}/{}", connection.to.port, connection.protocol);
        let key = (!connection.outdated, &*connection.from.service, &*connection.to.service, port, answer);
        let group = groups.entry(key).or_default();
        group.number += 1;
        group.age = group.age.max(connection.age_ms_at_least);
        group.sent += connection.sent.unwrap_or(0);
        group.received += connection.received.unwrap_or(0);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|((is_current, ..), group)| (*is_current, std::cmp::Reverse(group.number)));
    let row = |((_, from, to, port, answer), group): ((bool, &str, &str, String, String), Alike)| {
        vec![
            count(group.number, "connection"),
            format!("{from} -> {to}"),
            port,
            answer,
            group.age.map_or_else(String::new, |age| format!("age {} s or more", age / 1000)),
            format!("{} sent, {} received", group.sent, group.received),
        ]
    };
    groups.into_iter().map(row).collect()
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connections.is_empty() {
            writeln!(f, "no live connection concerns a service")?;
        }
        some(f, "", &alike(&self.connections))?;
        for unreadable in &self.unreadable {
            writeln!(f, "not seen: {}", printable(unreadable))?;
        }
        Ok(())
    }
}

impl Diff {
    /// Whether the new policy does what the old one did.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.services.is_empty() && self.reserved.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "{warning}\n")?;
        }
        if self.is_empty() {
            writeln!(f, "no change: it permits what revision {} does", self.revision)?;
        }
        let row = |pair: &PairChange| {
            let by =
                if pair.rules.is_empty() { String::new() } else { format!("by {}", pair.rules.join(", ")) };
            let sign = if pair.change == "opened" { "+" } else { "-" };
            vec![sign.to_owned(), format!("{} -> {}", pair.from, pair.to), pair.ports.join(" "), by]
        };
        for change in ["opened", "closed"] {
            let rows: Vec<Vec<String>> =
                self.pairs.iter().filter(|pair| pair.change == change).map(row).collect();
            if !rows.is_empty() {
                writeln!(f, "{change}")?;
                table(f, "  ", &rows)?;
            }
        }
        if !self.services.is_empty() {
            writeln!(f, "services")?;
            for service in &self.services {
                let mut what = Vec::new();
                match (&service.mode_before, &service.mode_after) {
                    (None, Some(after)) => what.push(format!(
                        "added in mode {after}: everything of it that no rule lists is denied from now on"
                    )),
                    (Some(_), None) => what.push(String::from("removed: nothing of it is denied any longer")),
                    (Some(before), Some(after)) if before != after => {
                        what.push(format!("mode {before} -> {after}"));
                    }
                    (_, _) => {}
                }
                if service.change == "changed" {
                    let selectors = service.selectors_added.iter().map(|added| format!("+ {added}"));
                    let removed = service.selectors_removed.iter().map(|removed| format!("- {removed}"));
                    what.extend(selectors.chain(removed));
                }
                writeln!(f, "  {}: {}", service.service, what.join("; "))?;
            }
        }
        if !self.reserved.is_empty() {
            writeln!(f, "reserved ports")?;
            let who = |owner: &Option<String>| owner.clone().unwrap_or_else(|| String::from("everybody"));
            let rows: Vec<Vec<String>> = self
                .reserved
                .iter()
                .map(|change| {
                    vec![change.ports.clone(), format!("{} -> {}", who(&change.before), who(&change.after))]
                })
                .collect();
            table(f, "  ", &rows)?;
        }
        if let Some(dying) = self.dying.as_ref().filter(|dying| !dying.is_empty()) {
            writeln!(f, "live connections that it would close")?;
            some(f, "  ", &alike(dying))?;
        }
        Ok(())
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.changes)?;
        writeln!(f, "in force as revision {}", self.revision)?;
        match self.confirm_within_seconds {
            Some(seconds) => writeln!(
                f,
                "the policy before comes back in {seconds} s unless you run `enforcer policy confirm`"
            ),
            None => writeln!(f, "a reload or a restart brings back what is in the daemon's directory"),
        }
    }
}
