//! SIGHUP: a new policy is in force as a whole, or the one before stays as a whole.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use enforcer::failpoint;
use enforcer_common::layout::{EdgeKey, EdgeValue};
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Actor, Killed, PYTHON, Sandbox};
use enforcer_tests::slowness::patience;
use enforcer_tests::{bpftool, fdinfo};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::shop::{RULE, SERVICES, address};

const SECOND_RULE: &str = "allow:
  - { name: renamed, from: web, to: orders, ports: [8080/tcp, 8081/tcp] }
";

struct Pair {
    sandbox: Sandbox,
    web: Actor,
    orders: Actor,
}

impl Pair {
    fn new(name: &str) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(name)?;
        let (web, orders) = (sandbox.actor("web")?, sandbox.actor("orders")?);
        Ok(Self { sandbox, web, orders })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        for at in [address(8080), address(8081)] {
            assert!(self.orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
        }
        Ok(())
    }

    fn call(&mut self, port: u16) -> anyhow::Result<Reply> {
        self.web.ask(&Request::Connect { to: address(port), transport: Transport::Tcp, mapped: false })
    }
}

#[test]
fn a_rule_that_is_added_permits_and_one_that_is_removed_refuses() -> anyhow::Result<()> {
    let mut pair = Pair::new("reload")?;
    let mut daemon = pair.sandbox.daemon_with(SERVICES, &["--log-allowed"])?;
    pair.serve()?;

    assert!(pair.call(8080)?.is_refused());
    let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!((&record["revision"], &record["reason"]), (&1.into(), &"no-rule".into()), "{record}");

    let policy = daemon.reload(&pair.sandbox, &format!("{SERVICES}{RULE}"))?;
    assert_eq!((&policy["result"], &policy["revision"]), (&"applied".into(), &2.into()), "{policy}");
    assert_eq!(pair.call(8080)?.text, "hello");
    let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!((&record["revision"], &record["verdict"]), (&2.into(), &"allow".into()), "{record}");
    assert_eq!(record["rule"]["name"], "checkout");
    assert_eq!(record["rule"]["line"], 6, "{record}");

    // The events of a revision name its rules, though the next one is in force when they are written.
    for round in 0..5 {
        assert_eq!(pair.call(8080)?.text, "hello");
        let (text, name) = if round % 2 == 0 { (SECOND_RULE, "renamed") } else { (RULE, "checkout") };
        let before = if round % 2 == 0 { "checkout" } else { "renamed" };
        pair.sandbox.write_policy(&format!("{SERVICES}{text}"))?;
        let seen = daemon.records().len();
        let policy = daemon.reload(&pair.sandbox, &format!("{SERVICES}{text}"))?;
        assert_eq!(policy["revision"], 3 + round, "{policy}");
        assert_eq!(pair.call(8080)?.text, "hello");
        daemon.wait_for(|record| record["kind"] == "attempt" && record["revision"] == 3 + round)?;
        for record in daemon.records().iter().skip(seen).filter(|record| record["kind"] == "attempt") {
            let wanted = if record["revision"] == 3 + round { name } else { before };
            assert_eq!(record["rule"]["name"], wanted, "{record}");
        }
    }

    let policy = daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!((&policy["result"], &policy["revision"]), (&"applied".into(), &8.into()), "{policy}");
    assert!(pair.call(8080)?.is_refused());
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_eq!((&record["revision"], &record["source"]["service"]), (&8.into(), &"web".into()), "{record}");
    daemon.stop()?.check_totals()
}

#[test]
fn every_cgroup_that_is_made_while_rules_change_is_carried_over() -> anyhow::Result<()> {
    const CHAINS: usize = 1500;
    const LEVELS: usize = 4;
    let mut pair = Pair::new("carried")?;
    let mut daemon = pair.sandbox.daemon(&format!("{SERVICES}{RULE}"))?;
    pair.serve()?;
    let web = pair.sandbox.cgroup().join("web");
    let are_made = AtomicBool::new(false);
    thread::scope(|scope| -> anyhow::Result<()> {
        let maker = scope.spawn(|| {
            let made = (0..CHAINS).try_for_each(|chain| {
                let mut directory = web.join(format!("chain-{chain}"));
                fs::create_dir(&directory)?;
                for level in 1..LEVELS {
                    directory.push(format!("level-{level}"));
                    fs::create_dir(&directory)?;
                }
                anyhow::Ok(())
            });
            are_made.store(true, Ordering::Release);
            made
        });
        for reloads in 0.. {
            if are_made.load(Ordering::Acquire) && reloads > 1 {
                break;
            }
            let rule = if reloads % 2 == 0 { SECOND_RULE } else { RULE };
            let record = daemon.reload(&pair.sandbox, &format!("{SERVICES}{rule}"))?;
            ensure!(record["result"] == "applied", "{record}");
        }
        maker.join().map_err(|_panic| anyhow!("the thread panicked"))?
    })?;

    // Whoever is in the innermost of them is the service that they lie in.
    let last = format!("web/chain-{}/level-1/level-2/level-3", CHAINS - 1);
    let mut inner = pair.sandbox.actor(&last)?;
    let connect = Request::Connect { to: address(8080), transport: Transport::Tcp, mapped: false };
    assert_eq!(inner.ask(&connect)?.text, "hello");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    // The root of the subtree, and those of the two services.
    assert_eq!(finished.stop["cgroups"], 3 + CHAINS * LEVELS, "{}", finished.stop);
    assert_eq!(finished.stop["cgroups_failed"], 0);
    assert_eq!(finished.stop["cgroups_repaired"], 0);
    Ok(())
}

/// A rule for each of these ports, in a file of its own.
fn rules(name: &str, ports: &[u16]) -> String {
    let line = |port| format!("  - {{ name: {name}-{port}, from: web, to: orders, ports: [{port}/tcp] }}\n");
    format!("version: 1\nallow:\n{}", ports.iter().map(line).collect::<String>())
}

#[test]
fn a_change_of_any_file_is_in_force_by_itself() -> anyhow::Result<()> {
    let mut pair = Pair::new("files")?;
    let directory = pair.sandbox.write_policy(SERVICES)?;
    let (a, b) = (directory.join("rules-a.yaml"), directory.join("rules-b.yaml"));
    fs::write(&a, rules("a", &[9000, 9001]))?;
    fs::write(&b, rules("b", &[9002, 8080]))?;
    let mut daemon = pair.sandbox.daemon(SERVICES)?;
    pair.serve()?;
    let mut reload = |pair: &mut Pair, wanted: [bool; 2], what: &str| -> anyhow::Result<()> {
        let record = daemon.reload(&pair.sandbox, SERVICES)?;
        assert_eq!(record["result"], "applied", "{what}: {record}");
        for (port, wanted) in [8080, 8081].into_iter().zip(wanted) {
            let reply = pair.call(port)?;
            assert_eq!(reply.is_refused(), !wanted, "{what}: {port}: {reply:?}");
        }
        Ok(())
    };
    reload(&mut pair, [true, false], "nothing has changed")?;
    // Three in a row: each slot is brought up to date by what has changed since it was in force.
    for (number, ports) in [[9002, 8081], [9003, 8081], [8081, 8080], [9002, 9003]].iter().enumerate() {
        let before = fs::metadata(&b)?;
        fs::write(&b, rules("b", ports))?;
        fs::File::options().write(true).open(&b)?.set_modified(before.modified()?)?;
        assert_eq!(fs::metadata(&b)?.len(), before.len(), "to whoever looks no further it is the same");
        let wanted = [8080, 8081].map(|port| ports.contains(&port));
        reload(&mut pair, wanted, &format!("another text of the same size and time, {number}"))?;
    }
    fs::write(&b, rules("b", &[9002, 9003, 8080, 9004]))?;
    reload(&mut pair, [true, false], "more lines")?;
    fs::write(&b, rules("b", &[8081]))?;
    reload(&mut pair, [false, true], "fewer lines")?;
    fs::rename(&b, directory.join("other.yaml"))?;
    reload(&mut pair, [false, true], "another name")?;
    fs::remove_file(directory.join("other.yaml"))?;
    reload(&mut pair, [false, false], "one file less")?;
    fs::write(&a, rules("a", &[8080, 9001]))?;
    reload(&mut pair, [true, false], "the other file")?;
    fs::write(&b, rules("b", &[8081]))?;
    reload(&mut pair, [true, true], "one file more")?;
    fs::write(&b, rules("b", &[8081]).replace("b-8081", "a-8080"))?;
    let record = daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!(record["result"], "refused", "{record}");
    let error = record["error"].as_str().unwrap_or_default();
    assert!(error.contains("rules-b.yaml:3") && error.contains("two rules are called"), "{error}");
    assert_eq!((pair.call(8080)?.text, pair.call(8081)?.text), ("hello".into(), "hello".into()));
    fs::write(&b, rules("b", &[9002]))?;
    let record = daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!(record["result"], "applied", "{record}");
    assert!(pair.call(8081)?.is_refused());
    // What is recorded names the rule as it is now.
    fs::write(&a, rules("a", &[9000, 9001, 8080]))?;
    daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!(pair.call(8080)?.text, "hello");
    daemon.stop()?.check_totals()
}

/// Changes what is in a file by way of shared memory, after which nothing but its bytes is other.
const MAPPED: &str = "
import mmap, sys
with open(sys.argv[1], 'r+b') as file:
    text = mmap.mmap(file.fileno(), 0)
# The first store to a page is seen by the file system.
text[0] = text[0]
print(flush=True)
for line in sys.stdin:
    before, after = line.split()
    text[:] = text[:].replace(before.encode(), after.encode())
    print(flush=True)
";

#[test]
fn a_change_that_shows_in_nothing_but_the_bytes_is_seen() -> anyhow::Result<()> {
    let mut pair = Pair::new("unseen")?;
    // A file system that writes nothing back, after which the next store would be seen again.
    let directory = tempfile::tempdir_in("/dev/shm")?;
    let file = |name: &str| directory.path().join(name);
    let services = fs::read(pair.sandbox.write_policy(SERVICES)?.join("policy.yaml"))?;
    fs::write(file("policy.yaml"), services)?;
    fs::write(file("seen.yaml"), rules("seen", &[9000]))?;
    fs::write(file("unseen.yaml"), rules("unseen", &[9001, 8080]))?;
    let command = pair.sandbox.staying_command(directory.path())?;
    let mut daemon = pair.sandbox.start_daemon(command)?;
    pair.serve()?;
    let mut script = Command::new(PYTHON);
    script.args(["-c", MAPPED]).arg(file("unseen.yaml"));
    let mut script = Killed(script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut orders = script.0.stdin.take().context("no way to the script")?;
    let mut answers = BufReader::new(script.0.stdout.take().context("no way from the script")?).lines();
    answers.next().context("the script has ended")??;

    let mut reload = |change: &str| -> anyhow::Result<Value> {
        let looks =
            || fs::metadata(file("unseen.yaml")).map(|all| (all.ctime(), all.ctime_nsec(), all.len()));
        let before = looks()?;
        writeln!(orders, "{change}")?;
        answers.next().context("the script has ended")??;
        assert_eq!(looks()?, before, "{change}");
        daemon.signal(Signal::SIGHUP)?;
        daemon.wait_for(|record| record["kind"] == "policy")
    };
    let word = |result: &str, revision: u32| json!([result, revision]);
    let told = |record: &Value| json!([record["result"], record["revision"]]);

    assert_eq!(told(&reload("nothing nothing")?), word("applied", 2));
    assert_eq!(pair.call(8080)?.text, "hello");
    assert_eq!(told(&reload("8080 8081")?), word("applied", 3));
    assert!(pair.call(8080)?.is_refused());
    assert_eq!(pair.call(8081)?.text, "hello");

    // Beside a change that would do alone.
    fs::write(file("seen.yaml"), rules("seen", &[8080]))?;
    let record = reload("web, wob,")?;
    assert_eq!(told(&record), word("refused", 3), "{record}");
    let error = record["error"].as_str().unwrap_or_default();
    assert!(error.contains("unseen.yaml:3") && error.contains("wob"), "{error}");
    assert!(pair.call(8080)?.is_refused());
    assert_eq!(pair.call(8081)?.text, "hello");
    let record = reload("wob, web,")?;
    assert_eq!(told(&record), word("applied", 4), "{record}");
    assert_eq!((pair.call(8080)?.text, pair.call(8081)?.text), ("hello".into(), "hello".into()));

    let finished = daemon.stop()?;
    assert_eq!(finished.records.iter().filter(|record| record["kind"] == "policy").count(), 4);
    assert_eq!(finished.stop["denied"], 2, "{}", finished.stop);
    finished.check_totals()
}

#[test]
fn a_slot_that_was_written_half_way_is_written_in_full() -> anyhow::Result<()> {
    let mut pair = Pair::new("half")?;
    let directory = pair.sandbox.write_policy(SERVICES)?;
    let file = directory.join("rules.yaml");
    fs::write(&file, rules("r", &[8080, 9001]))?;
    let mut command = pair.sandbox.daemon_command(SERVICES)?;
    // The first is that of the start, and the third the first that is written by what has changed.
    command.env(failpoint::WRITES, "EDGES:3");
    let mut daemon = pair.sandbox.start_daemon(command)?;
    pair.serve()?;
    fs::write(&file, rules("r", &[8081, 9001]))?;
    let record = daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!((&record["result"], &record["revision"]), (&"applied".into(), &2.into()), "{record}");
    assert!(pair.call(8080)?.is_refused());

    // It takes the edge out of the idle slot, and is ended before it writes the other.
    let only = rules("r", &[8081]).replace("from: web, to: orders", "from: orders, to: web");
    fs::write(&file, &only)?;
    let record = daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!((&record["result"], &record["revision"]), (&"refused".into(), &2.into()), "{record}");
    assert!(record["error"].as_str().is_some_and(|error| error.contains("write map EDGES")), "{record}");
    assert_eq!(pair.call(8081)?.text, "hello");
    assert!(pair.call(8080)?.is_refused());

    // To the slot as it was before that there would be nothing to change.
    fs::write(&file, rules("r", &[8080, 9001]))?;
    let record = daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!((&record["result"], &record["revision"]), (&"applied".into(), &3.into()), "{record}");
    assert_eq!(pair.call(8080)?.text, "hello");
    assert!(pair.call(8081)?.is_refused());
    daemon.stop()?.check_totals()
}

#[test]
fn what_somebody_has_done_to_the_idle_tables_does_not_stay_in_force() -> anyhow::Result<()> {
    let edges = [size_of::<EdgeKey>(), size_of::<EdgeValue>()];
    put_right_after_a_reload("idle", "EDGES", edges, 2)
}

#[test]
fn networks_that_somebody_has_taken_out_of_the_idle_tables_are_put_back() -> anyhow::Result<()> {
    // The length of a prefix and the prefix (`struct bpf_lpm_trie_key`), and an identity.
    put_right_after_a_reload("idle-networks", "NETWORKS", [4 + 16, 4], 1)
}

/// Empties the tables with keys and values of these sizes, of which there are two with so many entries, and has another part of the
/// policy changed.
fn put_right_after_a_reload(
    name: &str,
    table: &str,
    sizes: [usize; 2],
    entries: usize,
) -> anyhow::Result<()> {
    let mut pair = Pair::new(name)?;
    let directory = pair.sandbox.write_policy(SERVICES)?;
    fs::write(directory.join("kept.yaml"), rules("kept", &[8080]))?;
    let partners = "version: 1\nnetworks:\n  partners: { cidrs: [203.0.113.0/24] }\n";
    fs::write(directory.join("networks.yaml"), partners)?;
    let other = |port| rules("other", &[port]).replace("from: web, to: orders", "from: orders, to: web");
    let file = directory.join("other.yaml");
    fs::write(&file, other(9000))?;
    let mut daemon = pair.sandbox.daemon(SERVICES)?;
    pair.serve()?;
    fs::write(&file, other(9001))?;
    daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!(pair.call(8080)?.text, "hello");

    // Both slots are the daemon's own by now. What it changes next is another entry than those that are gone.
    let is_wanted = |info: &&String| {
        ["key_size", "value_size"].map(|field| fdinfo::field::<usize>(info, field)) == sizes.map(Some)
    };
    let infos = fdinfo::of_process(daemon.pid())?;
    let maps: BTreeSet<u32> =
        infos.iter().filter(is_wanted).filter_map(|info| fdinfo::field(info, "map_id")).collect();
    assert_eq!(maps.len(), 2, "{infos:?}");
    for map in maps {
        assert_eq!(bpftool::empty_map(map)?, entries);
    }
    fs::write(&file, other(9002))?;
    let record = daemon.reload(&pair.sandbox, SERVICES)?;
    assert_eq!((&record["result"], &record["revision"]), (&"applied".into(), &3.into()), "{record}");
    let record = daemon.wait_for(|record| record["kind"] == "tamper")?;
    assert_eq!((&record["deed"], &record["repaired"]), (&"table-changed".into(), &true.into()), "{record}");
    assert_eq!(record["objects"], serde_json::json!([table]), "{record}");
    assert_eq!(pair.call(8080)?.text, "hello");
    assert!(pair.call(8081)?.is_refused());
    daemon.stop()?.check_totals()
}

#[test]
fn a_policy_with_an_error_is_refused_and_the_one_in_force_stays() -> anyhow::Result<()> {
    let mut pair = Pair::new("refused")?;
    let mut daemon = pair.sandbox.daemon(&format!("{SERVICES}{RULE}"))?;
    pair.serve()?;
    for (broken, line, words) in [
        ("version: 1\nservices:\n  web: { match: [{ cgroup: ROOT/web }], mood: audit }\n", 3, "mood"),
        (
            "version: 1\nallow:\n  - { name: a, from: nobody-declares-me, to: world }\n",
            3,
            "nobody-declares-me",
        ),
        ("version: 1\n{\n", 2, ""),
    ] {
        assert_eq!(pair.call(8080)?.text, "hello");
        assert!(pair.call(8081)?.is_refused());
        let policy = daemon.reload(&pair.sandbox, broken)?;
        assert_eq!((&policy["result"], &policy["revision"]), (&"refused".into(), &1.into()), "{policy}");
        let error = policy["error"].as_str().unwrap_or_default();
        assert!(error.contains(&format!("policy.yaml:{line}")) && error.contains(words), "{error}");
        assert_eq!(pair.call(8080)?.text, "hello");
        assert!(pair.call(8081)?.is_refused());
    }
    let policy = daemon.reload(&pair.sandbox, &format!("{SERVICES}{SECOND_RULE}"))?;
    assert_eq!((&policy["result"], &policy["revision"]), (&"applied".into(), &2.into()), "{policy}");
    assert_eq!(pair.call(8081)?.text, "hello");
    let finished = daemon.stop()?;
    assert_eq!(finished.stop["denied"], 6, "{}", finished.stop);
    finished.check_totals()
}

#[test]
fn a_service_keeps_its_number_while_others_come_and_go() -> anyhow::Result<()> {
    let mut pair = Pair::new("stable")?;
    let mut daemon = pair.sandbox.daemon(&format!("{SERVICES}{RULE}"))?;
    pair.serve()?;
    // A listener from before and a caller from before are still who they were, in whatever order services are named.
    let reordered = "version: 1
services:
  a-new-one: { match: [{ cgroup: ROOT/a }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
  web: { match: [{ cgroup: ROOT/web }] }
";
    daemon.reload(&pair.sandbox, &format!("{reordered}{RULE}"))?;
    assert_eq!(pair.call(8080)?.text, "hello");
    assert!(pair.call(8081)?.is_refused());
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_eq!(record["source"]["service"], "web", "{record}");
    assert_eq!(record["destination"]["service"], "orders", "{record}");
    daemon.stop()?.check_totals()
}

#[test]
fn a_listener_that_outlives_its_cgroup_stays_its_services() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("outlives")?;
    // As a listener that systemd keeps for a service while it starts again, in a cgroup of the same name.
    let first = sandbox.make_cgroup("orders/first")?;
    let mut orders = sandbox.actor("orders/first")?;
    let mut web = sandbox.actor("web")?;
    let policy = format!("{SERVICES}{RULE}");
    let mut daemon = sandbox.daemon(&policy)?;
    let serve = Request::Serve { at: address(8080), transport: Transport::Tcp };
    assert!(orders.ask(&serve)?.is_ok());
    assert!(orders.ask(&Request::Move(sandbox.make_cgroup("orders/second")?))?.is_ok());
    fs::remove_dir(&first)?;
    let call = Request::Connect { to: address(8080), transport: Transport::Tcp, mapped: false };
    assert_eq!(web.ask(&call)?.text, "hello");

    // It is identified again by the path that it had.
    daemon.reload(&sandbox, &format!("{SERVICES}{SECOND_RULE}"))?;
    assert_eq!(web.ask(&call)?.text, "hello");
    let moved = SERVICES.replace("ROOT/orders", "ROOT/orders/second");
    let moved = format!("{moved}  other: {{ match: [{{ cgroup: ROOT/orders/first }}] }}\n{SECOND_RULE}");
    let record = daemon.reload(&sandbox, &moved)?;
    assert_eq!(record["result"], "applied", "{record}");
    let reply = web.ask(&call)?;
    assert!(reply.is_refused(), "{reply:?}");
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_eq!(record["destination"]["service"], "other", "{record}");
    daemon.reload(&sandbox, &policy)?;
    assert_eq!(web.ask(&call)?.text, "hello");
    daemon.stop()?.check_totals()
}

/// Joins a cgroup, makes a socket, leaves the cgroup for another, and keeps the socket until it is told to go.
const LEAVE_A_SOCKET: &str = "
import socket, sys
def join(cgroup):
    with open(cgroup + '/cgroup.procs', 'w') as procs:
        procs.write('0')
join(sys.argv[1])
left = socket.socket()
join(sys.argv[2])
print('left', flush=True)
sys.stdin.read()
";

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(start.elapsed() < patience(Duration::from_secs(30)), "never: {what}");
        thread::yield_now();
    }
    Ok(())
}

/// Once a cgroup whose directory is there when the tree is walked, and once one that only a socket keeps.
#[test]
fn a_cgroup_that_is_released_while_it_is_entered_refuses_no_reload() -> anyhow::Result<()> {
    for is_dying in [false, true] {
        let sandbox = Sandbox::new("released")?;
        let gone = sandbox.make_cgroup("gone")?;
        let mut socket = None;
        if is_dying {
            let mut command = Command::new(PYTHON);
            command.arg("-c").arg(LEAVE_A_SOCKET).arg(&gone).arg(sandbox.make_cgroup("aside")?);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut python = Killed(sandbox.spawn(command)?);
            let mut line = String::new();
            BufReader::new(python.0.stdout.as_mut().context("no output")?).read_line(&mut line)?;
            ensure!(line == "left\n", "it said {line:?}");
            socket = Some(python);
        }
        let mut command = sandbox.daemon_command(SERVICES)?;
        // All that are there at the start, and again in the reload, where what is dying comes last.
        command.env(failpoint::VARIABLE, if is_dying { "cgroup-entered:6?" } else { "cgroup-entered:4?" });
        let mut daemon = sandbox.start_daemon(command)?;
        let dying = |number: u32| -> anyhow::Result<bool> {
            let stat = fs::read_to_string(sandbox.cgroup().join("cgroup.stat"))?;
            Ok(stat.lines().any(|line| line == format!("nr_dying_descendants {number}")))
        };
        if is_dying {
            fs::remove_dir(&gone)?;
            ensure!(dying(1)?, "the socket does not keep the cgroup");
        }
        // Other services, so that cgroups are not carried over.
        sandbox.write_policy(&SERVICES.replace("web", "site"))?;
        daemon.signal(Signal::SIGHUP)?;
        until("it stops", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid()))?;
            Ok(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        })?;
        match socket {
            Some(socket) => drop(socket),
            None => fs::remove_dir(&gone)?,
        }
        until("it is released", || dying(0))?;
        daemon.signal(Signal::SIGCONT)?;
        let record = daemon.wait_for(|record| record["kind"] == "policy")?;
        ensure!(record["result"] == "applied", "{record}");
        let finished = daemon.stop()?;
        finished.check_totals()?;
        // The root of the subtree, and where the process went.
        assert_eq!(finished.stop["cgroups"], 1 + u64::from(is_dying), "{}", finished.stop);
    }
    Ok(())
}
