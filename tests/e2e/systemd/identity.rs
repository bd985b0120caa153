//! Whose the processes and sockets of units are, of every kind that systemd has.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::Reply;
use enforcer_tests::amount;
use enforcer_tests::machine::{ACTOR, Machine};
use serde_json::Value;

use super::{enforcing, finish};

const ORDERS: &str = "127.0.0.1:8080";

const POLICY: &str = "version: 1
services:
  web: { match: [{ systemd: web.service }] }
  payments: { match: [{ systemd: 'payments@*.service' }] }
  till: { match: [{ systemd: till.service }] }
  job: { match: [{ systemd: job.scope }] }
  dynamic: { match: [{ systemd: dynamic.service }] }
  delegated: { match: [{ systemd: delegated.service }] }
  nginx: { match: [{ systemd: nginx.service }] }
  mine: { match: [{ cgroup: /user.slice/user-1000.slice/user@1000.service/app.slice/mine.service }] }
  again: { match: [{ systemd: again.service }] }
  shop: { match: [{ systemd: 'shop@*.service' }] }
  each: { match: [{ systemd: 'each@*.service' }] }
  echo: { match: [{ systemd: echo.service }] }
  kept: { match: [{ systemd: kept.service }] }
  orders: { match: [{ systemd: orders.service }] }
allow:
  - name: checkout
    from: [web, payments, till, job, dynamic, delegated, nginx, mine, again, shop, each]
    to: orders
    ports: [8080/tcp]
  - { name: inherited, from: web, to: [echo, each, kept], ports: [8090-8092/tcp] }
";

const OF_SLICES: &str = "version: 1
services:
  kitchen: { match: [{ systemd: kitchen-oven.slice }] }
  orders: { match: [{ cgroup: /system.slice/orders.service }] }
allow:
  - { name: checkout, from: kitchen, to: orders, ports: [8080/tcp] }
";

/// Starts a transient unit with these properties that runs a command, and returns what it wrote.
fn run(machine: &Machine, options: &[&str], command: &[&str]) -> anyhow::Result<Reply> {
    let common = ["--quiet", "--collect", "--wait", "--pipe"];
    let text = machine.run("systemd-run", &[&common, options, command].concat())?;
    serde_json::from_str(&text).with_context(|| format!("not a reply: {text}"))
}

/// What the records tell of the callers in the cgroups with these paths: for each one record at its end, with the service
/// and the verdict.
fn callers(records: &[Value]) -> HashMap<String, Vec<(String, String)>> {
    let mut callers: HashMap<String, Vec<_>> = HashMap::new();
    for record in records.iter().filter(|record| record["direction"] == "egress") {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = (text(&record["source"]["service"]), text(&record["verdict"]));
        callers.entry(text(&record["source"]["cgroup"])).or_default().push(told);
    }
    callers
}

#[test]
fn callers_of_every_kind_of_unit_are_who_they_are() -> anyhow::Result<()> {
    let machine = enforcing("units", POLICY)?;
    machine.serve_as("orders", ORDERS)?;
    let connect = [ACTOR, "unit", "connect", ORDERS];
    let delegated = [ACTOR, "unit", "delegated", "inner/most", ORDERS];
    let in_scope = [&["/usr/bin/systemd-run", "--quiet", "--scope", "--unit=job"], &connect[..]].concat();
    let mut expected = Vec::new();
    for (options, command, service, path) in [
        (&["--unit=web"][..], &connect[..], "web", "/system.slice/web.service"),
        (
            &["--unit=payments@eu"],
            &connect,
            "payments",
            "/system.slice/system-payments.slice/payments@eu.service",
        ),
        (
            &["--unit=payments@eu-west"],
            &connect,
            "payments",
            "/system.slice/system-payments.slice/payments@eu-west.service",
        ),
        (&["--unit=payments"], &connect, "unmanaged", "/system.slice/payments.service"),
        (
            &["--unit=till", "--slice=shop-front.slice"],
            &connect,
            "till",
            "/shop.slice/shop-front.slice/till.service",
        ),
        (&["--unit=runner"], &in_scope, "job", "/system.slice/job.scope"),
        (
            &["--unit=dynamic", "--property=DynamicUser=yes"],
            &connect,
            "dynamic",
            "/system.slice/dynamic.service",
        ),
        (
            &["--unit=delegated", "--property=Delegate=yes"],
            &delegated,
            "delegated",
            "/system.slice/delegated.service/inner/most",
        ),
        // Its own cgroup is called like a service, but lies within somebody else's.
        (
            &["--unit=strange", "--property=Delegate=yes"],
            &[ACTOR, "unit", "delegated", "web.service", ORDERS],
            "unmanaged",
            "/system.slice/strange.service/web.service",
        ),
        (&["--unit=nginx"], &connect, "nginx", "/system.slice/nginx.service"),
    ] {
        let reply = run(&machine, options, command)?;
        ensure!(reply.is_refused() == (service == "unmanaged"), "{path}: {reply:?}");
        expected.push((path, service));
    }

    // A user's own units, one of them with the name of the system's.
    machine.run("useradd", &["--create-home", "--uid=1000", "joe"])?;
    for name in ["nginx", "mine"] {
        let unit = format!(
            "[Service]\nType=oneshot\nExecStart={ACTOR} unit connect {ORDERS}\n\
             StandardOutput=truncate:/home/joe/{name}\n"
        );
        machine.write(&format!("/home/joe/.config/systemd/user/{name}.service"), &unit)?;
    }
    machine.systemctl(&["start", "user@1000.service"])?;
    let as_joe = ["--reuid=1000", "--regid=1000", "--clear-groups", "env", "XDG_RUNTIME_DIR=/run/user/1000"];
    for (name, service, path) in [
        ("nginx", "unmanaged", "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service"),
        ("mine", "mine", "/user.slice/user-1000.slice/user@1000.service/app.slice/mine.service"),
    ] {
        let unit = format!("{name}.service");
        machine.run("setpriv", &[&as_joe[..], &["systemctl", "--user", "start", &unit]].concat())?;
        let reply = machine.reply(&format!("/home/joe/{name}"))?;
        ensure!(reply.is_refused() == (service == "unmanaged"), "{path}: {reply:?}");
        expected.push((path, service));
    }

    // Slices, by a policy of their own, since any service may run in one.
    machine.write("/etc/enforcer/policy.yaml", OF_SLICES)?;
    machine.systemctl(&["reload", "enforcer.service"])?;
    for (unit, slice, service, path) in [
        ("cook", "kitchen-oven.slice", "kitchen", "/kitchen.slice/kitchen-oven.slice/cook.service"),
        (
            "bake",
            "kitchen-oven-hot.slice",
            "kitchen",
            "/kitchen.slice/kitchen-oven.slice/kitchen-oven-hot.slice/bake.service",
        ),
        ("wash", "kitchen.slice", "unmanaged", "/kitchen.slice/wash.service"),
    ] {
        let options = [format!("--unit={unit}"), format!("--slice={slice}")];
        let reply = run(&machine, &[options[0].as_str(), options[1].as_str()], &connect)?;
        ensure!(reply.is_refused() == (service == "unmanaged"), "{path}: {reply:?}");
        expected.push((path, service));
    }

    let finished = finish(&machine)?;
    finished.check_totals()?;
    let callers = callers(&finished.records);
    for (path, service) in expected {
        let verdict = if service == "unmanaged" { "deny" } else { "allow" };
        let told = callers.get(path).with_context(|| format!("no record of {path}: {callers:?}"))?;
        assert_eq!(told, &[(service.to_owned(), verdict.to_owned())], "{path}");
    }
    Ok(())
}

#[test]
fn sockets_that_systemd_makes_or_keeps_belong_to_their_service() -> anyhow::Result<()> {
    let machine = enforcing("sockets", POLICY)?;
    machine.serve_as("orders", ORDERS)?;
    machine.unit("echo.socket", "[Socket]\nListenStream=127.0.0.1:8090\n")?;
    let inherit = format!("StandardInput=socket\nStandardOutput=journal\nExecStart={ACTOR} unit inherit\n");
    machine.unit("echo.service", &format!("[Service]\n{inherit}"))?;
    machine.unit("each.socket", "[Socket]\nListenStream=127.0.0.1:8091\nAccept=yes\n")?;
    // An instance also calls, before it answers.
    machine.unit(
        "each@.service",
        &format!("[Service]\nExecStartPre={ACTOR} unit connect {ORDERS}\n{inherit}"),
    )?;
    machine.unit(
        "kept.service",
        &format!(
            "[Service]\nType=notify\nFileDescriptorStoreMax=1\nExecStart={ACTOR} unit keep 127.0.0.1:8092\n"
        ),
    )?;
    machine.systemctl(&["daemon-reload"])?;
    machine.systemctl(&["start", "echo.socket", "each.socket", "kept.service"])?;
    let ask = |at: &str| -> anyhow::Result<()> {
        let reply = machine.connect_as("other", at)?;
        ensure!(reply.is_refused(), "other at {at}: {reply:?}");
        let reply = machine.connect_as("web", at)?;
        ensure!(reply.text == "hello", "web at {at}: {reply:?}");
        Ok(())
    };
    // Nobody but systemd has the listener when the first caller comes.
    assert_eq!(machine.property("echo.service", "ActiveState")?, "inactive");
    ask("127.0.0.1:8090")?;
    ask("127.0.0.1:8090")?;
    ask("127.0.0.1:8091")?;
    ask("127.0.0.1:8091")?;
    ask("127.0.0.1:8092")?;
    // Its next life, in another cgroup, takes the listener of the first.
    assert_eq!(machine.property("kept.service", "NFileDescriptorStore")?, "1");
    machine.systemctl(&["restart", "kept.service"])?;
    ask("127.0.0.1:8092")?;

    let finished = finish(&machine)?;
    finished.check_totals()?;
    for (port, service, path) in [
        (8090, "echo", "/system.slice/echo.socket"),
        (8091, "each", "/system.slice/each.socket"),
        (8092, "kept", "/system.slice/kept.service"),
    ] {
        let told: Vec<_> = finished
            .attempts()
            .filter(|record| record["direction"] == "egress" && record["destination"]["port"] == port)
            .collect();
        assert_eq!(told.len(), 4, "two callers twice: {told:?}");
        for record in told {
            assert_eq!(record["destination"]["service"], service, "{record}");
            assert_eq!(record["destination"]["cgroup"], path, "{record}");
        }
    }
    let callers = callers(&finished.records);
    let instances: Vec<_> = callers.iter().filter(|(path, _)| path.contains("/each@")).collect();
    assert_eq!(instances.len(), 2, "{callers:?}");
    for (path, told) in instances {
        assert!(path.starts_with("/system.slice/system-each.slice/each@"), "{path}");
        assert_eq!(told, &[(String::from("each"), String::from("allow"))], "{path}");
    }
    Ok(())
}

#[test]
fn a_unit_that_restarts_is_who_it_is_from_its_first_call() -> anyhow::Result<()> {
    const TIMES: usize = 200;
    let machine = enforcing("restarts", POLICY)?;
    machine.serve_as("orders", ORDERS)?;
    for name in ["again", "stray"] {
        let unit = format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\n\
             ExecStart={ACTOR} unit connect {ORDERS}\nStandardOutput=append:/run/{name}\n"
        );
        machine.unit(&format!("{name}.service"), &unit)?;
    }
    let script = format!(
        "for n in $(seq {}); do systemctl start again.service stray.service || exit 1; done",
        TIMES / 2
    );
    machine.run("sh", &["-c", &script])?;
    for (name, permitted) in [("again", true), ("stray", false)] {
        let text = machine.read(&format!("/run/{name}"))?;
        let replies: Result<Vec<Reply>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        let replies = replies?;
        assert_eq!(replies.len(), TIMES / 2);
        for reply in replies {
            ensure!(reply.is_refused() != permitted, "{name}: {reply:?}");
        }
    }
    let finished = finish(&machine)?;
    finished.check_totals()?;
    let callers = callers(&finished.records);
    for (name, service, verdict) in [("again", "again", "allow"), ("stray", "unmanaged", "deny")] {
        let told = callers.get(&format!("/system.slice/{name}.service")).context("no records")?;
        assert_eq!(told.len(), TIMES / 2);
        assert!(told.iter().all(|told| told.0 == service && told.1 == verdict), "{name}: {told:?}");
    }
    let ids: std::collections::HashSet<_> = finished
        .attempts()
        .filter(|record| record["source"]["cgroup"] == "/system.slice/again.service")
        .map(|record| record["source"]["cgroup_id"].as_u64())
        .collect();
    assert_eq!(ids.len(), TIMES / 2, "each start has a cgroup of its own");
    Ok(())
}

#[test]
fn who_is_outside_of_the_container_is_nobody_that_a_policy_in_it_can_name() -> anyhow::Result<()> {
    const OUTSIDE: &str = "127.0.0.1:9999";
    let policy = format!("{POLICY}  - {{ name: out, from: web, to: unmanaged, ports: [9999/tcp] }}\n");
    let machine = enforcing("outside", &policy)?;
    machine.serve_as("orders", ORDERS)?;
    // In the network namespace of the machine, but in no cgroup of it: the daemon's programs do not see its packets.
    let mut outsider = machine.command(ACTOR).args(["unit", "serve", OUTSIDE]).spawn()?;
    let listens = machine.wait_until("somebody listens", |machine| {
        Ok(machine.run("ss", &["--listening", "--tcp", "--numeric"])?.contains(OUTSIDE))
    });
    let to_outsider = listens.and_then(|()| machine.connect_as("web", OUTSIDE));
    outsider.kill()?;
    outsider.wait()?;
    let to_outsider = to_outsider?;
    ensure!(to_outsider.is_refused(), "{to_outsider:?}");
    let text = machine.run(ACTOR, &["unit", "connect", ORDERS])?;
    let from_outsider: Reply = serde_json::from_str(&text)?;
    // Its own connect is judged by nobody here, but what it sends is.
    ensure!(!from_outsider.is_ok(), "{from_outsider:?}");

    let finished = finish(&machine)?;
    finished.check_totals()?;
    let reasons: Vec<_> = finished.attempts().map(|record| (&record["verdict"], &record["reason"])).collect();
    assert_eq!(reasons.first(), Some(&(&"deny".into(), &"destination-unknown".into())), "{reasons:?}");
    assert!(reasons.len() > 1, "{reasons:?}");
    for reason in reasons.iter().skip(1) {
        assert_eq!(*reason, (&"deny".into(), &"source-unknown".into()));
    }
    Ok(())
}

#[test]
fn many_units_that_start_at_once_under_load_are_all_who_they_are() -> anyhow::Result<()> {
    let machine = enforcing("storm", POLICY)?;
    machine.serve_as("orders", ORDERS)?;
    machine.serve_as("idler", "127.0.0.1:9000")?;
    machine.unit("load@.service", &format!("[Service]\nExecStart={ACTOR} unit load 127.0.0.1:9000\n"))?;
    for name in ["shop", "stray"] {
        let unit = format!(
            "[Service]\nType=oneshot\nExecStart={ACTOR} unit connect {ORDERS}\n\
             StandardOutput=truncate:/run/replies/%p@%i\n"
        );
        machine.unit(&format!("{name}@.service"), &unit)?;
    }
    machine.run("mkdir", &["/run/replies"])?;
    machine.systemctl(&["start", "load@1.service", "load@2.service"])?;
    let half = amount::of("ENFORCER_TEST_UNITS", 200) / 2;
    let names: Vec<String> =
        (0..half).flat_map(|number| [format!("shop@{number}"), format!("stray@{number}")]).collect();
    let mut arguments = vec!["start"];
    arguments.extend(names.iter().map(String::as_str));
    machine.systemctl(&arguments)?;
    machine.systemctl(&["stop", "load@1.service", "load@2.service", "idler.service"])?;

    for name in &names {
        let reply = machine.reply(&format!("/run/replies/{name}"))?;
        // Under load the answer may come late, but what connected was permitted.
        let connected = reply.is_ok() || reply.call != "connect";
        let (permitted, refused) = (name.starts_with("shop@"), reply.is_refused());
        ensure!(connected == permitted && refused != permitted, "{name}: {reply:?}");
    }
    let payload = machine.cgroup("/");
    machine.wait_until("all cgroups are released", |_| {
        Ok(fs::read_to_string(payload.join("cgroup.stat"))?.contains("nr_dying_descendants 0\n"))
    })?;
    let alive = count_cgroups(&payload)?;
    let finished = finish(&machine)?;
    finished.check_totals()?;
    let callers = callers(&finished.records);
    for name in &names {
        let (prefix, _) = name.split_once('@').context("an instance")?;
        let path = format!("/system.slice/system-{prefix}.slice/{name}.service");
        let (service, verdict) = if prefix == "shop" { ("shop", "allow") } else { ("unmanaged", "deny") };
        let told = callers.get(&path).with_context(|| format!("no record of {path}"))?;
        assert_eq!(told, &[(service.to_owned(), verdict.to_owned())], "{path}");
    }
    assert_eq!(finished.stop["cgroups_failed"], 0);
    assert_eq!(finished.stop["events_lost"], 0);
    // What the kernel's table holds is what there is.
    assert_eq!(finished.stop["cgroups"], alive, "{}", finished.stop);
    Ok(())
}

fn count_cgroups(cgroup: &std::path::Path) -> anyhow::Result<usize> {
    let mut count = 1;
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += count_cgroups(&entry.path())?;
        }
    }
    Ok(count)
}
