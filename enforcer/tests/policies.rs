//! The shipped policies are valid, and mean what their comments say.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use enforcer::policy::{self, Document, Peer, Policy, Ports, compile_documents};
use enforcer_common::Mode;

fn load(name: &str) -> Policy {
    let path = Path::new("../policies").join(name);
    let loaded = policy::load(std::slice::from_ref(&path));
    let rendered: String = loaded.findings.iter().map(policy::Finding::render).collect();
    assert_eq!(rendered, "", "{}", path.display());
    loaded.policy.expect("a policy without findings")
}

#[test]
fn every_shipped_policy_is_valid() {
    let entries = fs::read_dir("../policies").expect("tests run in the directory of their package");
    let directories: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.is_dir())
        .collect();
    assert!(directories.len() >= 5);
    for directory in directories {
        let policy = load(directory.file_name().and_then(|name| name.to_str()).expect("a name"));
        assert!(!policy.services.is_empty() && !policy.rules.is_empty());
        // They are to be copied: none of them permits more than it names.
        assert!(
            policy.rules.iter().all(|rule| matches!(&rule.ports, Ports::Listed(ports) if !ports.is_empty()))
        );
    }
}

#[test]
fn only_the_gateway_accepts_the_world() {
    let policy = load("zones");
    for rule in policy.rules.iter().filter(|rule| rule.from.contains(&Peer::World)) {
        for peer in &rule.to {
            let Peer::Service(index) = peer else { panic!("{} reaches no service", rule.name) };
            assert_eq!(policy.services[usize::try_from(*index).expect("small")].name, "gateway");
        }
    }
}

#[test]
fn audit_first_audits_what_it_does_not_know() {
    let policy = load("audit-first");
    let modes: Vec<_> = policy.services.iter().map(|service| (service.name.as_str(), service.mode)).collect();
    assert_eq!(modes, [("billing", Mode::Audit), ("cache", Mode::Audit), ("proxy", Mode::Enforce)]);
}

#[test]
fn the_format_by_example_is_the_format() {
    let text = fs::read_to_string("../policies/README.md").expect("the policies are described");
    let mut document = String::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "```yaml" => inside = true,
            "```" => inside = false,
            line if inside => document.extend([line, "\n"]),
            _ => {}
        }
    }
    // The examples use two names that they do not declare.
    let document =
        document.replace("services:\n", "services:\n  web: { match: [{ systemd: web.service }] }\n");
    let loaded = compile_documents(&[Document::new("README.md", document)]);
    let rendered: String = loaded.findings.iter().map(policy::Finding::render).collect();
    assert_eq!(rendered, "");
}

#[test]
fn names_are_resolved_whatever_the_order_and_the_file() {
    let rules =
        "version: 1\nallow:\n  - { name: a, from: [zoo, web, web], to: [net, unmanaged], ports: [] }\n";
    let names = "version: 1\nnetworks: { net: { cidrs: [192.0.2.0/24] } }\n\
                 services:\n  zoo: { match: [{ systemd: z.service }] }\n  web: { match: [{ systemd: w.service }] }\n";
    let loaded = compile_documents(&[Document::new("1.yaml", rules), Document::new("2.yaml", names)]);
    let policy = loaded.policy.expect("only warnings");
    let services: Vec<_> = policy.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(services, ["web", "zoo"]);
    assert_eq!(*policy.rules[0].from, [Peer::Service(1), Peer::Service(0)]);
    assert_eq!(*policy.rules[0].to, [Peer::Network(0), Peer::Unmanaged]);
    assert_eq!(policy.rules[0].location.to_string(), "1.yaml:3:5");
}

#[test]
fn an_empty_policy_is_one_line() {
    let loaded = compile_documents(&[Document::new("a.yaml", "version: 1")]);
    assert!(loaded.findings.is_empty());
    let policy = loaded.policy.expect("no findings");
    assert!(policy.services.is_empty() && policy.networks.is_empty() && policy.rules.is_empty());
}
