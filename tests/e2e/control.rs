//! The control socket of a running daemon: what it tells, what it changes, and whom it does not serve.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer::control::api;
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::{Neighbour, PYTHON, Sandbox, binary};
use enforcer_tests::slowness::patience;
use serde_json::{Value, json};

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  orders: { match: [{ cgroup: ROOT/orders }, { cgroup: ROOT/nowhere }], listens: [8080/tcp] }
allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp] }
";

/// The same and one rule more.
const WIDER: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  orders: { match: [{ cgroup: ROOT/orders }, { cgroup: ROOT/nowhere }], listens: [8080/tcp] }
allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp] }
  - { name: report, from: web, to: orders, ports: [8081/tcp] }
";

fn json(output: &Output) -> anyhow::Result<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Sends bytes and reads the whole answer.
fn raw(sandbox: &Sandbox, request: &[u8]) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(sandbox.control())?;
    stream.set_read_timeout(Some(patience(Duration::from_secs(20))))?;
    // The server may answer and close before it has everything.
    let sent = stream.write_all(request);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(err) if answer.is_empty() => {
            Err(err).with_context(|| format!("read the answer; sending: {sent:?}"))
        }
        Ok(_) | Err(_) => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

fn call(sandbox: &Sandbox, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: enforcer\r\ncontent-length: {length}\r\n\r\n{body}");
    let answer = raw(sandbox, request.as_bytes())?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer}"))?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn other_policy(sandbox: &Sandbox, text: &str) -> anyhow::Result<String> {
    let file = sandbox.directory().join("other.yaml");
    let root = sandbox.path_of("");
    fs::write(&file, text.replace("ROOT", root.trim_end_matches('/')))?;
    Ok(file.display().to_string())
}

#[test]
fn status_services_and_identities_are_those_of_real_processes() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("control")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (mut web, mut orders) = (sandbox.actor("web")?, sandbox.actor("orders/inner")?);
    let (mut other, at) = (sandbox.actor("other")?, "127.0.0.1:8080".parse()?);
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    assert!(web.ask(&Request::Connect { to: at, transport: Transport::Tcp, mapped: false })?.is_ok());
    assert!(other.ask(&Request::Connect { to: at, transport: Transport::Tcp, mapped: false })?.is_refused());

    let status = json(&sandbox.ask(&["status", "-o", "json"])?)?;
    assert_eq!(status["pid"], daemon.pid(), "{status}");
    assert_eq!(status["policy"]["revision"], 1, "{status}");
    let denied = json!({ "outcome": "denied", "reason": "no-rule", "count": 1 });
    assert!(status["decisions"].as_array().is_some_and(|all| all.contains(&denied)), "{status}");
    let unmatched = &status["coverage"]["unmatched_selectors"];
    let nowhere =
        json!([{ "service": "orders", "selector": format!("cgroup: {}", sandbox.path_of("nowhere")) }]);
    assert_eq!(unmatched, &nowhere, "{status}");

    let services = json(&sandbox.ask(&["services", "-o", "json"])?)?;
    let found = &services["services"][0];
    assert_eq!((&found["name"], &found["reserves"][0]), (&"orders".into(), &"8080/tcp".into()), "{services}");
    let inner = &found["cgroups"][1];
    assert_eq!(inner["path"], sandbox.path_of("orders/inner"), "{services}");
    assert_eq!(inner["matched"]["cgroup"], sandbox.path_of("orders"), "{services}");
    assert_eq!(inner["processes"][0]["pid"], orders.pid(), "{services}");
    assert_eq!(inner["ports"][0]["port"], 8080, "{services}");

    for (of, service, words) in [
        (web.pid().to_string(), "web", "names it"),
        (sandbox.path_of("orders/inner"), "orders", "it lies in"),
        (String::from("127.0.0.1:8080"), "orders", "it lies in"),
        (sandbox.path_of("ordres"), "unmanaged", "differs in one segment: `ordres`"),
        (String::from("203.0.113.7:443"), "world", "in no declared network"),
    ] {
        let answer = json(&sandbox.ask(&["identity", "get", &of, "-o", "json"])?)?;
        let answer = &answer["answers"][0];
        assert_eq!(answer["service"], service, "{of}: {answer}");
        assert!(answer["explanation"].as_str().is_some_and(|text| text.contains(words)), "{of}: {answer}");
    }
    let astray = sandbox.ask(&["identity", "get", "/a/../b"])?;
    let said = String::from_utf8_lossy(&astray.stderr).into_owned();
    assert!(!astray.status.success() && said.contains("no cgroup has `..`"), "{said}");
    for verb in ["status", "services"] {
        let text = String::from_utf8(sandbox.ask(&[verb])?.stdout)?;
        assert!(text.contains("orders") && !text.contains('\u{1b}'), "{text}");
    }
    daemon.stop()?.check_totals()
}

#[test]
fn a_policy_is_compared_applied_confirmed_and_rolled_back() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("apply")?;
    let mut daemon = sandbox.daemon(POLICY)?;
    let (mut web, mut orders) = (sandbox.actor("web")?, sandbox.actor("orders")?);
    let at = "127.0.0.1:8081".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let file = other_policy(&sandbox, WIDER)?;
    let changes = json!([{
        "from": "web", "to": "orders", "change": "opened", "ports": ["8081/tcp"], "rules": ["report"], "mode": "enforce",
    }]);

    let diff = json(&sandbox.ask(&["policy", "diff", &file, "-o", "json"])?)?;
    assert_eq!(diff["pairs"], changes, "{diff}");
    assert!(web.ask(&connect)?.is_refused(), "a comparison changes nothing");

    let applied =
        json(&sandbox.ask(&["policy", "apply", &file, "--confirm-timeout", "2s", "-o", "json"])?)?;
    assert_eq!((&applied["revision"], &applied["changes"]["pairs"]), (&2.into(), &changes), "{applied}");
    assert_eq!(web.ask(&connect)?.text, "hello");
    daemon.wait_for(|record| record["result"] == "rolled-back" && record["revision"] == 3)?;
    assert!(web.ask(&connect)?.is_refused(), "nobody confirmed it");
    assert!(!sandbox.ask(&["policy", "confirm"])?.status.success(), "it is too late");

    for time in ["0s", "1500ms", "100years"] {
        let refused = sandbox.ask(&["policy", "apply", &file, "--confirm-timeout", time])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.status.code() == Some(2) && said.contains("whole number of seconds"),
            "{time}: {said}"
        );
    }
    let text = "version: 1\n";
    for seconds in [0, u64::MAX] {
        let body =
            json!({ "documents": [{ "file": "a.yaml", "text": text }], "confirm_within_seconds": seconds });
        assert_eq!(call(&sandbox, "POST", "/v1/policy/apply", &body.to_string())?.0, 400, "{seconds}");
    }
    assert!(web.ask(&connect)?.is_refused(), "nothing was put in force");

    json(&sandbox.ask(&["policy", "apply", &file, "--confirm-timeout", "1h", "-o", "json"])?)?;
    let second = sandbox.ask(&["policy", "apply", &file])?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("waits to be confirmed"), "{said}");
    assert_eq!(json(&sandbox.ask(&["policy", "confirm", "-o", "json"])?)?["revision"], 4);
    assert_eq!(web.ask(&connect)?.text, "hello");

    let broken = other_policy(&sandbox, "version: 1\nservicse: {}\n")?;
    let refused = sandbox.ask(&["policy", "apply", &broken])?;
    assert_eq!(refused.status.code(), Some(64));
    let body =
        json!({ "documents": [{ "file": "a.yaml", "text": "version: 1\nservicse: {}\n" }] }).to_string();
    assert_eq!(call(&sandbox, "POST", "/v1/policy/apply", &body)?.0, 422);
    assert_eq!(web.ask(&connect)?.text, "hello", "the policy in force stays");

    // The directory was never written, so a reload brings it back.
    assert_eq!(json(&sandbox.ask(&["reload", "-o", "json"])?)?["revision"], 5);
    assert!(web.ask(&connect)?.is_refused());
    daemon.stop()?.check_totals()
}

#[test]
fn a_comparison_tells_what_passes_when_services_and_defaults_change() -> anyhow::Result<()> {
    const NOTHING: &str = "version: 1\n";
    let sandbox = Sandbox::new("compare")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (mut web, mut orders) = (sandbox.actor("web")?, sandbox.actor("orders")?);
    let at = "127.0.0.1:8081".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    assert!(web.ask(&connect)?.is_refused());
    let all_but = ["0-8079/tcp", "8081-65535/tcp", "all but tcp"];
    let pair = |change: &str, mode: &str| json!([{ "from": "web", "to": "orders", "change": change, "ports": all_but, "rules": [], "mode": mode }]);
    let mut told = Vec::new();
    for (text, expected) in [
        (NOTHING, pair("opened", "enforce")),
        (
            "version: 1\ndefaults: { on_audit_loss: deny_new, existing: close, on_unsupported: open }\n",
            pair("opened", "enforce"),
        ),
    ] {
        let file = other_policy(&sandbox, text)?;
        let diff = json(&sandbox.ask(&["policy", "diff", &file, "-o", "json"])?)?;
        assert_eq!(diff["pairs"], expected, "{diff}");
        assert_eq!(diff["services"][0]["becomes"], json!(["unmanaged"]), "{diff}");
        told.push(diff["defaults"].clone());
    }
    let change =
        |name: &str, before: &str, after: &str| json!({ "name": name, "before": before, "after": after });
    let changes = json!([
        change("existing", "audit", "close"),
        change("on_audit_loss", "count", "deny_new"),
        change("on_unsupported", "refuse", "open"),
    ]);
    assert_eq!(told, [json!([]), changes]);
    let file = other_policy(&sandbox, NOTHING)?;
    json(&sandbox.ask(&["policy", "apply", &file, "-o", "json"])?)?;
    assert_eq!(web.ask(&connect)?.text, "hello", "it opens what it was said to open");

    // Services that come in audit mode close nothing.
    let audit = POLICY.replace("version: 1", "version: 1\ndefaults: { mode: audit }");
    let file = other_policy(&sandbox, &audit)?;
    let applied = json(&sandbox.ask(&["policy", "apply", &file, "-o", "json"])?)?;
    assert_eq!(applied["changes"]["pairs"], pair("closed", "audit"), "{applied}");
    assert_eq!(web.ask(&connect)?.text, "hello", "it passes and is recorded");
    let text = String::from_utf8(sandbox.ask(&["status"])?.stdout)?;
    assert!(text.contains("in audit mode: orders, web\n"), "{text}");

    // Who is in audit mode is refused by one who is not.
    let mixed = POLICY.replace("/web }] }", "/web }], mode: audit }");
    let file = other_policy(&sandbox, &mixed)?;
    json(&sandbox.ask(&["policy", "apply", &file, "-o", "json"])?)?;
    assert!(web.ask(&connect)?.is_refused());
    let text = String::from_utf8(sandbox.ask(&["status"])?.stdout)?;
    assert!(
        text.contains("in audit mode: web\n  what is denied to them passes unless the other end"),
        "{text}"
    );
    daemon.stop()?.check_totals()
}

#[test]
fn names_that_anyone_may_give_are_shown_and_not_obeyed() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("escapes")?;
    let daemon = sandbox.daemon(POLICY)?;
    let name = "orders/e\u{1b}[31mred";
    let (mut web, mut hostile) = (sandbox.actor("web")?, sandbox.actor(name)?);
    let at = "127.0.0.1:8080".parse()?;
    assert!(hostile.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    assert!(web.ask(&Request::Connect { to: at, transport: Transport::Tcp, mapped: false })?.is_ok());
    let (pid, path) = (hostile.pid().to_string(), sandbox.path_of(name));
    for arguments in [
        &["services"][..],
        &["identity", "get", &pid],
        &["identity", "get", &path],
        &["identity", "get", "127.0.0.1:8080"],
    ] {
        let output = sandbox.ask(arguments)?;
        let text = String::from_utf8(output.stdout)?;
        assert!(text.contains("/e\u{fffd}[31mred") && !text.contains('\u{1b}'), "{arguments:?}: {text:?}");
    }
    for arguments in [&["status"][..], &["connections"], &["identity", "get", "\u{1b}[31m"]] {
        let output = sandbox.ask(arguments)?;
        assert!(![output.stdout, output.stderr].concat().contains(&0x1b), "{arguments:?}");
    }
    let json = json(&sandbox.ask(&["identity", "get", &pid, "-o", "json"])?)?;
    assert_eq!(json["answers"][0]["cgroup"], path, "{json}");
    daemon.stop()?.check_totals()
}

#[test]
fn a_cgroup_is_somebodys_whatever_bytes_its_name_has() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("bytes")?;
    let cgroup = sandbox.make_cgroup("orders")?.join(OsStr::from_bytes(b"\xff\xfe"));
    fs::create_dir(&cgroup)?;
    let (mut web, mut orders) = (sandbox.actor("web")?, sandbox.actor_at(&cgroup)?);
    let at = "127.0.0.1:8080".parse()?;
    // Before there is a daemon, which is told of it by nobody.
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let daemon = sandbox.daemon(POLICY)?;
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    assert_eq!(web.ask(&connect)?.text, "hello");
    let (pid, path) = (orders.pid(), sandbox.path_of("orders/\u{fffd}\u{fffd}"));
    for of in [pid.to_string(), at.to_string()] {
        let told = json(&sandbox.ask(&["identity", "get", &of, "-o", "json"])?)?;
        let answer = &told["answers"][0];
        assert_eq!((&answer["service"], &answer["cgroup"]), (&json!("orders"), &json!(path)), "{of}: {told}");
    }
    let told = json(&sandbox.ask(&["services", "-o", "json"])?)?;
    let mut cgroups =
        told["services"].as_array().into_iter().flatten().filter_map(|service| service["cgroups"].as_array());
    let found = cgroups.any(|of_one| {
        of_one.iter().any(|cgroup| cgroup["path"] == path && cgroup["processes"][0]["pid"] == pid)
    });
    assert!(found, "{told}");
    daemon.stop()?.check_totals()
}

/// Starts a command that says when it is ready, and goes on until its input ends.
fn ready(sandbox: &Sandbox, mut command: Command) -> anyhow::Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = sandbox.spawn(command)?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("no stdout")?).read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    Ok(child)
}

#[test]
fn what_lies_too_deep_to_be_named_is_missed_and_that_is_told() -> anyhow::Result<()> {
    // Deeper than the longest path; it goes back by itself, since nobody else can name it.
    const DEEP: &str = "import os, sys
top, name, levels = sys.argv[1], 'n' * 250, 20
os.chdir(top)
for _ in range(levels):
    os.mkdir(name)
    os.chdir(name)
open('cgroup.procs', 'w').write('0')
print('ready', flush=True)
sys.stdin.read()
open(top + '/cgroup.procs', 'w').write('0')
for _ in range(levels):
    os.chdir('..')
    os.rmdir(name)";
    let sandbox = Sandbox::new("deep")?;
    let daemon = sandbox.daemon(POLICY)?;
    let is_complete = || json(&sandbox.ask(&["services", "-o", "json"])?).map(|it| it["complete"].clone());
    assert_eq!(is_complete()?, true);
    let top = sandbox.make_cgroup("web")?;
    let mut command = sandbox.command("web", PYTHON)?;
    command.args(["-c", DEEP]).arg(top);
    let mut holder = ready(&sandbox, command)?;
    let told = is_complete();
    let status = json(&sandbox.ask(&["status", "-o", "json"])?);
    let asked = sandbox.ask(&["identity", "get", &holder.id().to_string()]);
    drop(holder.stdin.take());
    assert!(holder.wait()?.success());
    assert_eq!((told?, is_complete()?), (false.into(), true.into()));
    let said = String::from_utf8(asked?.stderr)?;
    assert!(said.contains("cannot be told in which cgroup"), "{said}");
    let status = status?;
    let degraded = status["degraded"].as_array().context("a list")?;
    assert!(degraded.iter().any(|one| one["code"] == "coverage-incomplete"), "{status}");
    daemon.stop()?.check_totals()
}

#[test]
fn what_is_outside_and_what_nobody_is_seen_to_have_is_told_to_be_there() -> anyhow::Result<()> {
    // A listener that no process has: it is on its way from one to another.
    const LISTEN: &str = "import socket, sys
listener = socket.create_server(('127.0.0.1', 2024))
here, there = socket.socketpair()
socket.send_fds(here, [b'x'], [listener.fileno()])
listener.close()
print('ready', flush=True)
sys.stdin.read()";
    let sandbox = Sandbox::new("unseen")?;
    let daemon = sandbox.daemon(POLICY)?;
    let mut command = sandbox.command("other", PYTHON)?;
    command.args(["-c", LISTEN]);
    let mut holder = ready(&sandbox, command)?;
    let status = json(&sandbox.ask(&["status", "-o", "json"])?)?;
    assert_eq!(status["coverage"]["unknown_listeners"][0]["at"]["port"], 2024, "{status}");
    let answer = json(&sandbox.ask(&["identity", "get", "127.0.0.1:2024", "-o", "json"])?)?;
    let answer = &answer["answers"][0];
    assert_eq!((&answer["service"], &answer["at"]["port"]), (&"unknown".into(), &2024.into()), "{answer}");
    let words = answer["explanation"].as_str().unwrap_or_default();
    assert!(words.contains("a socket waits there"), "{answer}");
    holder.kill()?;
    holder.wait()?;

    for (of, exists) in [("/", true), ("/nowhere-at-all", false), ("/../../etc", false)] {
        let answer = json(&sandbox.ask(&["identity", "get", of, "-o", "json"])?)?;
        assert_eq!(answer["answers"][0]["exists"], exists, "{of}: {answer}");
    }
    let text = String::from_utf8(sandbox.ask(&["status"])?.stdout)?;
    assert!(text.contains("written to standard output"), "{text}");
    daemon.stop()?.check_totals()
}

#[test]
fn a_reload_that_is_refused_is_told_as_one_error() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("broken")?;
    let daemon = sandbox.daemon(POLICY)?;
    sandbox.write_policy("version: 1\nservicse: {}\n")?;
    let output = sandbox.ask(&["reload"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.starts_with("error[unknown-field]: "), "{said}");
    assert!(!said.ends_with("\n\n"), "{said:?}");
    daemon.stop()?.check_totals()
}

#[test]
fn events_can_be_followed() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("follow")?;
    let daemon = sandbox.daemon(POLICY)?;
    let mut follower = UnixStream::connect(sandbox.control())?;
    follower.set_read_timeout(Some(patience(Duration::from_secs(20))))?;
    follower.write_all(b"GET /v1/events HTTP/1.1\r\nhost: enforcer\r\n\r\n")?;
    let mut text = String::new();
    let mut wait_for = |word: &str| -> anyhow::Result<()> {
        let mut buffer = [0; 4096];
        while !text.contains(word) {
            let size = follower.read(&mut buffer).with_context(|| format!("wait for {word} in {text}"))?;
            ensure!(size > 0, "it ended without {word}: {text}");
            text += &String::from_utf8_lossy(&buffer[..size]);
        }
        Ok(())
    };
    wait_for("application/x-ndjson")?;
    json(&sandbox.ask(&["reload", "-o", "json"])?)?;
    wait_for("\"kind\":\"policy\"")?;
    daemon.stop()?.check_totals()
}

#[test]
fn a_follower_that_reads_too_late_is_told_what_it_lost_and_one_that_never_reads_disturbs_nobody()
-> anyhow::Result<()> {
    const TIMES: u64 = 12_000;
    let sandbox = Sandbox::new("slow")?;
    sandbox.make_cgroup("web")?;
    let neighbour = sandbox.neighbour(&[])?;
    let mut daemon = sandbox.daemon(POLICY)?;
    let follow = || -> anyhow::Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(sandbox.control())?;
        stream.set_read_timeout(Some(patience(Duration::from_secs(20))))?;
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: enforcer\r\n\r\n")?;
        let (mut stream, mut line) = (BufReader::new(stream), String::new());
        // The head: from here on everything is followed.
        while line != "\r\n" {
            line.clear();
            ensure!(stream.read_line(&mut line)? > 0, "it is not answered");
        }
        Ok(stream)
    };
    let silent = (0..15).map(|_| follow()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut late = follow()?;
    assert_eq!(call(&sandbox, "GET", "/v1/events", "")?.0, 503, "there is no room for one more");
    let to = SocketAddr::new(Neighbour::FAR.into(), 7000);
    let flood = sandbox.actor("web")?.ask(&Request::Flood { to, times: TIMES })?;
    assert_eq!(flood.text, TIMES.to_string(), "{flood:?}");
    // Whoever does not read keeps nobody else waiting.
    json(&sandbox.ask(&["status", "-o", "json"])?)?;
    json(&sandbox.ask(&["reload", "-o", "json"])?)?;
    let last = daemon.wait_for(|record| record["kind"] == "policy")?;
    let (mut sequences, mut lost) = (Vec::new(), 0);
    while sequences.last() != last["sequence"].as_u64().as_ref() {
        let mut line = String::new();
        ensure!(late.read_line(&mut line)? > 0, "it ended after {} records", sequences.len());
        // Between the lines stand the lengths of chunks.
        let Ok(record) = serde_json::from_str::<Value>(&line) else { continue };
        if record["cause"] == "slow-reader" {
            lost += record["count"].as_u64().context("no count")?;
        } else {
            sequences.extend(record["sequence"].as_u64());
        }
    }
    ensure!(lost > 0, "{} records and none was lost", sequences.len());
    assert!(sequences.is_sorted(), "they come in their order");
    let (first, last) = (sequences[0], sequences[sequences.len() - 1]);
    assert_eq!(u64::try_from(sequences.len())? + lost, last - first + 1, "all are told or counted");
    drop((silent, neighbour));
    daemon.stop()?.check_totals()
}

#[test]
fn a_client_that_takes_too_long_to_ask_is_let_go() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("dawdling")?;
    let daemon = sandbox.daemon(POLICY)?;
    let start = Instant::now();
    let mut half = UnixStream::connect(sandbox.control())?;
    half.write_all(b"GET /v1/mode HTTP/1.1\r\nhost: enf")?;
    half.set_read_timeout(Some(patience(Duration::from_secs(60))))?;
    let mut answer = Vec::new();
    half.read_to_end(&mut answer)?;
    let took = start.elapsed();
    ensure!(took > Duration::from_secs(9), "it is let go after {took:?}");
    ensure!(!String::from_utf8_lossy(&answer).contains("200 OK"), "{answer:?}");
    json(&sandbox.ask(&["status", "-o", "json"])?)?;
    daemon.stop()?.check_totals()
}

#[test]
fn a_client_that_takes_too_long_to_send_its_request_is_let_go_and_one_that_follows_is_not()
-> anyhow::Result<()> {
    let sandbox = Sandbox::new("slow-body")?;
    let mut daemon = sandbox.daemon_with(POLICY, &["--control-timeout", "3s"])?;
    let mut follower = UnixStream::connect(sandbox.control())?;
    follower.write_all(b"GET /v1/events HTTP/1.1\r\nhost: enforcer\r\n\r\n")?;
    let start = Instant::now();
    let mut slow = UnixStream::connect(sandbox.control())?;
    slow.write_all(b"POST /v1/policy/apply HTTP/1.1\r\nhost: enforcer\r\ncontent-length: 100\r\n\r\n{")?;
    slow.set_read_timeout(Some(patience(Duration::from_secs(60))))?;
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer)?;
    let took = start.elapsed();
    ensure!(took > Duration::from_secs(2), "it is let go after {took:?}");
    assert_eq!(answer, b"", "it is told nothing");

    // Who follows events stays for longer than that, and nothing was changed.
    let record = daemon.reload(&sandbox, POLICY)?;
    assert_eq!((&record["result"], &record["revision"]), (&"applied".into(), &2.into()), "{record}");
    follower.set_read_timeout(Some(patience(Duration::from_secs(60))))?;
    let mut told = Vec::new();
    while !String::from_utf8_lossy(&told).contains(r#""kind":"policy""#) {
        let mut some = [0; 4096];
        let read = follower.read(&mut some)?;
        ensure!(read > 0, "it was let go: {}", String::from_utf8_lossy(&told));
        told.extend_from_slice(&some[..read]);
    }
    daemon.stop()?.check_totals()
}

#[test]
fn hostile_clients_are_refused_and_disturb_nobody() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("hostile")?;
    let daemon = sandbox.daemon(POLICY)?;
    // Root's connections are all taken by clients that say nothing.
    let silent: Vec<UnixStream> =
        (0..40).map(|_| UnixStream::connect(sandbox.control())).collect::<Result<_, _>>()?;
    assert!(raw(&sandbox, b"")?.starts_with("HTTP/1.1 503"));
    for _ in 0..20 {
        let output = sandbox.ask(&["status"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_told = said.contains("too many connections") || said.contains("as many clients as it serves");
        assert!(!output.status.success() && is_told && said.contains("try again"), "{said}");
    }
    let (mut web, mut orders, at) =
        (sandbox.actor("web")?, sandbox.actor("orders")?, "127.0.0.1:8080".parse()?);
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    assert_eq!(web.ask(&connect)?.text, "hello", "enforcement goes on");
    drop(silent);
    // That they have gone is noticed a moment later.
    let start = Instant::now();
    while call(&sandbox, "GET", "/v1/mode", "")?.0 != 200 {
        ensure!(start.elapsed() < patience(Duration::from_secs(10)), "nobody is served any more");
        std::thread::yield_now();
    }

    let header = [b"GET /v1/status HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 200_000]].concat();
    let answer = raw(&sandbox, &header)?;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let gigabyte = b"POST /v1/policy/apply HTTP/1.1\r\nhost: a\r\ncontent-length: 1073741824\r\n\r\n{";
    assert!(raw(&sandbox, gigabyte)?.starts_with("HTTP/1.1 413"));
    assert!(raw(&sandbox, b"\0\xff nonsense\r\n\r\n")?.starts_with("HTTP/1.1 400"));
    assert_eq!(call(&sandbox, "PUT", "/v1/mode", "{}")?.0, 405);
    assert_eq!(call(&sandbox, "GET", "/v1/nothing", "")?.0, 404);
    assert_eq!(call(&sandbox, "POST", "/v1/policy/diff", "[")?.0, 400);
    assert_eq!(call(&sandbox, "GET", "/v1/identity?of=nonsense", "")?.0, 400);
    assert_eq!(call(&sandbox, "GET", "/v1/mode", "")?.0, 200);
    daemon.stop()?.check_totals()
}

#[test]
fn strangers_are_kept_out_and_told_so() -> anyhow::Result<()> {
    const NOBODY: u32 = 65534;
    let sandbox = Sandbox::new("strangers")?;
    let daemon = sandbox.daemon(POLICY)?;
    fs::set_permissions(sandbox.directory(), fs::Permissions::from_mode(0o755))?;
    let program = sandbox.directory().join("enforcer");
    fs::copy(binary("enforcer")?, &program)?;
    let ask = || {
        let mut command = Command::new(&program);
        command.arg("status").arg("--control").arg(sandbox.control()).uid(NOBODY).gid(NOBODY);
        let output = sandbox.output(command)?;
        assert_eq!(output.status.code(), Some(1));
        anyhow::Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let said = ask()?;
    assert!(said.contains("Permission denied") && said.contains("hint: run as root"), "{said}");
    // The daemon asks again, whatever the file says.
    fs::set_permissions(sandbox.control(), fs::Permissions::from_mode(0o666))?;
    let said = ask()?;
    assert!(said.contains("as uid 65534: only root and members of group `enforcer` may"), "{said}");
    daemon.stop()?.check_totals()
}

#[test]
fn a_socket_is_its_daemons_until_it_ends() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("socket")?;
    let daemon = sandbox.daemon(POLICY)?;
    let second = sandbox.output(sandbox.daemon_command(POLICY)?)?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("another enforcer has it"), "{said}");
    json(&sandbox.ask(&["status", "-o", "json"])?)?;
    daemon.signal(nix::sys::signal::Signal::SIGKILL)?;
    daemon.wait()?;
    assert!(sandbox.control().exists(), "a daemon that was killed leaves its socket");
    let gone = sandbox.ask(&["status"])?;
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(said.contains("hint: is `enforcer run` running?"), "{said}");
    let daemon = sandbox.daemon(POLICY)?;
    json(&sandbox.ask(&["status", "-o", "json"])?)?;
    daemon.stop()?.check_totals()?;
    assert!(!sandbox.control().exists());
    Ok(())
}

#[test]
fn a_proxy_is_known_by_its_executable() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("proxy")?;
    let daemon = sandbox.daemon(POLICY)?;
    let program = sandbox.directory().join("docker-proxy");
    fs::copy(binary("enforcer-actor")?, &program)?;
    let mut command = Command::new(&program);
    command.arg(sandbox.make_cgroup("engine")?).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut proxy = sandbox.spawn(command)?;
    let serve =
        serde_json::to_string(&Request::Serve { at: "127.0.0.1:9090".parse()?, transport: Transport::Tcp })?;
    writeln!(proxy.stdin.as_mut().context("no stdin")?, "{serve}")?;
    let mut answer = [0; 1];
    proxy.stdout.as_mut().context("no stdout")?.read_exact(&mut answer)?;
    let status = json(&sandbox.ask(&["status", "-o", "json"])?)?;
    let found = &status["coverage"]["proxies"][0];
    assert_eq!(
        (&found["name"], &found["service"]),
        (&"docker-proxy".into(), &"unmanaged".into()),
        "{status}"
    );
    assert_eq!(
        (&found["process"]["pid"], &found["ports"][0]["port"]),
        (&proxy.id().into(), &9090.into()),
        "{status}"
    );
    proxy.kill()?;
    proxy.wait()?;
    daemon.stop()?.check_totals()
}

/// Holds a value against a schema, both ways: everything that is there is described, everything described is there.
fn check(value: &Value, schema: &Value, document: &Value, at: &str) -> anyhow::Result<()> {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.trim_start_matches('#')).with_context(|| format!("no {name}"))?;
        return check(value, schema, document, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().any(|choice| check(value, choice, document, at).is_ok());
        ensure!(fits, "{at}: {value} is none of {schema}");
        return Ok(());
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = &schema["type"];
    let named = kinds == kind || kinds.as_array().is_some_and(|kinds| kinds.iter().any(|one| one == kind));
    ensure!(named, "{at}: {value} is no {kinds}");
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        check(item, &schema["items"], document, &format!("{at}/{number}"))?;
    }
    if let Some(fields) = value.as_object() {
        for required in schema["required"].as_array().context("no list of required fields")? {
            ensure!(required.as_str().is_some_and(|name| fields.contains_key(name)), "{at}: no {required}");
        }
        for (name, field) in fields {
            let property =
                schema["properties"].get(name).with_context(|| format!("{at}/{name}: undocumented"))?;
            check(field, property, document, &format!("{at}/{name}"))?;
        }
    }
    Ok(())
}

#[test]
fn the_openapi_file_says_what_the_socket_does() -> anyhow::Result<()> {
    let document: Value = serde_yaml::from_str(include_str!("../../enforcer/openapi.yaml"))?;
    let paths = document["paths"].as_object().context("no paths")?;
    let mut described: Vec<(String, &str)> = Vec::new();
    for (path, methods) in paths {
        let methods = methods.as_object().context("no methods")?.keys();
        described.extend(methods.map(|method| (method.to_uppercase(), path.as_str())));
    }
    let mut offered: Vec<(String, &str)> =
        api::ENDPOINTS.iter().map(|(method, path)| ((*method).to_owned(), *path)).collect();
    described.sort();
    offered.sort();
    assert_eq!(described, offered);

    let sandbox = Sandbox::new("openapi")?;
    let daemon = sandbox.daemon(POLICY)?;
    let web = sandbox.actor("web")?;
    let wider = WIDER.replace("ROOT", sandbox.path_of("").trim_end_matches('/'));
    let body = json!({ "documents": [{ "file": "a.yaml", "text": wider }], "confirm_within_seconds": 600 })
        .to_string();
    for (method, path) in api::ENDPOINTS {
        let operation = &document["paths"][path][method.to_lowercase()];
        let Some(schema) = operation.pointer("/responses/200/content/application~1json/schema") else {
            continue;
        };
        let query = if path == "/v1/identity" { format!("{path}?of={}", web.pid()) } else { path.to_owned() };
        let (status, text) =
            call(&sandbox, method, &query, if path.contains("policy/") { &body } else { "" })?;
        ensure!(status == 200, "{method} {path}: {status} {text}");
        check(&serde_json::from_str(&text)?, schema, &document, path)?;
        // What is not offered is refused, in the form that is described.
        let (status, text) = call(&sandbox, "DELETE", path, "")?;
        ensure!(status == 405, "DELETE {path}: {status}");
        let problem = json!({ "$ref": "#/components/schemas/Problem" });
        check(&serde_json::from_str(&text)?, &problem, &document, path)?;
    }
    assert!(call(&sandbox, "GET", "/v1/openapi.yaml", "")?.1.starts_with("# The control socket"));
    daemon.stop()?.check_totals()
}
