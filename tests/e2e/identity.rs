//! Identity without a gap: a process of a cgroup that was made a moment ago is who it is from its first call.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer::cgroups::MAX_PATH;
use enforcer_common::layout::KeyedCgroup;
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Daemon, Killed, PYTHON, Sandbox, binary};
use enforcer_tests::slowness::patience;
use enforcer_tests::verdicts::Verdicts;
use enforcer_tests::{amount, bpftool, fdinfo};
use nix::sys::signal::Signal;
use serde_json::Value;

const POLICY: &str = "version: 1
services:
  short: { match: [{ cgroup: 'ROOT/short-*' }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
allow:
  - { name: checkout, from: short, to: orders, ports: [8080/tcp] }
";

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

    let (cycles, next) = (usize::try_from(amount::of("ENFORCER_TEST_CYCLES", 1000))?, AtomicUsize::new(0));
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
fn a_cgroup_cannot_be_moved_to_where_it_would_be_another_service() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("moved")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (mut orders, mut stranger) = (sandbox.actor("orders")?, sandbox.actor("stranger")?);
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let [from, to] = ["stranger", "short-1"].map(|name| sandbox.cgroup().join(name));
    let err = fs::rename(&from, &to).err().context("it was moved")?;
    assert_eq!(err.raw_os_error(), Some(nix::libc::EPERM), "{err}");
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    assert!(stranger.ask(&connect)?.is_refused());
    daemon.stop()?.check_totals()
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

/// Deletes a cgroup from the tables of a daemon, as nothing of ours does; returns from how many.
fn forget(daemon: u32, cgroup: u64) -> anyhow::Result<u64> {
    let mut found = 0;
    for map in fdinfo::hashes(daemon, size_of::<u64>(), size_of::<KeyedCgroup>())? {
        found += u64::from(bpftool::remove(map, &cgroup.to_ne_bytes())?);
    }
    ensure!(found > 0, "no map of process {daemon} has cgroup {cgroup}");
    Ok(found)
}

/// Deletes a cgroup until a call of its is refused, and waits until one works again. Returns how often it was deleted.
fn unknown_until_repaired(
    daemon: &Daemon,
    cgroup: u64,
    mut call: impl FnMut() -> anyhow::Result<Reply>,
) -> anyhow::Result<u64> {
    let start = Instant::now();
    let mut forgotten = 0;
    // The daemon may look at any time, also between one table and the next.
    loop {
        forgotten += forget(daemon.pid(), cgroup)?;
        if call()?.is_refused() {
            break;
        }
        // It was put right already, and the permission is kept since.
        Verdicts::of(daemon.pid())?.forget()?;
        ensure!(start.elapsed() < patience(Duration::from_secs(30)), "an unknown cgroup is still somebody's");
    }
    let start = Instant::now();
    while call()?.text != "hello" {
        ensure!(start.elapsed() < patience(Duration::from_secs(30)), "it is never put right");
    }
    Ok(forgotten)
}

#[test]
fn what_the_table_says_otherwise_than_the_tree_is_put_right() -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    let sandbox = Sandbox::new("reconcile")?;
    let daemon = sandbox.daemon(POLICY)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let mut short = sandbox.actor("short-1")?;
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };

    let cgroup = sandbox.cgroup().join("short-1").metadata()?.ino();
    let forgotten = unknown_until_repaired(&daemon, cgroup, || short.ask(&connect))?;
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let repaired = finished.stop["cgroups_repaired"].as_u64();
    assert!(repaired.is_some_and(|repaired| (1..=forgotten).contains(&repaired)), "{}", finished.stop);
    assert!(finished.words.contains("differed from the tree"), "{}", finished.words);
    Ok(())
}

#[test]
fn a_thousand_levels_of_nesting_are_the_service_that_they_lie_in() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("levels")?;
    let mut daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    for (top, service, works) in [("short-1", "short", true), ("other", "unmanaged", false)] {
        let deep = (0..1000).fold(String::from(top), |path, _| path + "/d");
        let mut actor = sandbox.actor(&deep)?;
        let reply = actor.ask(&connect)?;
        assert_eq!((reply.is_ok(), reply.is_refused()), (works, !works), "{top}: {reply:?}");
        let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
        assert_eq!(record["source"]["service"], service, "{record}");
        assert_eq!(record["source"]["cgroup"], sandbox.path_of(&deep));
    }
    // A reload walks down there too.
    assert_eq!(daemon.reload(&sandbox, POLICY)?["result"], "applied");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["cgroups_failed"], 0);
    assert_eq!(finished.stop["cgroups"], 1 + 1 + 2 * 1001);
    Ok(())
}

/// Makes cgroups in each other until their path is longer than any system call takes, joins the last, connects and tells the
/// errno, and again for each line that it is given. With a number behind it, makes so many in the last, after the first line.
const BEYOND_PATH_MAX: &str = "
import os, socket, sys
os.chdir(sys.argv[1])
levels, name, children = int(sys.argv[3]), 'n' * int(sys.argv[4]), int(sys.argv[5])
clients = []
def connect():
    clients.append(socket.socket())
    print(clients[-1].connect_ex(('127.0.0.1', 8080)), flush=True)
for level in range(levels):
    os.mkdir(name)
    os.chdir(name)
if children:
    print('nested', flush=True)
    sys.stdin.readline()
    for child in range(children):
        os.mkdir(str(child))
with open(str(children - 1) + '/cgroup.procs' if children else 'cgroup.procs', 'w') as procs:
    procs.write('0')
connect()
while sys.stdin.readline():
    connect()
for client in clients:
    client.close()
with open(sys.argv[2] + '/cgroup.procs', 'w') as procs:
    procs.write('0')
for child in range(children):
    os.rmdir(str(child))
for level in range(levels):
    os.chdir('..')
    os.rmdir(name)
";

/// Who does so. It ends when it is dropped, and leaves the cgroups to the sandbox.
struct Deep {
    python: Killed,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Deep {
    fn nest(sandbox: &Sandbox, top: &str, levels: u32, name: u32, children: u32) -> anyhow::Result<Self> {
        let [cgroup, aside] = [sandbox.make_cgroup(top)?, sandbox.make_cgroup("aside")?];
        let mut command = Command::new(PYTHON);
        command.arg("-c").arg(BEYOND_PATH_MAX).arg(&cgroup).arg(&aside);
        command.args([levels, name, children].map(|number| number.to_string()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut python = Killed(sandbox.spawn(command)?);
        let stdout = python.0.stdout.take().context("no output")?;
        Ok(Self { python, lines: BufReader::new(stdout).lines() })
    }

    fn told(&mut self) -> anyhow::Result<String> {
        Ok(self.lines.next().context("it has ended")??)
    }

    fn go_on(&mut self) -> anyhow::Result<()> {
        Ok(self.python.0.stdin.as_mut().context("no input")?.write_all(b"\n")?)
    }

    /// Has it leave and remove what it has made.
    fn end(mut self) -> anyhow::Result<()> {
        drop(self.python.0.stdin.take());
        let status = self.python.0.wait()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

#[test]
fn a_path_longer_than_any_call_takes_is_identified_and_stops_no_reload() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("long-path")?;
    let mut daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    for (top, errno, service) in [("short-1", "0", "short"), ("other", "1", "unmanaged")] {
        let mut deep = Deep::nest(&sandbox, top, 20, 250, 0)?;
        let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
        assert_eq!(record["source"]["service"], service, "{record}");
        assert!(record["source"]["cgroup_id"].is_u64(), "{record}");
        let told = record["source"]["cgroup"].as_str().context("no cgroup")?;
        assert!(
            told.starts_with(&sandbox.path_of(&format!("{top}/nnn"))) && told.ends_with("n/..."),
            "{told}"
        );
        assert!((3800..MAX_PATH + 5).contains(&told.len()), "{} bytes are told", told.len());
        assert_eq!(daemon.reload(&sandbox, POLICY)?["result"], "applied");
        assert_eq!(deep.told()?, errno, "{top}");
        deep.end()?;
    }
    daemon.stop()?.check_totals()
}

/// What a process has in memory, in kB.
fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn the_depth_of_cgroups_costs_no_memory_and_what_lies_deep_is_not_forgotten() -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let sandbox = Sandbox::new("depth")?;
    let mut daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let mut short = sandbox.actor("short-2")?;
    let before = resident(daemon.pid())?;
    // All their paths together are 82 MB.
    let mut deep = Deep::nest(&sandbox, "short-1", 800, 255, 0)?;
    let is_deep = |record: &Value| {
        record["kind"] == "attempt"
            && record["source"]["cgroup"].as_str().is_some_and(|told| told.ends_with("..."))
    };
    let record = daemon.wait_for(is_deep)?;
    assert_eq!(record["source"]["service"], "short", "{record}");
    assert_eq!(deep.told()?, "0");
    let after = resident(daemon.pid())?;
    assert!(after < before + 32 * 1024, "from {before} to {after} kB");

    // The daemon has looked at the whole tree when it has put this one right.
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    unknown_until_repaired(&daemon, sandbox.cgroup().join("short-2").metadata()?.ino(), || {
        short.ask(&connect)
    })?;
    deep.go_on()?;
    let record = daemon.wait_for(is_deep)?;
    assert_eq!(record["source"]["service"], "short", "{record}");
    assert_eq!(deep.told()?, "0", "{record}");
    deep.end()?;
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert!(!finished.words.contains("Forget"), "{}", finished.words);
    Ok(())
}

#[test]
fn what_is_made_where_no_call_reaches_holds_nobody_up() -> anyhow::Result<()> {
    const SIBLINGS: usize = 1000;
    const CHILDREN: u32 = 3000;
    let sandbox = Sandbox::new("unreachable")?;
    let policy = sandbox.write_policy(POLICY)?;
    let start = || {
        let mut command = sandbox.staying_command(&policy)?;
        command.arg("--log-allowed");
        sandbox.start_daemon(command)
    };
    let first = start()?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    for sibling in 0..SIBLINGS {
        sandbox.make_cgroup(&format!("siblings/{sibling}"))?;
    }
    let mut deep = Deep::nest(&sandbox, "short-1", 20, 250, CHILDREN)?;
    assert_eq!(deep.told()?, "nested");
    first.signal(Signal::SIGKILL)?;
    first.wait()?;

    // It cannot see where they are, and is told of their children.
    let mut daemon = start()?;
    deep.go_on()?;
    assert_eq!(deep.told()?, "0");
    let told = Instant::now();
    let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!(record["source"]["service"], "short", "{record}");
    assert!(record["source"]["cgroup_id"].is_u64(), "{record}");
    assert!(told.elapsed() < patience(Duration::from_secs(5)), "written after {:?}", told.elapsed());
    deep.end()?;
    daemon.stop()?.check_totals()
}

/// Makes and removes cgroups, and returns the time that making one took.
fn time_of_making(sandbox: &Sandbox, names: impl Iterator<Item = String>) -> anyhow::Result<Duration> {
    let (mut spent, mut number) = (Duration::ZERO, 0);
    for name in names {
        let cgroup = sandbox.cgroup().join(name);
        let start = Instant::now();
        fs::create_dir(&cgroup)?;
        spent += start.elapsed();
        number += 1;
        fs::remove_dir(&cgroup)?;
    }
    Ok(spent / number)
}

#[test]
fn as_many_selectors_as_stated_are_matched_in_the_kernel() -> anyhow::Result<()> {
    const SELECTORS: usize = 4096;
    const ROUNDS: usize = 15;
    const AT_ONCE: usize = 50;

    let (none, many) = (Sandbox::new("selectors-none")?, Sandbox::new("selectors-many")?);
    let plain = none.daemon("version: 1\nservices: {}\n")?;
    let matches: Vec<String> =
        (0..SELECTORS).map(|number| format!("{{ cgroup: 'ROOT/unit-{number:04}-*.service' }}")).collect();
    let policy = format!(
        "version: 1
services:
  unit: {{ match: [{}] }}
  orders: {{ match: [{{ cgroup: ROOT/orders }}] }}
allow:
  - {{ name: checkout, from: unit, to: orders, ports: [8080/tcp] }}
",
        matches.join(", ")
    );
    let daemon = many.daemon(&policy)?;
    let mut orders = many.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    for number in [0, 1, SELECTORS / 2, SELECTORS - 1, SELECTORS] {
        let reply = many.actor(&format!("unit-{number:04}-a.service"))?.ask(&connect)?;
        assert_eq!(reply.is_ok(), number < SELECTORS, "{number}: {reply:?}");
    }
    // Side by side, in turns, so that both meet the same machine. It is told and not judged: other tests run beside this.
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let name =
            |number: usize| format!("unit-{:04}-{round}-{number}.service", number * SELECTORS / AT_ONCE);
        let without = time_of_making(&none, (0..AT_ONCE).map(name))?;
        times.push((without, time_of_making(&many, (0..AT_ONCE).map(name))?));
    }
    let median = |mut of: Vec<Duration>| {
        of.sort();
        of[of.len() / 2]
    };
    let without = median(times.iter().map(|(without, _)| *without).collect());
    let with = median(times.iter().map(|(_, with)| *with).collect());
    writeln!(std::io::stderr(), "mkdir: {without:?} without a selector, {with:?} with {SELECTORS}")?;
    plain.stop()?.check_totals()?;
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], 1);
    Ok(())
}
