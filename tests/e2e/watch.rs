//! Policy files that change by themselves: noticed, read when they have come to rest, and put in force like any reload.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Actor, Daemon, Sandbox};
use enforcer_tests::slowness::patience;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{RULE, SERVICES};

struct Scene {
    sandbox: Sandbox,
    web: Actor,
    _orders: Actor,
    daemon: Daemon,
}

impl Scene {
    fn new(name: &str, policy: &str) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(name)?;
        let (web, mut orders) = (sandbox.actor("web")?, sandbox.actor("orders")?);
        assert!(orders.ask(&Request::Serve { at: at(), transport: Transport::Tcp })?.is_ok());
        let daemon = sandbox.start_daemon(sandbox.watching_command(policy)?)?;
        Ok(Self { sandbox, web, _orders: orders, daemon })
    }

    fn call(&mut self) -> anyhow::Result<Reply> {
        self.web.ask(&Request::Connect { to: at(), transport: Transport::Tcp, mapped: false })
    }

    fn change(&mut self) -> anyhow::Result<Value> {
        self.daemon.wait_for(|record| record["kind"] == "policy")
    }
}

fn at() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

fn is(change: &Value, result: &str, cause: &str, revision: u32) -> anyhow::Result<()> {
    let same = change["result"] == result && change["cause"] == cause && change["revision"] == revision;
    ensure!(same && change["by"].is_null(), "{change} is not {result} by {cause} with revision {revision}");
    Ok(())
}

#[test]
fn a_file_that_is_renamed_into_its_place_is_put_in_force() -> anyhow::Result<()> {
    let mut scene = Scene::new("renamed", SERVICES)?;
    assert!(scene.call()?.is_refused());
    scene.sandbox.write_policy(&format!("{SERVICES}{RULE}"))?;
    is(&scene.change()?, "applied", "files", 2)?;
    assert_eq!(scene.call()?.text, "hello");
    // What was there is there again, under another inode: that is no change.
    scene.sandbox.write_policy(&format!("{SERVICES}{RULE}"))?;
    fs::write(scene.sandbox.directory().join("policy/notes.txt"), "no policy")?;
    scene.sandbox.write_policy(SERVICES)?;
    is(&scene.change()?, "applied", "files", 3)?;
    assert!(scene.call()?.is_refused());
    scene.daemon.stop()?.check_totals()
}

#[test]
fn many_changes_at_once_are_few_reloads_and_the_last_one_counts() -> anyhow::Result<()> {
    const TIMES: u32 = 200;
    let mut scene = Scene::new("many", SERVICES)?;
    for number in 1..=TIMES {
        scene
            .sandbox
            .write_policy(&format!("{SERVICES}{}", RULE.replace("checkout", &format!("r{number}"))))?;
    }
    let start = Instant::now();
    loop {
        let get = scene.sandbox.ask(&["policy", "get"])?;
        if String::from_utf8_lossy(&get.stdout).contains(&format!("name: r{TIMES},")) {
            break;
        }
        ensure!(start.elapsed() < patience(Duration::from_secs(20)), "the last change is not in force");
    }
    assert_eq!(scene.call()?.text, "hello");
    let finished = scene.daemon.stop()?;
    let reloads = finished.records.iter().filter(|record| record["kind"] == "policy").count();
    // One, and more only where this process was kept waiting between two changes.
    ensure!((1..=10).contains(&reloads), "{reloads} reloads of {TIMES} changes");
    finished.check_totals()
}

#[test]
fn a_file_that_is_half_written_is_refused_and_the_policy_in_force_stays() -> anyhow::Result<()> {
    let whole = format!("{SERVICES}{RULE}");
    let mut scene = Scene::new("half", &whole)?;
    let file = scene.sandbox.directory().join("policy/policy.yaml");
    let text = fs::read_to_string(&file)?;
    fs::write(&file, &text[..text.len() - 20])?;
    let change = scene.change()?;
    is(&change, "refused", "files", 1)?;
    ensure!(change["error"].as_str().is_some_and(|error| error.contains("policy.yaml")), "{change}");
    assert_eq!(scene.call()?.text, "hello");
    let status = scene.sandbox.ask_daemon(&["status"])?;
    let codes = status["degraded"].as_array().into_iter().flatten().map(|what| &what["code"]);
    ensure!(codes.collect::<Vec<_>>().contains(&&Value::from("reload-refused")), "{status}");
    // It is written to its end, without a rename.
    fs::write(&file, text.replace("checkout", "checked"))?;
    is(&scene.change()?, "applied", "files", 2)?;
    assert_eq!(scene.call()?.text, "hello");
    scene.daemon.stop()?.check_totals()
}

#[test]
fn a_directory_that_vanishes_and_comes_back_never_takes_the_policy_with_it() -> anyhow::Result<()> {
    let mut scene = Scene::new("vanishing", &format!("{SERVICES}{RULE}"))?;
    let (here, away) = (scene.sandbox.directory().join("policy"), scene.sandbox.directory().join("away"));
    fs::rename(&here, &away)?;
    is(&scene.change()?, "refused", "files", 1)?;
    assert_eq!(scene.call()?.text, "hello");
    // Another directory takes its place.
    scene.sandbox.write_policy(SERVICES)?;
    is(&scene.change()?, "applied", "files", 2)?;
    assert!(scene.call()?.is_refused());
    // In the middle of being read, as often as not.
    for _ in 0..50 {
        scene.daemon.signal(Signal::SIGHUP)?;
        fs::rename(&here, scene.sandbox.directory().join("elsewhere"))?;
        fs::rename(scene.sandbox.directory().join("elsewhere"), &here)?;
        assert!(scene.call()?.is_refused());
    }
    fs::remove_dir_all(&here)?;
    fs::rename(&away, &here)?;
    // A signal that was still waiting may have had it read before the files were seen to change.
    let start = Instant::now();
    while scene.call()?.text != "hello" {
        ensure!(start.elapsed() < patience(Duration::from_secs(20)), "what is there now is not in force");
    }
    scene.daemon.stop()?.check_totals()
}
