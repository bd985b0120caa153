//! What the commands show people: short, aligned, readable without colour.

use std::collections::BTreeMap;
use std::fmt;

use super::api::{
    Applied, Connection, Connections, Coverage, Diff, Endpoint, Identified, Identity, InForce, PairChange,
    Policy, Process, ServiceChange, Services, Status,
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
            "adopted" => format!("of an earlier daemon; the directory is {}", policy.directory),
            _ => format!("applied; the directory is {}", policy.directory),
        };
        let since = policy.since.as_deref().unwrap_or("before this daemon started");
        let recovered = match self.events.recovered {
            0 => String::new(),
            recovered => format!(", {recovered} of them left by earlier daemons"),
        };
        let row = |name: &str, text: String| vec![name.to_owned(), text];
        table(
            f,
            "",
            &[
                row("enforcer", format!("{}, process {}, since {}", self.version, self.pid, self.started)),
                row(
                    "policy",
                    format!("revision {}, {origin}, sha256 {hash}, in force since {since}", policy.revision),
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
                        "{} allowed, {} denied, {} would be denied since this daemon started",
                        total("allowed"),
                        total("denied"),
                        total("would-deny")
                    ),
                ),
                row(
                    "events",
                    format!(
                        "{} produced{recovered}, {} written to {}, {} lost",
                        self.events.produced,
                        self.events.written,
                        super::audit_name(&self.events.audit),
                        self.events.lost
                    ),
                ),
            ],
        )?;
        if !policy.audited.is_empty() {
            writeln!(f, "\nin audit mode: {}", policy.audited.join(", "))?;
            writeln!(f, "  what is denied to them passes unless the other end is a service in enforce mode")?;
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
        let programs = self.foreign_programs.iter();
        parts.push((
            "programs of others on its hooks, which can refuse more and permit nothing",
            programs
                .map(|foreign| vec![foreign.hook.clone(), format!("program {}", foreign.program)])
                .collect(),
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
        for (number, document) in self.documents.iter().enumerate() {
            if number > 0 {
                writeln!(f, "---")?;
            }
            writeln!(f, "# {}", printable(&document.file))?;
            f.write_str(&document.text)?;
            if !document.text.ends_with('\n') {
                writeln!(f)?;
            }
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
        self.pairs.is_empty()
            && self.services.is_empty()
            && self.reserved.is_empty()
            && self.defaults.is_empty()
    }
}

/// What a new policy does to a service as a whole.
fn fate(service: &ServiceChange) -> Option<String> {
    const RECORDED: &str = "is recorded and passes, unless the other end is a service in enforce mode";
    let becomes = service.becomes.join(" or ");
    let denied = if service.becomes.iter().any(|name| name == "unmanaged") {
        ", and unmanaged processes are denied only what other services deny"
    } else {
        ""
    };
    match (service.mode_before.as_deref(), service.mode_after.as_deref()) {
        (None, Some("audit")) => {
            Some(format!("added in audit mode: from now on what no rule lists {RECORDED}"))
        }
        (None, Some(mode)) => {
            Some(format!("added in {mode} mode: from now on what no rule lists is refused"))
        }
        (Some(_), None) => Some(format!("removed: its processes are {becomes} from now on{denied}")),
        (Some(before), Some("audit")) if before != "audit" => {
            Some(format!("mode {before} -> audit: from now on what no rule lists {RECORDED}"))
        }
        (Some(before), Some(after)) if before != after => {
            Some(format!("mode {before} -> {after}: from now on what no rule lists is refused"))
        }
        (_, _) if becomes.is_empty() => None,
        (_, _) => Some(format!("what it lets go of is {becomes} from now on{denied}")),
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
            let is_opened = pair.change == "opened";
            let by = match (pair.rules.as_slice(), is_opened) {
                ([], true) => String::from("nothing denies it any longer"),
                ([], false) => String::from("no rule lists it"),
                (rules, _) => format!("by {}", rules.join(", ")),
            };
            let passes = match (pair.mode.as_str(), is_opened) {
                ("audit", true) => ", passed in audit mode before",
                ("audit", false) => ", passes in audit mode",
                _ => "",
            };
            let sign = if is_opened { "+" } else { "-" };
            let ends = format!("{} -> {}", pair.from, pair.to);
            vec![sign.to_owned(), ends, pair.ports.join(" "), format!("{by}{passes}")]
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
                let mut what: Vec<String> = fate(service).into_iter().collect();
                if service.change == "changed" {
                    let selectors = service.selectors_added.iter().map(|added| format!("+ {added}"));
                    let removed = service.selectors_removed.iter().map(|removed| format!("- {removed}"));
                    what.extend(selectors.chain(removed));
                }
                writeln!(f, "  {}: {}", service.service, printable(&what.join("; ")))?;
            }
        }
        if !self.defaults.is_empty() {
            writeln!(f, "defaults")?;
            let rows = self.defaults.iter();
            let rows: Vec<Vec<String>> = rows
                .map(|change| vec![change.name.clone(), format!("{} -> {}", change.before, change.after)])
                .collect();
            table(f, "  ", &rows)?;
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::api;
    use crate::policy::{Document, compile_documents};

    fn diff(fields: &Value) -> String {
        let mut diff = json!({
            "revision": 2, "warnings": [], "pairs": [], "services": [], "reserved": [], "defaults": [], "dying": null,
        });
        diff.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        serde_json::from_value::<api::Diff>(diff).expect("a diff").to_string()
    }

    #[test]
    fn the_text_of_a_policy_of_more_than_one_file_can_be_read_again() {
        let document = |file: &str, text: &str| json!({ "file": file, "text": text });
        let policy: api::Policy = serde_json::from_value(json!({
            "state": {
                "revision": 1, "directory": "shop", "origin": "directory", "sha256": "", "since": null,
                "documents": 2, "services": 2, "networks": 0, "rules": 0, "audited": [],
                "confirm_within_seconds": null,
            },
            "documents": [
                document("shop/a.yaml", "version: 1\nservices:\n  web: { match: [{ cgroup: /a }] }"),
                document("shop/b.yaml", "version: 1\nservices:\n  db: { match: [{ cgroup: /b }] }\n"),
            ],
        }))
        .expect("a policy");
        let again = compile_documents(&[Document::new("again.yaml", policy.to_string())]);
        assert_eq!(again.findings, []);
        assert_eq!(again.policy.expect("no findings").services.len(), 2);
    }

    fn service(name: &str, before: Option<&str>, after: Option<&str>, becomes: &[&str]) -> Value {
        json!({
            "service": name, "change": "", "mode_before": before, "mode_after": after, "becomes": becomes,
            "selectors_added": [], "selectors_removed": [],
        })
    }

    fn pair(change: &str, rules: &[&str], mode: &str) -> Value {
        json!({ "from": "web", "to": "db", "change": change, "ports": ["1/tcp"], "rules": rules, "mode": mode })
    }

    #[test]
    fn a_difference_says_what_passes_from_then_on_and_what_does_not() {
        assert_eq!(diff(&json!({})), "no change: it permits what revision 2 does\n");
        let services = [
            service("a", None, Some("enforce"), &[]),
            service("b", None, Some("audit"), &[]),
            service("c", Some("enforce"), None, &["unmanaged"]),
            service("d", Some("audit"), None, &["a"]),
            service("e", Some("audit"), Some("enforce"), &[]),
            service("f", Some("enforce"), Some("audit"), &[]),
            service("g", Some("enforce"), Some("enforce"), &["unmanaged"]),
        ];
        let pairs = [
            pair("opened", &["one"], "enforce"),
            pair("opened", &[], "audit"),
            pair("closed", &["one", "two"], "enforce"),
            pair("closed", &[], "audit"),
        ];
        let defaults = [json!({ "name": "existing", "before": "audit", "after": "close" })];
        assert_eq!(
            diff(&json!({ "services": services, "pairs": pairs, "defaults": defaults })),
            "opened
  +  web -> db  1/tcp  by one
  +  web -> db  1/tcp  nothing denies it any longer, passed in audit mode before
closed
  -  web -> db  1/tcp  by one, two
  -  web -> db  1/tcp  no rule lists it, passes in audit mode
services
  a: added in enforce mode: from now on what no rule lists is refused
  b: added in audit mode: from now on what no rule lists is recorded and passes, unless the other end is a service in enforce mode
  c: removed: its processes are unmanaged from now on, and unmanaged processes are denied only what other services deny
  d: removed: its processes are a from now on
  e: mode audit -> enforce: from now on what no rule lists is refused
  f: mode enforce -> audit: from now on what no rule lists is recorded and passes, unless the other end is a service in enforce mode
  g: what it lets go of is unmanaged from now on, and unmanaged processes are denied only what other services deny
defaults
  existing  audit -> close
"
        );
    }

    fn status() -> Value {
        json!({
            "version": "0.1.0", "pid": 7, "started": "2026-11-26T12:00:00Z", "uptime_seconds": 3, "cgroup_root": "/shop",
            "policy": {
                "revision": 2, "directory": "/etc/enforcer", "origin": "directory", "sha256": "0123456789abcdef",
                "since": null, "documents": 1, "services": 2, "networks": 0, "rules": 1, "audited": ["sp"],
                "confirm_within_seconds": null,
            },
            "kernel": {
                "release": "6.1", "cgroups_identified_by": "kernel", "btf": true, "bpf_lsm": false, "hooks": [],
            },
            "decisions": [],
            "events": {
                "produced": 10, "recovered": 10, "written": 10, "lost": 0, "ring_bytes": 4096, "audit": "-",
            },
            "cgroups": { "known": 3, "failed": 0, "notes_failed": 0, "news_lost": 0, "verdicts_not_kept": 0 },
            "records": { "made": 0, "written": 0, "lost": 0 },
            "degraded": [],
            "coverage": {
                "complete": true, "unmatched_selectors": [], "unknown_listeners": [], "overlapping_claims": [],
                "pending_containers": [], "foreign_programs": [{ "hook": "ingress", "program": 42 }], "proxies": [],
                "limits": [],
            },
        })
    }

    #[test]
    fn a_status_says_what_its_numbers_are_of() {
        let status: api::Status = serde_json::from_value(status()).expect("a status");
        assert_eq!(
            status.to_string(),
            "enforcer   0.1.0, process 7, since 2026-11-26T12:00:00Z
policy     revision 2, from /etc/enforcer, sha256 0123456789ab, in force since before this daemon started
           2 services, 0 networks, 1 rule
cgroups    3 below /shop, identified by the kernel
decisions  0 allowed, 0 denied, 0 would be denied since this daemon started
events     10 produced, 10 of them left by earlier daemons, 10 written to standard output, 0 lost

in audit mode: sp
  what is denied to them passes unless the other end is a service in enforce mode

not degraded

not under control
  programs of others on its hooks, which can refuse more and permit nothing
    ingress  program 42
"
        );
    }

    #[test]
    fn a_name_that_anyone_may_give_is_not_obeyed_by_a_terminal() {
        const HOSTILE: &str = "/e\u{1b}[31mred\u{9b}1m\u{202e}";
        let mut hostile = status();
        hostile["cgroup_root"] = json!(HOSTILE);
        hostile["coverage"]["pending_containers"] = json!([HOSTILE]);
        let process = json!({ "pid": 1, "comm": HOSTILE, "exe": HOSTILE });
        let matched = json!({ "selector": HOSTILE, "cgroup": HOSTILE });
        let services = json!({ "revision": 1, "complete": true, "services": [{
            "name": "web", "mode": "audit", "selectors": [{ "selector": HOSTILE, "matches": 0 }], "reserves": [],
            "cgroups": [{ "path": HOSTILE, "id": 1, "matched": matched, "processes": [process], "ports": [] }],
        }] });
        let identity = json!({ "of": HOSTILE, "answers": [{
            "service": "web", "mode": null, "cgroup": HOSTILE, "exists": true, "matched": matched, "nearest": [],
            "at": null, "processes": [process], "explanation": HOSTILE,
        }] });
        let connections = json!({ "revision": 1, "unreadable": [HOSTILE], "connections": [] });
        let texts = [
            serde_json::from_value::<api::Status>(hostile).expect("a status").to_string(),
            serde_json::from_value::<api::Services>(services).expect("services").to_string(),
            serde_json::from_value::<api::Identity>(identity).expect("an identity").to_string(),
            serde_json::from_value::<api::Connections>(connections).expect("connections").to_string(),
        ];
        for text in texts {
            assert!(text.contains("\u{fffd}[31mred"), "{text:?}");
            assert!(text.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{text:?}");
        }
    }
}
