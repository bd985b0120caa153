//! Identity without a gap: a process of a cgroup that was made a moment ago is who it is from its first call.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Sandbox, binary};
use enforcer_tests::slowness::patience;

const POLICY: &str = "version: 1
services:
  short: { match: [{ cgroup: 'ROOT/short-*' }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
allow:
  - { name: checkout, from: short, to: orders, ports: [8080/tcp] }
";

/// How many cgroups come and go; the environment may ask for more than the short form.
fn cycles() -> usize {
    std::env::var("ENFORCER_TEST_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

/// Makes a cgroup, connects as the first act of a new process in it, and removes it.
fn cycle(sandbox: &Sandbox, name: &str) -> anyhow::Result<Reply> {
    let cgroup = sandbox.make_cgroup(name)?;
    let mut command = Command::new(binary("enforcer-actor")?);
    command.arg(&cgroup).args(["connect", "127.0.0.1:8080"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = sandbox.spawn(command)?.wait_with_output()?;
    ensure!(output.status.success(), "{name}: {}", output.status);
    fs::remove_dir(&cgroup).with_context(|| format!("remove {}", cgroup.display()))?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn no_process_runs_unidentified_however_short_its_cgroup_lives() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("cycles")?;
    let daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());

    let (cycles, next) = (cycles(), AtomicUsize::new(0));
    let work = || -> anyhow::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= cycles {
                return Ok(());
            }
            // Every other one is of no service, so that both answers are seen.
            if number % 2 == 0 {
                let reply = cycle(&sandbox, &format!("short-{number}"))?;
                ensure!(reply.text == "hello", "short-{number}: {reply:?}");
            } else {
                let reply = cycle(&sandbox, &format!("other-{number}"))?;
                ensure!(reply.is_refused(), "other-{number}: {reply:?}");
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
    })?;

    // A cgroup is released some time after its directory has gone.
    let stat = sandbox.cgroup().join("cgroup.stat");
    let start = Instant::now();
    while !fs::read_to_string(&stat)?.contains("nr_dying_descendants 0\n") {
        ensure!(start.elapsed() < patience(Duration::from_secs(60)), "cgroups are still dying");
        std::thread::yield_now();
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let mut seen: HashMap<String, u32> = HashMap::new();
    for record in finished.attempts() {
        let path = record["source"]["cgroup"].as_str().with_context(|| format!("no path in {record}"))?;
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let (service, verdict) =
            if name.starts_with("short-") { ("short", "allow") } else { ("unmanaged", "deny") };
        ensure!(record["source"]["service"] == service, "{record}");
        ensure!(record["verdict"] == verdict, "{record}");
        ensure!(record["destination"]["service"] == "orders", "{record}");
        *seen.entry(name).or_default() += 1;
    }
    assert_eq!(seen.len(), cycles);
    assert!(seen.values().all(|count| *count == 1), "one record each");
    assert_eq!(finished.stop["cgroups_failed"], 0);
    // The root of the subtree and the cgroup of `orders`.
    assert_eq!(finished.stop["cgroups"], 2, "{}", finished.stop);
    Ok(())
}

#[test]
fn what_lies_below_a_service_is_the_service() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("nested")?;
    let daemon = sandbox.daemon(POLICY)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let deep = (0..40).fold(String::from("short-1"), |path, level| format!("{path}/level-{level}"));
    for (cgroup, works) in [
        ("short-1/inner", true),
        (deep.as_str(), true),
        ("other/short-1", false),
        ("short", false),
        ("xshort-1", false),
    ] {
        let reply = sandbox.actor(cgroup)?.ask(&connect)?;
        assert_eq!((reply.is_ok(), reply.is_refused()), (works, !works), "{cgroup}: {reply:?}");
    }
    daemon.stop()?.check_totals()
}

#[test]
fn names_of_any_bytes_are_told_apart() -> anyhow::Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let sandbox = Sandbox::new("names")?;
    let daemon = sandbox.daemon(POLICY)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let long = [b"short-".as_slice(), &[b'x'; 249]].concat();
    let too_long_by_one_class = [b"shorty".as_slice(), &[b'x'; 249]].concat();
    for (name, works) in [
        (b"short-\xff\xfe\x80".as_slice(), true),
        (b"\xffshort-".as_slice(), false),
        (long.as_slice(), true),
        (too_long_by_one_class.as_slice(), false),
    ] {
        let cgroup = sandbox.cgroup().join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&cgroup)?;
        let mut command = Command::new(binary("enforcer-actor")?);
        // The actor takes text, so it is given the way in through a link.
        let link = sandbox.directory().join("link");
        std::os::unix::fs::symlink(&cgroup, &link)?;
        command.arg(&link).args(["connect", "127.0.0.1:8080"]);
        let output = sandbox.output(command)?;
        let reply: Reply = serde_json::from_slice(&output.stdout)?;
        assert_eq!(
            (reply.is_ok(), reply.is_refused()),
            (works, !works),
            "{}: {reply:?}",
            name.escape_ascii()
        );
        fs::remove_file(&link)?;
    }
    daemon.stop()?.check_totals()
}

#[test]
fn listeners_older_than_the_enforcer_have_an_owner() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("older")?;
    let mut orders = sandbox.actor("orders")?;
    let (tcp, udp) = ("127.0.0.1:8080".parse()?, "[::1]:8081".parse()?);
    assert!(orders.ask(&Request::Serve { at: tcp, transport: Transport::Tcp })?.is_ok());
    assert!(orders.ask(&Request::Serve { at: udp, transport: Transport::Udp })?.is_ok());
    let (mut short, mut other) = (sandbox.actor("short-1")?, sandbox.actor("other")?);

    let daemon = sandbox.daemon(POLICY)?;
    let connect = Request::Connect { to: tcp, transport: Transport::Tcp, mapped: false };
    assert_eq!(short.ask(&connect)?.text, "hello");
    let refused = other.ask(&connect)?;
    assert!(
        refused.is_refused() && Duration::from_micros(refused.micros) < patience(Duration::from_millis(50)),
        "{refused:?}"
    );
    let refused = short.ask(&Request::Send { to: udp, mapped: false, from_port: 0 })?;
    assert!(refused.is_refused() && refused.call == "sendto", "{refused:?}");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert!(finished.attempts().all(|record| record["destination"]["service"] == "orders"));
    Ok(())
}
