//! systemd's own proxy speaks in its own name, and is told.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{enforcing, finish};

const ORDERS: &str = "127.0.0.1:8080";
const FRONT: &str = "127.0.0.1:8070";
const BACK: &str = "127.0.0.1:8071";
const PROXY: &str = "/lib/systemd/systemd-socket-proxyd";

const POLICY: &str = "version: 1
services:
  web: { match: [{ systemd: web.service }] }
  front: { match: [{ systemd: front.service }] }
  orders: { match: [{ systemd: orders.service }] }
allow:
  - { name: visit, from: [web, unmanaged], to: front, ports: [8070/tcp] }
  - { name: forward, from: front, to: orders, ports: [8080/tcp] }
";

#[test]
fn a_socket_proxy_calls_in_its_own_name() -> anyhow::Result<()> {
    let machine = enforcing("proxies", POLICY)?;
    machine.serve_as("orders", ORDERS)?;
    for (name, at) in [("front", FRONT), ("back", BACK)] {
        machine.unit(&format!("{name}.socket"), &format!("[Socket]\nListenStream={at}\n"))?;
        machine.unit(&format!("{name}.service"), &format!("[Service]\nExecStart={PROXY} {ORDERS}\n"))?;
    }
    machine.systemctl(&["daemon-reload"])?;
    machine.systemctl(&["start", "front.socket", "back.socket"])?;

    // Whoever may call the declared one reaches what that may call, and is known there as the proxy.
    let reply = machine.connect_as("web", FRONT)?;
    ensure!(reply.text == "hello", "web at {FRONT}: {reply:?}");
    // What the proxy that is no service is told to call refuses it, whoever asked.
    let reply = machine.connect_as("other", BACK)?;
    ensure!(reply.text != "hello", "other at {BACK}: {reply:?}");
    // A service has no rule for somebody who is none.
    let reply = machine.connect_as("web", BACK)?;
    ensure!(reply.is_refused(), "web at {BACK}: {reply:?}");

    let status: Value = serde_json::from_str(&machine.run("enforcer", &["status", "-o", "json"])?)?;
    let proxies = status["coverage"]["proxies"].as_array().context("no proxies in the status")?;
    assert_eq!(proxies.len(), 2, "{proxies:#?}");
    for unit in ["front", "back"] {
        let cgroup = format!("/system.slice/{unit}.service");
        let told = proxies.iter().find(|proxy| proxy["cgroup"] == cgroup.as_str());
        let told = told.with_context(|| format!("{unit} is not told: {proxies:#?}"))?;
        assert_eq!(told["name"], "systemd-socket-proxyd", "{told}");
    }

    let finished = finish(&machine)?;
    finished.check_totals()?;
    let told = |source: &str, destination: &str, verdict: &str| {
        finished.attempts().any(|record| {
            record["source"]["service"] == source
                && record["destination"]["service"] == destination
                && record["verdict"] == verdict
        })
    };
    assert!(told("web", "front", "allow") && told("front", "orders", "allow"), "{:#?}", finished.records);
    assert!(
        told("unmanaged", "orders", "deny") && told("web", "unmanaged", "deny"),
        "{:#?}",
        finished.records
    );
    assert!(!told("web", "orders", "allow"), "{:#?}", finished.records);
    Ok(())
}
