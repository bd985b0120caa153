//! Enforcement outlives the daemon: however that ends, the kernel goes on by the last policy, and the next daemon takes over.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use enforcer::failpoint;
use enforcer_common::layout::ABI_VERSION;
use enforcer_common::{Hook, names};
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::amount;
use enforcer_tests::bpftool;
use enforcer_tests::load::{Expected, Load};
use enforcer_tests::run::Run;
use enforcer_tests::sandbox::{Actor, Sandbox, binary, without, without_sys_admin};
use enforcer_tests::slowness::patience;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{SERVICES, address};

/// How long a daemon may take to get ready or to end. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Permits the one of two ports that [`EVEN`] does not.
const ODD: &str = "allow:
  - { name: odd, from: web, to: orders, ports: [8081/tcp] }
";

pub(crate) const EVEN: &str = "allow:
  - { name: even, from: web, to: orders, ports: [8080/tcp] }
";

fn policy(rules: &str) -> String {
    format!("{SERVICES}{rules}")
}

/// A sandbox with a caller and an answerer on two ports, and one audit log for all daemons that run in it.
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    web: Actor,
    _orders: Actor,
}

impl Scene {
    pub(crate) fn new(name: &str, rules: &str) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(name)?;
        let (web, mut orders) = (sandbox.actor("web")?, sandbox.actor("orders")?);
        for port in [8080, 8081] {
            let serve = Request::Serve { at: address(port), transport: Transport::Tcp };
            ensure!(orders.ask(&serve)?.is_ok(), "serve {port}");
        }
        sandbox.write_policy(&policy(rules))?;
        Ok(Self { sandbox, web, _orders: orders })
    }

    pub(crate) fn command(&self) -> anyhow::Result<Command> {
        let mut command = self.sandbox.staying_command(&self.sandbox.directory().join("policy"))?;
        command.arg("--audit").arg(self.log());
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.sandbox.directory().join("audit.jsonl")
    }

    /// Every whole line of the audit log.
    pub(crate) fn records(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(self.log())?;
        // A daemon that was killed may have left half a line.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    fn last(&self, kind: &str) -> anyhow::Result<Value> {
        let records = self.records()?;
        records
            .into_iter()
            .rfind(|record| record["kind"] == kind)
            .with_context(|| format!("no {kind} record"))
    }

    fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&self.sandbox.ask(&["status", "-o", "json"])?.stdout)?)
    }

    fn start(&self) -> anyhow::Result<Run> {
        Run::spawn(&self.sandbox, self.command()?)?.ready()
    }

    fn call(&mut self, port: u16) -> anyhow::Result<Reply> {
        call(&mut self.web, port)
    }

    /// Which of the two policies decides, from the outside.
    pub(crate) fn in_force(&mut self) -> anyhow::Result<&'static str> {
        let (even, odd) = (self.call(8080)?, self.call(8081)?);
        match ((even.is_ok(), even.is_refused()), (odd.is_ok(), odd.is_refused())) {
            ((true, false), (false, true)) => Ok("even"),
            ((false, true), (true, false)) => Ok("odd"),
            ((true, false), (true, false)) => Ok("none"),
            _ => bail!("a mixture: {even:?} and {odd:?}"),
        }
    }

    fn detach(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary("enforcer")?);
        command.arg("detach").arg("--pin-dir").arg(self.sandbox.pins());
        command.arg("--state-dir").arg(self.sandbox.state()).args(arguments);
        Ok(command.output()?)
    }

    fn attached(&self) -> anyhow::Result<Vec<String>> {
        bpftool::linked(self.sandbox.cgroup())
    }
}

fn call(web: &mut Actor, port: u16) -> anyhow::Result<Reply> {
    web.ask(&Request::Connect { to: address(port), transport: Transport::Tcp, mapped: false })
}

fn hooks() -> Vec<String> {
    let mut names: Vec<String> = Hook::ALL.iter().map(|hook| hook.name().to_owned()).collect();
    names.sort();
    names
}

/// Calls to a port that [`EVEN`] permits, and to one that it does not.
fn load(web: Actor) -> Load {
    Load::new(web, [address(8080), address(8081)], Expected::Steady)
}

/// Fails unless each of the `refused` calls is a record or is told to be lost.
fn check_books(records: &[Value], refused: u64) -> anyhow::Result<(u64, u64)> {
    let (mut written, mut lost) = (0, 0);
    for record in records {
        match record["kind"].as_str().unwrap_or_default() {
            "attempt" if record["verdict"] == "deny" => written += 1,
            "lost" => lost += record["count"].as_u64().context("a loss without a number")?,
            "resume" => {
                let field =
                    |name: &str| record[name].as_u64().with_context(|| format!("no {name} in {record}"));
                lost += field("events_newly_lost")?;
                ensure!(
                    field("events_produced")? == field("events_written")? + field("events_lost")?,
                    "{record}"
                );
            }
            _ => {}
        }
    }
    ensure!(refused == written + lost, "{refused} refused, {written} written, {lost} lost");
    Ok((written, lost))
}

/// A sequence of numbers that looks random and is the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // The constants of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of a run are what its reader wants")]
fn killed_at_random_moments_under_load_it_admits_and_refuses_as_before_and_loses_no_event_unseen()
-> anyhow::Result<()> {
    let kills = amount::of("ENFORCER_TEST_KILLS", 10);
    let Scene { sandbox, web, _orders } = Scene::new("killed", EVEN)?;
    let policy = sandbox.directory().join("policy");
    let log = sandbox.directory().join("audit.jsonl");
    let command = || {
        let mut command = sandbox.staying_command(&policy)?;
        command.arg("--audit").arg(&log);
        anyhow::Ok(command)
    };
    let first = Run::spawn(&sandbox, command()?)?.ready()?;
    let load = load(web);
    load.wait_for(10)?;
    assert!(!first.end(Signal::SIGKILL)?);
    let mut dice = Dice(kills);
    let mut ready = Vec::new();
    for round in 0..kills {
        // Half of them may do what the shipped unit lets them, which cannot open the maps of the one before by their numbers.
        let command = if round % 4 < 2 { command()? } else { without_sys_admin(&command()?) };
        let mut run = Run::spawn(&sandbox, command)?;
        // Every other one is let start; the others are killed wherever they are by then.
        if round % 2 == 0 {
            run = run.ready()?;
            ready.push(run.ready_in);
        }
        load.wait_for(dice.below(100))?;
        run.end(Signal::SIGKILL)?;
        load.wait_for(dice.below(20))?;
    }
    let sum = load.end()?;
    assert!(Run::spawn(&sandbox, command()?)?.ready()?.end(Signal::SIGTERM)?);

    // What many daemons have left does not pile up.
    let is_book =
        |path: &PathBuf| path.parent().is_some_and(|book| book.to_string_lossy().contains("/events-"));
    assert_eq!(
        left_below(&sandbox.pins())?.iter().filter(|path| is_book(path)).count(),
        2,
        "one ring, one counters"
    );
    let text = fs::read_to_string(&log)?;
    let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (written, lost) = check_books(&records, sum.refused)?;
    ready.sort();
    let at = |percent: usize| ready[(ready.len() - 1) * percent / 100].as_millis();
    println!(
        "{kills} kills at {} connections/s: {} permitted answered, {} forbidden refused, {written} written, {lost} lost; \
         ready after {} ms (median), {} ms (p99)",
        sum.rate(),
        sum.answered,
        sum.refused,
        at(50),
        at(99)
    );
    Ok(())
}

#[test]
fn after_sigterm_it_goes_on_and_the_next_one_adopts_it_with_revision_identities_and_events()
-> anyhow::Result<()> {
    let mut scene = Scene::new("adopted", ODD)?;
    let mut command = scene.command()?;
    command.arg("--log-allowed");
    let mut run = Run::spawn(&scene.sandbox, command)?.ready()?;
    assert_eq!(scene.in_force()?, "odd");
    scene.sandbox.write_policy(&policy(EVEN))?;
    run.signal(Signal::SIGHUP)?;
    run.read_until("policy reloaded revision=2")?;
    assert_eq!(scene.in_force()?, "even");
    let before = fs::read_to_string(scene.sandbox.state().join("state.json"))?;
    assert!(run.end(Signal::SIGTERM)?);
    let stop = scene.last("stop")?;
    assert_eq!(stop["enforcing"], true, "{stop}");

    // Nobody listens, and a cgroup that is made now is identified none the less.
    assert_eq!(scene.attached()?, hooks());
    assert_eq!(scene.in_force()?, "even");
    let mut late = scene.sandbox.actor("web/late")?;
    assert!(call(&mut late, 8081)?.is_refused());
    let waited = scene.records()?.len();

    let mut command = scene.command()?;
    command.arg("--log-allowed");
    let mut run = Run::spawn(&scene.sandbox, command)?.ready()?;
    run.read_until("took over")?;
    let records = scene.records()?;
    let [start, left @ .., resume] = records.split_at(waited).1 else { bail!("{records:?}") };
    assert_eq!(
        (&start["kind"], &start["adopted"], &start["revision"]),
        (&"start".into(), &true.into(), &2.into())
    );
    let refused = left.iter().filter(|record| record["verdict"] == "deny").count();
    assert_eq!((left.len(), refused), (3, 2), "{left:?}");
    for record in left {
        assert_eq!((&record["kind"], &record["revision"]), (&"attempt".into(), &2.into()), "{record}");
        assert_eq!(
            (&record["source"]["service"], &record["destination"]["service"]),
            (&"web".into(), &"orders".into())
        );
        let rule = if record["verdict"] == "allow" { "even".into() } else { Value::Null };
        assert_eq!(record["rule"]["name"], rule, "{record}");
    }
    let late = left.iter().find(|record| record["source"]["cgroup"] == scene.sandbox.path_of("web/late"));
    assert!(late.is_some(), "{left:?}");
    assert_eq!((&resume["kind"], &resume["revision"]), (&"resume".into(), &2.into()), "{resume}");
    assert_eq!(
        (&resume["events_recovered"], &resume["events_newly_lost"]),
        (&3.into(), &0.into()),
        "{resume}"
    );
    assert!(resume["unattended_ms"].as_u64().is_some_and(|time| time < 60_000), "{resume}");
    // What was decided before this daemon ran is told to be that.
    let status = scene.sandbox.ask_daemon(&["status"])?;
    let events = &status["events"];
    assert_eq!(
        [&events["produced"], &events["recovered"], &events["written"], &events["lost"]],
        [3, 3, 3, 0],
        "{status}"
    );
    assert_eq!(
        (&status["decisions"], &status["policy"]["since"]),
        (&Value::Array(vec![]), &Value::Null),
        "{status}"
    );
    assert_eq!(
        fs::read_to_string(scene.sandbox.state().join("state.json"))?,
        before,
        "no number has changed"
    );

    // The reload that comes is the next revision.
    scene.sandbox.write_policy(&policy(ODD))?;
    run.signal(Signal::SIGHUP)?;
    run.read_until("policy reloaded revision=3")?;
    assert_eq!(scene.in_force()?, "odd");
    let status = scene.sandbox.ask_daemon(&["status"])?;
    assert!(status["policy"]["since"].is_string(), "{status}");
    assert!(run.end(Signal::SIGTERM)?);
    let stop = scene.last("stop")?;
    // Three of the events are of the time before it, of which it has no decisions.
    let totals = ["events_produced", "events_written", "events_lost", "events_waiting", "denied"];
    assert_eq!(totals.map(|name| &stop[name]), [5, 5, 0, 0, 1], "{stop}");
    Ok(())
}

#[test]
fn a_policy_that_changed_meanwhile_is_put_in_force_and_one_that_is_invalid_is_not() -> anyhow::Result<()> {
    let mut scene = Scene::new("changed", ODD)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    scene.sandbox.write_policy(&policy(EVEN))?;
    let mut run = scene.start()?;
    run.read_until("policy reloaded revision=2")?;
    assert_eq!(scene.in_force()?, "even");
    assert!(run.end(Signal::SIGKILL).is_ok());

    scene.sandbox.write_policy("version: 1\nservicse: {}\n")?;
    let mut run = scene.start()?;
    run.read_until("reload refused, the policy in force stays")?;
    assert_eq!(scene.in_force()?, "even");
    assert!(run.end(Signal::SIGTERM)?);
    let record = scene.last("policy")?;
    assert_eq!((&record["result"], &record["revision"]), (&"refused".into(), &2.into()), "{record}");
    assert!(record["error"].as_str().is_some_and(|error| error.contains("servicse")), "{record}");
    Ok(())
}

#[test]
fn a_second_daemon_and_a_detach_are_refused_while_one_runs() -> anyhow::Result<()> {
    let mut scene = Scene::new("second", EVEN)?;
    let run = scene.start()?;
    let holder = format!("process {} holds it", run.child.0.id());
    let second = scene.sandbox.output(scene.command()?)?;
    let mut elsewhere = scene.sandbox.staying_command(&scene.sandbox.directory().join("policy"))?;
    elsewhere.arg("--audit").arg(scene.log());
    for output in [second, scene.detach(&[])?] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&holder), "{said}");
    }
    assert_eq!(scene.attached()?, hooks());
    assert_eq!(scene.in_force()?, "even");
    assert!(run.end(Signal::SIGTERM)?);
    Ok(())
}

#[test]
fn a_policy_that_nobody_has_confirmed_goes_with_the_daemon() -> anyhow::Result<()> {
    let mut scene = Scene::new("unconfirmed", EVEN)?;
    let run = scene.start()?;
    let other = scene.sandbox.write_other_policy("other", &policy(ODD))?.display().to_string();
    let applied = scene.sandbox.ask(&["policy", "apply", &other, "--confirm-timeout", "1h"])?;
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    assert_eq!(scene.in_force()?, "odd");
    assert!(run.end(Signal::SIGTERM)?);
    assert_eq!(scene.in_force()?, "even");
    assert_eq!(scene.last("policy")?["result"], "rolled-back");
    let run = scene.start()?;
    assert_eq!(scene.in_force()?, "even");
    assert!(run.end(Signal::SIGTERM)?);
    Ok(())
}

#[test]
fn a_policy_that_was_adopted_is_told_from_one_that_was_read() -> anyhow::Result<()> {
    let mut scene = Scene::new("origin", EVEN)?;
    let origin = |scene: &Scene| -> anyhow::Result<String> {
        Ok(scene.status()?["policy"]["origin"].as_str().unwrap_or_default().to_owned())
    };
    let run = scene.start()?;
    let other = scene.sandbox.write_other_policy("other", &policy(ODD))?.display().to_string();
    assert_eq!(origin(&scene)?, "directory");
    assert!(scene.sandbox.ask(&["policy", "apply", &other])?.status.success());
    assert_eq!(origin(&scene)?, "applied");
    scene.sandbox.write_policy("version: 2\n")?;
    assert!(!run.end(Signal::SIGKILL)?);
    let run = scene.start()?;
    assert_eq!((scene.in_force()?, origin(&scene)?), ("odd", "adopted".to_owned()));
    assert_eq!(scene.last("policy")?["result"], "refused");
    assert!(!run.end(Signal::SIGKILL)?);
    scene.sandbox.write_policy(&policy(ODD))?;
    for restarts in 0..2 {
        let run = scene.start()?;
        assert_eq!((scene.in_force()?, origin(&scene)?), ("odd", "directory".to_owned()), "{restarts}");
        assert!(!run.end(Signal::SIGKILL)?);
    }
    Ok(())
}

#[test]
fn a_log_that_cannot_be_opened_again_is_told_until_it_can() -> anyhow::Result<()> {
    let scene = Scene::new("reopened", EVEN)?;
    let mut run = scene.start()?;
    let is_told = || -> anyhow::Result<bool> {
        let status = scene.status()?;
        let degraded = status["degraded"].as_array().context("a list")?;
        Ok(degraded.iter().any(|one| one["code"] == "audit-log-not-opened"))
    };
    let away = scene.log().with_extension("1");
    fs::rename(scene.log(), &away)?;
    fs::create_dir(scene.log())?;
    run.signal(Signal::SIGUSR1)?;
    run.read_until("open audit log")?;
    assert!(is_told()?);
    fs::remove_dir(scene.log())?;
    run.signal(Signal::SIGUSR1)?;
    run.read_until("is opened again")?;
    assert!(!is_told()?);
    assert!(run.end(Signal::SIGTERM)?);
    assert_eq!(scene.last("stop")?["kind"], "stop");
    Ok(())
}

#[test]
fn where_an_earlier_daemon_enforces_none_stands_open() -> anyhow::Result<()> {
    let mut scene = Scene::new("not-open", EVEN)?;
    let open = policy(EVEN).replace("services:", "defaults: { on_unsupported: open }\nservices:");
    scene.sandbox.write_policy(&open)?;
    let run = scene.start()?;
    assert!(!run.end(Signal::SIGKILL)?);
    let output = scene.sandbox.output(without("-bpf,-sys_admin", &scene.command()?))?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in ["what an earlier daemon has attached goes on to judge", "CAP_BPF"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(scene.attached()?, hooks());
    assert_eq!(scene.in_force()?, "even");
    assert!(scene.records()?.iter().all(|record| record["kind"] != "unprotected"));

    assert!(scene.detach(&[])?.status.success());
    let command = without("-bpf,-sys_admin", &scene.command()?);
    let mut run = Run::spawn(&scene.sandbox, command)?;
    run.read_until("nothing is enforced")?;
    assert_eq!(scene.in_force()?, "none");
    assert!(run.end(Signal::SIGTERM)?);
    assert_eq!(scene.last("unprotected")?["kind"], "unprotected");
    Ok(())
}

#[test]
fn detach_removes_what_is_ours_and_nothing_else() -> anyhow::Result<()> {
    let mut scene = Scene::new("detached", EVEN)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    // Somebody else's map among our pins, and somebody else's file among our state.
    let pins = scene.sandbox.pins();
    let theirs = pins.join("links").join("theirs");
    bpftool::pin_new_map(&theirs)?;
    let note = scene.sandbox.state().join("note");
    fs::write(&note, "theirs")?;
    // The links that do not hang on the cgroup are found by what is pinned.
    let tracing: Vec<u64> = [names::CGROUP_MKDIR, names::CGROUP_RELEASE]
        .iter()
        .map(|name| bpftool::pinned_link(&pins.join("links").join(name)))
        .collect::<anyhow::Result<_>>()?;
    assert_eq!(scene.attached()?, hooks());

    assert_eq!(scene.in_force()?, "even");
    let output = scene.detach(&["-o", "json"])?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    assert_eq!((&answer["detached"], &answer["events_untold"]), (&true.into(), &1.into()), "{answer}");
    assert_eq!(answer["programs"].as_array().map(Vec::len), Some(Hook::ALL.len() + 2), "{answer}");
    assert_eq!(answer["left_alone"], serde_json::json!([theirs]), "{answer}");
    assert_eq!(scene.attached()?, [""; 0]);
    assert_eq!(bpftool::links(scene.sandbox.cgroup())?, []);
    for link in tracing {
        assert!(!bpftool::has_link(link)?, "link {link} is still attached");
    }
    assert!(theirs.exists() && note.exists());
    assert_eq!(left_below(&pins)?, std::slice::from_ref(&theirs));
    assert_eq!(left_below(&scene.sandbox.state())?, [note]);
    assert_eq!(scene.in_force()?, "none");
    // Once more it finds nothing, and says so.
    fs::remove_file(&theirs)?;
    let output = scene.detach(&[])?;
    let words = format!("nothing was attached by {}\n", pins.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), words);
    assert!(!pins.exists());
    Ok(())
}

#[test]
fn detach_of_another_directory_keeps_the_state_of_what_stays_attached() -> anyhow::Result<()> {
    let mut scene = Scene::new("mistyped", EVEN)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    let mistyped = scene.sandbox.pins().join("typo");
    let mut command = Command::new(binary("enforcer")?);
    command.arg("detach").arg("--pin-dir").arg(&mistyped).arg("--state-dir").arg(scene.sandbox.state());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let kept = format!("kept the state in {}: ", scene.sandbox.state().display());
    ensure!(output.status.success() && said.contains(&kept), "{output:?}");
    assert!(!mistyped.exists());
    assert_eq!((scene.attached()?, scene.in_force()?), (hooks(), "even"));
    // The next daemon goes on from it.
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    assert_eq!(scene.in_force()?, "even");
    assert!(scene.detach(&[])?.status.success());
    Ok(())
}

/// The command of a daemon that is to judge another cgroup.
fn command_at(scene: &Scene, root: &Path) -> anyhow::Result<Command> {
    let command = scene.command()?;
    let mut moved = Command::new(command.get_program());
    let mut is_root = false;
    for argument in command.get_args() {
        moved.arg(if is_root { root.as_os_str() } else { argument });
        is_root = argument == "--cgroup-root";
    }
    Ok(moved)
}

#[test]
fn a_daemon_for_another_cgroup_ends_no_enforcement_unless_it_is_told_to() -> anyhow::Result<()> {
    let mut scene = Scene::new("moved", EVEN)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    let other = scene.sandbox.cgroup().join("web");
    let output = command_at(&scene, &other)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("attached to another cgroup"), "{output:?}");
    assert_eq!((scene.attached()?, scene.in_force()?), (hooks(), "even"));
    assert_eq!(bpftool::linked(&other)?, [""; 0]);

    let mut command = command_at(&scene, &other)?;
    command.arg("--takeover");
    let mut run = Run::spawn(&scene.sandbox, command)?;
    run.read_until("enforcement moves to")?;
    let run = run.ready()?;
    assert_eq!((scene.attached()?, bpftool::linked(&other)?), (Vec::new(), hooks()));
    assert!(run.end(Signal::SIGTERM)?);
    assert!(scene.detach(&[])?.status.success());
    Ok(())
}

fn left_below(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(left_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

/// Looks at what is attached over and over, and fails if a hook is ever without what it had at first.
struct Lookout {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<u64>>,
}

impl Lookout {
    fn new(cgroup: PathBuf) -> anyhow::Result<Self> {
        let first = bpftool::held(&cgroup)?;
        assert_eq!(first.len(), Hook::ALL.len(), "{first:?}");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut looks = 0;
            while !stopped.load(Ordering::Relaxed) {
                let found = bpftool::held(&cgroup)?;
                ensure!(found == first, "look number {looks}: {found:?} instead of {first:?}");
                looks += 1;
            }
            Ok(looks)
        });
        Ok(Self { stop, thread })
    }

    fn end(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_panic| anyhow!("the lookout panicked"))?
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of a run are what its reader wants")]
fn a_newer_layout_takes_over_under_load_without_a_gap_and_an_older_one_refuses() -> anyhow::Result<()> {
    let upgrades = amount::of("ENFORCER_TEST_UPGRADES", 4);
    let scene = Scene::new("upgraded", EVEN)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    let before = fs::read_to_string(scene.sandbox.state().join("state.json"))?;
    let (command, log, cgroup) = (|| scene.command(), scene.log(), scene.sandbox.cgroup().to_path_buf());
    let load = load(scene.sandbox.actor("web")?);
    let lookout = Lookout::new(cgroup)?;
    for upgrade in 0..upgrades {
        let mut newer = command()?;
        newer.env("ENFORCER_ABI", (1000 + upgrade).to_string());
        let run = Run::spawn(&scene.sandbox, newer)?.ready()?;
        ensure!(run.words.contains("revision=1") && run.words.contains("adopted=true"), "{}", run.words);
        load.wait_for(20)?;
        // One that is killed leaves as much as one that is told to end.
        run.end(if upgrade % 2 == 0 { Signal::SIGTERM } else { Signal::SIGKILL })?;
        load.wait_for(20)?;
    }
    let older = scene.sandbox.output(command()?)?;
    let said = String::from_utf8_lossy(&older.stderr);
    assert_eq!(older.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("they have layout {}, and this enforcer knows {ABI_VERSION}", 999 + upgrades)),
        "{said}"
    );
    let looks = lookout.end()?;
    let sum = load.end()?;
    assert_eq!(
        fs::read_to_string(scene.sandbox.state().join("state.json"))?,
        before,
        "no number has changed"
    );

    let mut last = command()?;
    last.env("ENFORCER_ABI", (999 + upgrades).to_string());
    assert!(Run::spawn(&scene.sandbox, last)?.ready()?.end(Signal::SIGTERM)?);
    let text = fs::read_to_string(log)?;
    let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let (written, lost) = check_books(&records, sum.refused)?;
    println!(
        "{upgrades} upgrades at {} connections/s: {} permitted answered, {} forbidden refused, {written} written, {lost} \
         lost; every hook attached at each of {looks} looks",
        sum.rate(),
        sum.answered,
        sum.refused
    );
    Ok(())
}

#[test]
fn what_is_half_or_damaged_is_refused_until_it_is_taken_over() -> anyhow::Result<()> {
    let mut scene = Scene::new("takeover", ODD)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    scene.sandbox.write_policy(&policy(EVEN))?;
    let state = scene.sandbox.state().join("state.json");
    let text = the_text(&scene)?;
    for (file, is_half, words) in [
        (&text, true, "read state"),
        (&text, false, "read state"),
        (&state, true, "read state"),
        (&state, false, "has no state"),
    ] {
        let whole = fs::read(file)?;
        if is_half {
            fs::write(file, whole.split_at(whole.len() / 2).0)?;
        } else {
            fs::remove_file(file)?;
        }
        let output = scene.sandbox.output(scene.command()?)?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(words) && said.contains("--takeover"), "{said}");
        assert_eq!(scene.in_force()?, "odd", "the policy in force stays");
        if words == "read state" {
            fs::write(file, whole)?;
        }
    }
    for (rules, name) in [(EVEN, "even"), (ODD, "odd")] {
        scene.sandbox.write_policy(&policy(rules))?;
        if name == "odd" {
            fs::write(the_text(&scene)?, "damaged")?;
        }
        let mut command = scene.command()?;
        command.arg("--takeover");
        let run = Run::spawn(&scene.sandbox, command)?.ready()?;
        assert_eq!(scene.in_force()?, name);
        assert_eq!(scene.attached()?, hooks());
        assert!(run.end(Signal::SIGTERM)?);
        // From then on it is like any other.
        assert!(scene.start()?.end(Signal::SIGTERM)?);
        assert_eq!(scene.in_force()?, name);
    }
    Ok(())
}

/// The file with the text of the only policy that was ever in force.
fn the_text(scene: &Scene) -> anyhow::Result<PathBuf> {
    let texts = left_below(&scene.sandbox.state().join("texts"))?;
    let [text] = texts.as_slice() else { bail!("one text in {texts:?}") };
    Ok(text.clone())
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() -> anyhow::Result<()> {
    let mut scene = Scene::new("failed", EVEN)?;
    let mut command = scene.command()?;
    command.env(failpoint::WRITES, "first");
    let output = scene.sandbox.output(command)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("write map CGROUPS"), "{said}");
    // The ledger is for whoever comes next; nothing is in it.
    assert_eq!(left_below(&scene.sandbox.pins())?, [scene.sandbox.pins().join(names::LEDGER)]);
    assert_eq!(scene.in_force()?, "none");
    Ok(())
}

#[test]
fn a_policy_in_force_that_this_version_cannot_read_gives_way_to_that_on_the_disk() -> anyhow::Result<()> {
    let mut scene = Scene::new("unreadable", ODD)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    // As another version might have taken it.
    let (state, text) = (scene.sandbox.state().join("state.json"), the_text(&scene)?);
    fs::write(&text, fs::read_to_string(&text)?.replace("version: 1", "version: 7"))?;
    let printed = Command::new("sha256sum").arg(&text).output()?;
    let hash = String::from_utf8_lossy(&printed.stdout).chars().take(64).collect::<String>();
    let name = text.file_name().context("a text has a name")?.to_string_lossy().into_owned();
    fs::write(&state, fs::read_to_string(&state)?.replace(&name, &hash))?;
    fs::rename(&text, text.with_file_name(&hash))?;
    scene.sandbox.write_policy("version: 1\nservicse: {}\n")?;
    let output = scene.sandbox.output(scene.command()?)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("servicse"), "{said}");
    assert_eq!(scene.in_force()?, "odd");

    scene.sandbox.write_policy(&policy(EVEN))?;
    let run = scene.start()?;
    assert!(run.words.contains("revision=2") && run.words.contains("adopted=true"), "{}", run.words);
    assert_eq!(scene.in_force()?, "even");
    assert!(run.end(Signal::SIGTERM)?);
    assert_eq!(scene.last("start")?["revision"], 2);
    Ok(())
}

/// Points that only a start with nothing there passes.
const FIRST_START: [&str; 6] =
    ["maps-staged", "maps-emptied", "maps-complete", "link-attached", "link-pinned", "link-renamed"];

/// How a process ends by a panic of its first thread.
const PANICKED: i32 = 101;

/// And by [`std::process::abort`].
const ABORTED: i32 = nix::libc::SIGABRT;

/// Runs a daemon that is to crash at `point`, through a reload and an end if it gets there. Returns whether it crashed.
fn crashes(scene: &Scene, point: &str, next: &str) -> anyhow::Result<bool> {
    let mut command = scene.command()?;
    command.env(failpoint::VARIABLE, point);
    // What is on the disk is put in force when it is another policy than the one that was adopted.
    let ready = if scene.sandbox.pins().exists() { "policy reloaded" } else { " enforcing" };
    let mut run = Run::spawn(&scene.sandbox, command)?;
    if run.read_until(ready).is_ok() {
        scene.sandbox.write_policy(&policy(next))?;
        // It may end at any moment now; then there is nobody to be told.
        for (signal, words) in [(Signal::SIGHUP, "policy reloaded"), (Signal::SIGTERM, "stopped: ")] {
            if run.child.0.try_wait()?.is_none() {
                run.signal(signal)?;
                if run.read_until(words).is_err() {
                    break;
                }
            }
        }
    }
    let status = run.wait()?;
    let crashed =
        if point.ends_with('!') { status.code() == Some(PANICKED) } else { status.signal() == Some(ABORTED) };
    ensure!(status.success() || crashed, "{point}: {status}");
    Ok(crashed)
}

#[test]
fn after_a_panic_the_kernel_goes_on_and_the_next_one_takes_over_as_after_a_kill() -> anyhow::Result<()> {
    let mut scene = Scene::new("panics", ODD)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    for (point, in_force) in [
        ("links-updated!", "odd"),
        ("events-written!", "even"),
        ("reload-begun!", "even"),
        ("reload-state-written!", "odd"),
        ("flipped:2!", "even"),
        ("stop-begun!", "odd"),
    ] {
        scene.sandbox.write_policy(&policy(EVEN))?;
        ensure!(crashes(&scene, point, ODD)?, "{point} is not passed");
        let now = scene.in_force().with_context(|| format!("after a panic at {point}"))?;
        ensure!(now == in_force, "after a panic at {point} {now} is in force");
        ensure!(scene.attached()? == hooks(), "after a panic at {point}: {:?}", scene.attached()?);
        scene.sandbox.write_policy(&policy(ODD))?;
        let mut run = scene.start().with_context(|| format!("start after a panic at {point}"))?;
        run.read_until("took over")?;
        assert!(run.end(Signal::SIGTERM)?);
        let now = scene.in_force().with_context(|| format!("after a panic at {point} and a start"))?;
        ensure!(now == "odd", "after a panic at {point} and a start");
    }
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    check_books(&scene.records()?, 12)?;
    Ok(())
}

#[test]
fn what_was_decided_by_a_policy_before_that_in_force_names_its_rule_after_a_crash() -> anyhow::Result<()> {
    let scene = Scene::new("renamed", EVEN)?;
    let command = || -> anyhow::Result<Command> {
        let mut command = scene.command()?;
        command.arg("--log-allowed");
        Ok(command)
    };
    assert!(Run::spawn(&scene.sandbox, command()?)?.ready()?.end(Signal::SIGTERM)?);
    let load = load(scene.sandbox.actor("web")?);
    let mut crashing = command()?;
    // First that of the policy which it adopts.
    crashing.env(failpoint::VARIABLE, "flipped:2");
    let run = Run::spawn(&scene.sandbox, crashing)?.ready()?;
    load.wait_for(20)?;
    scene.sandbox.write_policy(&policy(&EVEN.replace("name: even", "name: again")))?;
    run.signal(Signal::SIGHUP)?;
    assert_eq!(run.wait()?.signal(), Some(nix::libc::SIGABRT));
    load.wait_for(20)?;
    let before = scene.records()?.len();
    let mut run = Run::spawn(&scene.sandbox, command()?)?;
    run.read_until("took over")?;
    load.end()?;
    assert!(run.end(Signal::SIGTERM)?);
    let records = scene.records()?;
    // While the policy was being put in force, nobody wrote what was decided by the one before.
    let mut named = [0_u64; 2];
    for record in records.iter().skip(before).filter(|record| record["verdict"] == "allow") {
        match (record["revision"].as_u64(), record["rule"]["name"].as_str()) {
            (Some(1), Some("even")) => named[0] += 1,
            (Some(2), Some("again")) => named[1] += 1,
            other => bail!("{other:?}: {record}"),
        }
    }
    assert!(named.iter().all(|number| *number > 0), "{named:?}");
    Ok(())
}

#[test]
fn who_cannot_open_the_maps_of_the_one_before_leaves_its_policy_in_force_until_the_next_one()
-> anyhow::Result<()> {
    let mut scene = Scene::new("incapable", ODD)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    for point in ["slot-emptied", "slot-filled", "cgroups-entered"] {
        let mut command = scene.command()?;
        command.env(failpoint::VARIABLE, point);
        let status = Run::spawn(&scene.sandbox, without_sys_admin(&command))?.wait()?;
        ensure!(status.signal() == Some(ABORTED), "{point} is not passed: {status}");
        // Nobody has called since it was put in force, so that no verdict is kept.
        let in_force = scene.in_force().with_context(|| format!("after a crash at {point}"))?;
        ensure!(in_force == "odd", "after a crash at {point} {in_force} is in force");
        assert!(scene.start()?.end(Signal::SIGTERM)?);
    }
    Ok(())
}

#[test]
fn after_a_crash_at_any_point_the_old_policy_or_the_new_one_is_in_force() -> anyhow::Result<()> {
    let mut scene = Scene::new("failpoints", ODD)?;
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    let (mut now, mut next) = (ODD, EVEN);
    let mut refused = 0;
    for point in failpoint::ALL {
        if point.starts_with("detach")
            || ["maps-emptied", "ledger-pinned", "link-attached", "connections-ended", "connections-closed"]
                .contains(point)
        {
            continue;
        }
        // Twice: the policy on the disk is another than that in force, and it is reloaded to the first again.
        scene.sandbox.write_policy(&policy(next))?;
        ensure!(crashes(&scene, point, now)?, "{point} is not passed");
        let in_force = scene.in_force().with_context(|| format!("after a crash at {point}"))?;
        ensure!(in_force != "none", "after a crash at {point} nothing is enforced");
        refused += 1;
        scene.sandbox.write_policy(&policy(next))?;
        let mut run = scene.start().with_context(|| format!("start after a crash at {point}"))?;
        run.read_until("took over")?;
        assert!(run.end(Signal::SIGTERM)?);
        let wanted = if next == EVEN { "even" } else { "odd" };
        ensure!(scene.in_force()? == wanted, "after a crash at {point} and a start");
        refused += 1;
        ensure!(scene.attached()? == hooks(), "after a crash at {point}: {:?}", scene.attached()?);
        (now, next) = (next, now);
    }
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    check_books(&scene.records()?, refused)?;
    // A daemon that crashed between a change and its record has counted that.
    let lost = check_own(&scene)?;
    ensure!((1..=20).contains(&lost), "{lost} records lost");
    Ok(())
}

/// Fails unless each record of what daemons themselves did is there or told to be lost. Returns how many are lost.
fn check_own(scene: &Scene) -> anyhow::Result<u64> {
    let (mut written, mut lost) = (0, 0);
    for record in scene.records()? {
        match record["kind"].as_str() {
            Some("policy" | "connection" | "tamper" | "container") => written += 1,
            Some("resume") => lost += record["records_newly_lost"].as_u64().context("no number")?,
            _ => {}
        }
    }
    let ledger = bpftool::rows(&scene.sandbox.pins().join(names::LEDGER))?;
    let made = *ledger.get(1).and_then(|row| row.first()).context("no such row")?;
    ensure!(made == written + lost, "{made} made, {written} written, {lost} lost");
    Ok(lost)
}

#[test]
fn the_ledger_of_the_version_before_is_taken_over_with_what_it_says() -> anyhow::Result<()> {
    /// What the version before had of it, and its layout.
    const NUMBERS: usize = 7;
    const ABI: u32 = 4;
    let mut scene = Scene::new("ledger", EVEN)?;
    let pins = scene.sandbox.pins();
    let ledger = pins.join(names::LEDGER);
    let run = scene.start()?;
    for _ in 0..3 {
        assert!(scene.call(8081)?.is_refused());
    }
    assert!(run.end(Signal::SIGTERM)?);
    let told = bpftool::rows(&ledger)?;
    let before: Vec<u64> = told[0][..NUMBERS].to_vec();
    assert_eq!(before[1], 3, "three are written: {told:?}");
    fs::remove_file(&ledger)?;
    bpftool::pin_rows(&ledger, names::LEDGER, std::slice::from_ref(&before))?;
    for maps in fs::read_dir(&pins)? {
        let name = maps?.file_name().to_string_lossy().into_owned();
        if let Some(number) = name.strip_prefix(&format!("maps-{ABI_VERSION}-")) {
            fs::rename(pins.join(&name), pins.join(format!("maps-{ABI}-{number}")))?;
        }
    }
    // These wait.
    for _ in 0..2 {
        assert!(scene.call(8081)?.is_refused());
    }
    // A start that ends before anything of it is attached leaves the ledger to the version that made it.
    let crash = |point: &str| -> anyhow::Result<()> {
        let mut command = scene.command()?;
        command.env(failpoint::VARIABLE, point);
        let status = Run::spawn(&scene.sandbox, command)?.wait()?;
        ensure!(status.signal() == Some(nix::libc::SIGABRT), "{point}: {status}");
        Ok(())
    };
    for point in ["installed", "ledger-pinned"] {
        crash(point)?;
        assert_eq!(bpftool::rows(&ledger)?, std::slice::from_ref(&before), "{point}");
    }
    let mut run = scene.start()?;
    run.read_until("took over")?;
    assert!(run.words.contains("adopted=true"), "{}", run.words);
    assert_eq!(scene.in_force()?, "even");
    // That of the first of them; those that crashed have left empty books.
    let resume = scene.records()?.into_iter().find(|record| record["kind"] == "resume");
    let resume = resume.context("no book was closed")?;
    let counts = ["events_recovered", "events_newly_lost", "events_written", "records_newly_lost"];
    assert_eq!(counts.map(|name| resume[name].as_u64()), [Some(2), Some(0), Some(5), Some(0)], "{resume}");
    assert!(run.end(Signal::SIGTERM)?);
    let rows = bpftool::rows(&ledger)?;
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [NUMBERS + 1; 2], "{rows:?}");
    check_books(&scene.records()?, 6)?;
    check_own(&scene)?;
    Ok(())
}

#[test]
fn a_crash_of_the_first_start_or_of_a_detach_is_mended_by_the_next() -> anyhow::Result<()> {
    let mut scene = Scene::new("first-start", ODD)?;
    for point in FIRST_START {
        ensure!(crashes(&scene, point, ODD)?, "{point} is not passed");
        assert!(
            scene.start().with_context(|| format!("start after a crash at {point}"))?.end(Signal::SIGTERM)?
        );
        ensure!(scene.in_force()? == "odd" && scene.attached()? == hooks(), "after a crash at {point}");
        let output = scene.detach(&[])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(scene.in_force()? == "none" && !scene.sandbox.pins().exists(), "after a crash at {point}");
    }
    for point in failpoint::ALL.iter().filter(|point| point.starts_with("detach")) {
        assert!(scene.start().with_context(|| format!("start before {point}"))?.end(Signal::SIGTERM)?);
        let mut command = Command::new(binary("enforcer")?);
        command
            .arg("detach")
            .arg("--pin-dir")
            .arg(scene.sandbox.pins())
            .arg("--state-dir")
            .arg(scene.sandbox.state());
        let status = command.env(failpoint::VARIABLE, point).stderr(Stdio::null()).status()?;
        ensure!(status.signal() == Some(nix::libc::SIGABRT), "{point} is not passed: {status}");
        // Either way on is open.
        let mut run = scene.start().with_context(|| format!("start after a crash at {point}"))?;
        ensure!(scene.in_force()? == "odd" && scene.attached()? == hooks(), "after a crash at {point}");
        run.signal(Signal::SIGTERM)?;
        run.read_until("stopped: ")?;
        run.wait()?;
        let output = scene.detach(&[])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(scene.attached()?.is_empty() && !scene.sandbox.pins().exists(), "after a crash at {point}");
    }
    Ok(())
}

#[test]
fn a_reload_that_runs_out_of_memory_at_any_map_leaves_the_policy_that_was() -> anyhow::Result<()> {
    let mut scene = Scene::new("memory", ODD)?;
    let mut command = scene.command()?;
    command.env(failpoint::WRITES, "1");
    let mut run = Run::spawn(&scene.sandbox, command)?.ready()?;
    scene.sandbox.write_policy(&policy(EVEN))?;
    let mut failed: Vec<String> = Vec::new();
    let record = loop {
        let seen = scene.records()?.len();
        assert_eq!(scene.in_force()?, "odd", "after {failed:?}");
        run.signal(Signal::SIGHUP)?;
        let (record, _) = wait_for(&scene, seen, |record| record["kind"] == "policy")?;
        if record["result"] == "applied" {
            break record;
        }
        assert_eq!((&record["result"], &record["revision"]), (&"refused".into(), &1.into()), "{record}");
        let error = record["error"].as_str().unwrap_or_default();
        ensure!(error.contains("os error 12"), "{record}");
        failed.push(error.to_owned());
    };
    // Every map that the policy has something for, and the store that would have put it in force.
    for map in ["CGROUPS", "CLASSES", "TRANSITIONS", "CLAIMANTS", "EDGES", "PROTOCOLS", "REVISIONS", "ACTIVE"]
    {
        let named = failed.iter().any(|error| error.contains(&format!("write map {map}")));
        ensure!(named, "{map} did not fail: {failed:?}");
    }
    assert_eq!(record["revision"], 2, "{record}");
    assert_eq!(scene.in_force()?, "even");
    run.signal(Signal::SIGTERM)?;
    run.read_until("stopped: ")?;
    Ok(())
}

#[test]
fn a_policy_that_was_refused_is_not_taken_up_by_a_later_daemon() -> anyhow::Result<()> {
    let mut scene = Scene::new("refused-later", ODD)?;
    let mut command = scene.command()?;
    // The store that puts the second policy in force fails, when the disk has its text already.
    command.env(failpoint::WRITES, "ACTIVE:2");
    let run = Run::spawn(&scene.sandbox, command)?.ready()?;
    scene.sandbox.write_policy(&policy(EVEN))?;
    let seen = scene.records()?.len();
    run.signal(Signal::SIGHUP)?;
    let (record, _) = wait_for(&scene, seen, |record| record["kind"] == "policy")?;
    assert_eq!((&record["result"], &record["revision"]), (&"refused".into(), &1.into()), "{record}");
    let error = record["error"].as_str().unwrap_or_default();
    assert!(error.contains("write map ACTIVE"), "{record}");
    assert_eq!(scene.in_force()?, "odd");
    assert!(run.end(Signal::SIGTERM)?);

    // Who starts afresh asks the state alone what was in force.
    scene.sandbox.write_policy("version: 1\nservicse: {}\n")?;
    let mut command = scene.command()?;
    command.arg("--takeover");
    let run = Run::spawn(&scene.sandbox, command)?.ready()?;
    assert_eq!(scene.in_force()?, "odd");
    assert_eq!(scene.last("start")?["revision"], 1);
    assert!(run.end(Signal::SIGTERM)?);
    Ok(())
}

/// Waits for a record that was not there before.
pub(crate) fn wait_for(
    scene: &Scene,
    seen: usize,
    wanted: impl Fn(&Value) -> bool,
) -> anyhow::Result<(Value, Duration)> {
    let start = Instant::now();
    loop {
        let records = scene.records()?;
        if let Some(found) = records.iter().skip(seen).find(|record| wanted(record)) {
            return Ok((found.clone(), start.elapsed()));
        }
        ensure!(start.elapsed() < patience(DEADLINE), "it does not come after:\n{records:?}");
        thread::yield_now();
    }
}

#[test]
fn what_is_taken_away_is_noticed_put_back_and_recorded() -> anyhow::Result<()> {
    // Twice the second that it looks after, so that a busy machine is no finding.
    const SOON: Duration = Duration::from_secs(2);
    let mut scene = Scene::new("tampered", EVEN)?;
    let run = scene.start()?;
    let pins = scene.sandbox.pins();
    let links = bpftool::links(scene.sandbox.cgroup())?;
    for round in 0..amount::of("ENFORCER_TEST_TAMPERINGS", 2) {
        for (deed, object) in
            [("link-detached", "connect4"), ("link-detached", "ingress"), ("pin-removed", "connect4")]
        {
            let seen = scene.records()?.len();
            if deed == "link-detached" {
                let links = bpftool::links(scene.sandbox.cgroup())?;
                let link = links.iter().find(|link| link.name == object).context("no such link")?;
                bpftool::detach(link.link)?;
            } else {
                fs::remove_file(pins.join("links").join(object))?;
            }
            let (record, time) = wait_for(&scene, seen, |record| record["kind"] == "tamper")?;
            assert_eq!((&record["deed"], &record["repaired"]), (&deed.into(), &true.into()), "{record}");
            assert_eq!(record["objects"], serde_json::json!([object]), "{record}");
            assert!(time < patience(SOON), "round {round}: {deed} was noticed after {time:?}");
            assert_eq!(scene.attached()?, hooks());
            assert!(pins.join("links").join(object).exists());
            assert_eq!(scene.in_force()?, "even");
        }
    }
    // Everything at once, maps and all.
    let seen = scene.records()?.len();
    let gone = pins.with_file_name(format!("enforcer-test-gone-{}", std::process::id()));
    fs::rename(&pins, &gone)?;
    fs::remove_dir_all(&gone)?;
    wait_for(&scene, seen, |record| record["deed"] == "pin-removed" && record["repaired"] == true)?;
    assert_eq!(scene.attached()?, hooks());

    // A program of somebody else is told of and left alone.
    let seen = scene.records()?.len();
    let theirs = SomebodyElses::attach(scene.sandbox.cgroup())?;
    let (record, _) = wait_for(&scene, seen, |record| record["deed"] == "foreign-program")?;
    assert_eq!((&record["repaired"], &record["error"]), (&false.into(), &Value::Null), "{record}");
    assert_eq!(
        record["objects"],
        serde_json::json!([format!("sock_create: program {}", theirs.program)]),
        "{record}"
    );
    assert_eq!(scene.attached()?.len(), hooks().len() + 1);
    let status = scene.sandbox.ask_daemon(&["status"])?;
    let told = serde_json::json!([{ "hook": "sock_create", "program": theirs.program }]);
    assert_eq!(status["coverage"]["foreign_programs"], told, "{status}");
    drop(theirs);
    let status = scene.sandbox.ask_daemon(&["status"])?;
    assert_eq!(status["coverage"]["foreign_programs"], serde_json::json!([]), "{status}");

    // What was put back is what the next daemon adopts.
    assert!(run.end(Signal::SIGKILL).is_ok());
    let mut run = scene.start()?;
    assert!(run.words.contains("adopted=true"), "{}", run.words);
    run.read_until("took over")?;
    assert_eq!(scene.in_force()?, "even");
    assert!(run.end(Signal::SIGTERM)?);
    assert_eq!(links.len(), bpftool::links(scene.sandbox.cgroup())?.len());
    Ok(())
}

#[test]
fn the_file_system_is_mounted_where_it_is_missing_and_again_when_it_is_unmounted() -> anyhow::Result<()> {
    let mut scene = Scene::new("unmounted", EVEN)?;
    let staying = scene.command()?;
    // Mounts of its own, so that nobody else misses the file system.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c"]);
    command.arg("while umount -l /sys/fs/bpf; do :; done 2>/dev/null; exec \"$0\" \"$@\"");
    command.arg(staying.get_program()).args(staying.get_args());
    let run = Run::spawn(&scene.sandbox, command)?.ready()?;
    assert_eq!(scene.in_force()?, "even");
    let inside = Path::new("/proc").join(run.child.0.id().to_string()).join("root");
    let pin = inside.join(scene.sandbox.pins().strip_prefix("/")?).join("links/connect4");
    assert!(pin.exists());

    let seen = scene.records()?.len();
    let pid = run.child.0.id().to_string();
    let unmounted = Command::new("nsenter")
        .args(["--mount", "--target", &pid, "umount", "-l", "/sys/fs/bpf"])
        .status()?;
    assert!(unmounted.success());
    assert_eq!(scene.in_force()?, "even");
    wait_for(&scene, seen, |record| record["deed"] == "directory-gone" && record["repaired"] == true)?;
    // One that looks in the middle of it does not mend everything at once.
    let is_mended = |record: &Value| record["deed"] == "pin-removed" && record["repaired"] == true;
    wait_for(&scene, seen, is_mended)?;
    assert!(pin.exists(), "it is pinned again");
    assert_eq!(scene.attached()?, hooks());
    assert_eq!(scene.in_force()?, "even");
    assert!(run.end(Signal::SIGTERM)?);
    Ok(())
}

#[test]
fn a_daemon_starts_also_while_the_audit_log_takes_nothing_and_every_event_is_accounted_for()
-> anyhow::Result<()> {
    let mut scene = Scene::new("full", EVEN)?;
    let full = |scene: &Scene| {
        let mut command = scene.sandbox.staying_command(&scene.sandbox.directory().join("policy"))?;
        command.args(["--audit", "/dev/full"]);
        anyhow::Ok(command)
    };
    let mut refused = 0;
    let mut run = Run::spawn(&scene.sandbox, full(&scene)?)?;
    run.read_until("write audit log /dev/full: No space left")?;
    let run = run.ready()?;
    for _ in 0..3 {
        assert_eq!(scene.in_force()?, "even");
        refused += 1;
    }
    assert!(!run.end(Signal::SIGTERM)?, "it says that it did not write what it should");
    assert!(scene.start()?.end(Signal::SIGTERM)?);
    for _ in 0..3 {
        assert_eq!(scene.in_force()?, "even");
        refused += 1;
    }
    let run = Run::spawn(&scene.sandbox, full(&scene)?)?.ready()?;
    for _ in 0..3 {
        assert_eq!(scene.in_force()?, "even");
        refused += 1;
    }
    assert!(!run.end(Signal::SIGTERM)?, "it says that it did not write what it should");
    let mut run = scene.start()?;
    run.read_until("took over")?;
    assert!(run.end(Signal::SIGTERM)?);
    let (written, lost) = check_books(&scene.records()?, refused)?;
    assert_eq!((written, lost), (3, 6), "what nobody has read was not lost");
    Ok(())
}

/// A program on one of our hooks that is not ours to remove; detached when it is dropped.
struct SomebodyElses {
    _object: aya::Ebpf,
    program: u32,
}

impl SomebodyElses {
    fn attach(cgroup: &Path) -> anyhow::Result<Self> {
        let mut object = aya::EbpfLoader::new().load(enforcer::kernel::OBJECT)?;
        let program = object.program_mut(Hook::SockCreate.name()).context("no such program")?;
        let program: &mut aya::programs::CgroupSock = program.try_into()?;
        program.load()?;
        program.attach(fs::File::open(cgroup)?, aya::programs::CgroupAttachMode::Single)?;
        let program = program.info()?.id();
        Ok(Self { _object: object, program })
    }
}

#[test]
fn a_listener_that_outlives_its_cgroup_outlives_the_daemon_too() -> anyhow::Result<()> {
    let mut scene = Scene::new("outlives-both", EVEN)?;
    let first = scene.sandbox.make_cgroup("orders/first")?;
    let mut orders = scene.sandbox.actor("orders/first")?;
    let daemon = scene.start()?;
    let at = SocketAddr::from(([127, 0, 0, 2], 8080));
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    assert!(orders.ask(&Request::Move(scene.sandbox.make_cgroup("orders/second")?))?.is_ok());
    fs::remove_dir(&first)?;
    let call = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    assert_eq!(scene.web.ask(&call)?.text, "hello");

    // Nobody can find that cgroup in the tree any longer, and the policy is the same.
    assert!(!daemon.end(Signal::SIGKILL)?);
    let daemon = scene.start()?;
    assert_eq!(scene.web.ask(&call)?.text, "hello");
    assert_eq!(scene.in_force()?, "even");
    assert!(daemon.end(Signal::SIGTERM)?);
    let stop = scene.last("stop")?;
    assert_eq!(stop["events_lost"], 0, "{stop}");
    Ok(())
}
