//! Containers of containerd and CRI-O by their published cgroups and their interface, which a stand-in serves: pending
//! until it tells, and then who they are.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::containerd::{Containerd, IMAGE};
use enforcer_tests::cri::{InPod, Known, Pod, StandIn};
use enforcer_tests::sandbox::{Daemon, Sandbox};
use enforcer_tests::slowness::patience;
use serde_json::Value;

const POLICY: &str = "version: 1
services:
  till: { match: [{ container: { namespace: shop, pod: 'till-*', name: web, runtime: RUNTIME } }] }
  tiny: { match: [{ container: { image: '*/tiny:*', label: { tier: data } } }] }
  pause: { match: [{ container: { namespace: infra } }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
allow:
  - { name: checkout, from: [till, tiny, pause], to: orders, ports: [8080/tcp] }
";

/// The cgroup of a container `ID` in the pod `POD`, and in `POD_` if systemd makes it.
const CONTAINERD: [&str; 3] = [
    "kubepods/burstable/podPOD/ID",
    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/cri-containerd-ID.scope",
    "system.slice/containerd.service/kubepods-podPOD_.slice:cri-containerd:ID",
];
const CRIO: [&str; 2] = [
    "kubepods/besteffort/podPOD/crio-ID",
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/crio-ID.scope",
];

fn cgroup(form: &str, id: &str) -> String {
    let pod = "0c9ba5d1-49a7-4d21-9d43-2a5d9e9d0f3b";
    form.replace("POD_", &pod.replace('-', "_")).replace("POD", pod).replace("ID", id)
}

fn id(number: usize) -> String {
    format!("{number:064x}")
}

/// What a container is in the stand-in, and who it must come out to be.
struct Expected {
    pod: (&'static str, &'static str),
    /// None for the sandbox of the pod itself.
    name: Option<&'static str>,
    labels: &'static [(&'static str, &'static str)],
    service: &'static str,
}

const EXPECTED: [Expected; 4] = [
    Expected { pod: ("till-1", "shop"), name: Some("web"), labels: &[], service: "till" },
    Expected { pod: ("till-1", "other"), name: Some("web"), labels: &[("tier", "data")], service: "tiny" },
    Expected { pod: ("till-1", "shop"), name: Some("sidecar"), labels: &[], service: "unmanaged" },
    Expected { pod: ("dns", "infra"), name: None, labels: &[], service: "pause" },
];

fn pods_are_who_the_runtime_says(runtime: &str, forms: &[&str]) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{runtime}-pods"))?;
    let socket = sandbox.directory().join("cri.sock");
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let argument = format!("--runtime={runtime}={}", socket.display());
    let mut daemon =
        sandbox.daemon_with(&POLICY.replace("RUNTIME", runtime), &["--log-allowed", &argument])?;

    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let (mut known, mut actors) = (Known::default(), Vec::new());
    for (number, expected) in EXPECTED.iter().enumerate() {
        for (place, form) in forms.iter().enumerate() {
            let container = id(100 * (number + 1) + place);
            let cgroup = cgroup(form, &container);
            let mut actor = sandbox.actor(&cgroup)?;
            // Nobody listens, and it is denied from its first moment on.
            let reply = actor.ask(&connect)?;
            ensure!(reply.is_refused(), "{cgroup}: {reply:?}");
            let pod = match expected.name {
                Some(_) => id(1000 * (number + 1) + place),
                None => container.clone(),
            };
            let (name, namespace) = expected.pod;
            known.pods.push(Pod {
                id: pod.clone(),
                name: name.to_owned(),
                namespace: namespace.to_owned(),
                pid: if expected.name.is_some() { 1 } else { actor.pid() },
            });
            known.containers.extend(expected.name.map(|name| InPod {
                id: container.clone(),
                pod,
                name: name.to_owned(),
                image: String::from("registry.example/tiny:1"),
                labels:
                    expected.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
                pid: actor.pid(),
            }));
            actors.push((container, cgroup, actor, expected));
        }
    }
    // One whose id the runtime knows, and whose first process is elsewhere.
    let stolen = id(9);
    let mut thief = sandbox.actor(&cgroup(forms[0], &stolen))?;
    known.pods.push(Pod {
        id: id(10),
        name: String::from("till-9"),
        namespace: String::from("shop"),
        pid: 1,
    });
    known.containers.push(InPod {
        id: stolen,
        pod: id(10),
        name: String::from("web"),
        image: String::from("tiny:1"),
        labels: HashMap::new(),
        pid: orders.pid(),
    });

    let stand_in = StandIn::start(&socket, known)?;
    let mut pending: Vec<String> = actors.iter().map(|(id, ..)| id.clone()).collect();
    let mut took = Vec::new();
    while !pending.is_empty() {
        let told = daemon.wait_for(|record| record["kind"] == "container")?;
        let id = told["id"].as_str().unwrap_or_default();
        let answered = stand_in.answered(id).with_context(|| format!("nobody has asked: {told}"))?;
        took.push(answered.elapsed());
        pending.retain(|pending| pending != id);
    }
    // All are asked about at once, beside other tests, so one of them may have to wait for a processor.
    took.sort();
    let usual = took[took.len() / 2];
    ensure!(usual < patience(Duration::from_millis(100)), "resolved so long after the answer: {took:?}");

    for (id, cgroup, actor, expected) in &mut actors {
        let told = daemon
            .records()
            .iter()
            .find(|record| record["kind"] == "container" && record["id"] == id.as_str());
        let told = told.cloned().unwrap_or_default();
        ensure!(told["service"] == expected.service && told["runtime"] == runtime, "{told}");
        ensure!(told["pod"] == expected.pod.0 && told["namespace"] == expected.pod.1, "{told}");
        ensure!(
            told["name"].as_str() == expected.name && told["cgroup"] == sandbox.path_of(cgroup),
            "{told}"
        );
        let reply = actor.ask(&connect)?;
        ensure!(reply.is_ok() == (expected.service != "unmanaged"), "{cgroup}: {reply:?}");
        let path = sandbox.path_of(cgroup);
        let verdict = if reply.is_ok() { "allow" } else { "deny" };
        let attempt = daemon.wait_for(|record| is_once_known(record, &path, verdict))?;
        ensure!(attempt["source"]["service"] == expected.service, "{attempt}");
        ensure!(attempt["destination"]["service"] == "orders", "{attempt}");
    }
    let reply = thief.ask(&connect)?;
    ensure!(reply.is_refused(), "an id proves nothing: {reply:?}");

    // It ends, and nobody is less than he was; who comes meanwhile is pending.
    drop(stand_in);
    let (_, _, web, _) = &mut actors[0];
    ensure!(web.ask(&connect)?.is_ok());
    let mut late = sandbox.actor(&cgroup(forms[0], &id(11)))?;
    ensure!(late.ask(&connect)?.is_refused());
    let finished = daemon.stop()?;
    let refused = finished.attempts().filter(|record| record["reason"] == "source-pending").count();
    ensure!(refused == actors.len() + 2, "{refused} attempts of pending containers");
    finished.check_totals()
}

#[test]
fn containers_of_containerd_are_who_its_interface_says() -> anyhow::Result<()> {
    pods_are_who_the_runtime_says("containerd", &CONTAINERD)
}

#[test]
fn containers_of_crio_are_who_its_interface_says() -> anyhow::Result<()> {
    pods_are_who_the_runtime_says("crio", &CRIO)
}

/// Sends a word to the port every tenth of a second, whatever comes of it, until the container ends.
const CALL: &str = "while :; do echo x | busybox nc -w 1 127.0.0.1 8080; busybox usleep 20000; done";

#[test]
fn containers_of_the_real_containerd_are_who_it_says() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("containerd")?;
    let containerd = Containerd::start(&sandbox)?;
    let version = containerd.version()?;
    ensure!(version.starts_with("containerd "), "{version}");
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let argument = format!("--runtime=containerd={}", containerd.socket().display());
    let policy = POLICY.replace("RUNTIME", "containerd");
    let mut daemon = sandbox.daemon_with(&policy, &["--log-allowed", &argument])?;

    let parent = "kubepods/burstable/pod0c9ba5d1-49a7-4d21-9d43-2a5d9e9d0f3b";
    for (namespace, pod, name, labels, service) in [
        ("shop", "till-1", "web", &[][..], "till"),
        ("other", "till-1", "web", &[("tier", "data")], "tiny"),
        ("shop", "front", "web", &[], "unmanaged"),
    ] {
        let in_pod = containerd.pod(namespace, pod, parent)?;
        let id = containerd.container(&in_pod, name, labels, &["/bin/busybox", "sh", "-c", CALL])?;
        let known = await_known(&mut daemon, &id)?;
        ensure!(known["service"] == service && known["runtime"] == "containerd", "{known}");
        ensure!(known["pod"] == pod && known["namespace"] == namespace && known["name"] == name, "{known}");
        ensure!(known["image"] == IMAGE, "{known}");
        let cgroup = sandbox.path_of(&format!("{parent}/{id}"));
        ensure!(known["cgroup"] == cgroup.as_str(), "{known}");
        let verdict = if service == "unmanaged" { "deny" } else { "allow" };
        let attempt = daemon.wait_for(|record| is_once_known(record, &cgroup, verdict))?;
        ensure!(attempt["source"]["service"] == service, "{attempt}");
        // The sandbox of the pod is a container too, which nobody has named.
        let known = await_known(&mut daemon, &in_pod.id)?;
        ensure!(known["name"].is_null() && known["pod"] == pod && known["namespace"] == namespace, "{known}");
    }
    daemon.stop()?.check_totals()
}

/// Whether the record is of an attempt out of the cgroup `path` after its container was known. Those before are recorded
/// by when the kernel's events are read, so they may stand behind the record that says who it is.
fn is_once_known(record: &Value, path: &str, verdict: &str) -> bool {
    record["kind"] == "attempt"
        && record["source"]["cgroup"] == path
        && record["verdict"] == verdict
        && record["reason"] != "source-pending"
}

fn await_known(daemon: &mut Daemon, id: &str) -> anyhow::Result<Value> {
    let is_known = |record: &Value| record["kind"] == "container" && record["id"] == id;
    // The record may have come while somebody else was waited for.
    match daemon.records().iter().find(|record| is_known(record)) {
        Some(record) => Ok(record.clone()),
        None => daemon.wait_for(is_known),
    }
}
