//! Reload after reload under load: no decision is of two policies, and nothing grows.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::load::{Expected, Load, Sum};
use enforcer_tests::run::Run;
use enforcer_tests::sandbox::{Actor, Sandbox};
use enforcer_tests::slowness::patience;
use enforcer_tests::{amount, fdinfo};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{SERVICES, address};

/// Revisions 1, 3, 5 and so on permit the first port and not the second, the others the reverse.
const PORTS: [u16; 2] = [8080, 8081];

fn policy(revision: u64) -> String {
    let port = if revision % 2 == 1 { PORTS[0] } else { PORTS[1] };
    format!("{SERVICES}allow:\n  - {{ name: 'of-{port}', from: web, to: orders, ports: [{port}/tcp] }}\n")
}

struct Scene {
    sandbox: Sandbox,
    daemon: Run,
    load: Load,
    /// Another process of the caller's service.
    asker: Actor,
    _orders: Actor,
}

impl Scene {
    fn new(name: &str) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(name)?;
        let mut command = sandbox.daemon_command(&policy(1))?;
        command.arg("--log-allowed").arg("--audit").arg(sandbox.directory().join("audit.jsonl"));
        let daemon = Run::spawn(&sandbox, command)?.ready()?.unheard();
        let mut orders = sandbox.actor("orders")?;
        for port in PORTS {
            let serve = Request::Serve { at: address(port), transport: Transport::Tcp };
            ensure!(orders.ask(&serve)?.is_ok(), "serve {port}");
        }
        let load = Load::new(sandbox.actor("web")?, PORTS.map(address), Expected::Changing);
        let asker = sandbox.actor("web")?;
        Ok(Self { sandbox, daemon, load, asker, _orders: orders })
    }

    /// Has the next policy put in force; once that is answered, what it says is what happens.
    fn reload(&mut self, revision: u64) -> anyhow::Result<()> {
        self.sandbox.write_policy(&policy(revision))?;
        let answer = self.sandbox.ask_daemon(&["reload"])?;
        ensure!(answer["revision"] == revision, "reload number {revision}: {answer}");
        for (number, port) in PORTS.into_iter().enumerate() {
            let call = Request::Connect { to: address(port), transport: Transport::Tcp, mapped: false };
            let reply = self.asker.ask(&call)?;
            let is_permitted = (revision % 2 == 1) == (number == 0);
            ensure!(
                reply.is_ok() == is_permitted && reply.is_refused() != is_permitted,
                "port {port} under revision {revision}: {reply:?}"
            );
        }
        Ok(())
    }

    fn end(self) -> anyhow::Result<(Sandbox, Sum)> {
        let sum = self.load.end()?;
        ensure!(self.daemon.end(Signal::SIGTERM)?, "the daemon has not ended well");
        Ok((self.sandbox, sum))
    }
}

/// What the audit log says of decisions of each revision, line by line.
#[derive(Default)]
struct Books {
    allowed: u64,
    denied: u64,
    lost: u64,
    stop: Value,
}

fn read_books(sandbox: &Sandbox) -> anyhow::Result<Books> {
    let mut books = Books::default();
    for line in BufReader::new(File::open(sandbox.directory().join("audit.jsonl"))?).lines() {
        let record: Value = serde_json::from_str(&line?)?;
        match record["kind"].as_str().unwrap_or_default() {
            "attempt" => {
                let revision = record["revision"].as_u64().context("a record without a revision")?;
                let is_first = record["destination"]["port"] == PORTS[0];
                let verdict = if (revision % 2 == 1) == is_first { "allow" } else { "deny" };
                ensure!(record["verdict"] == verdict, "a decision of two policies: {record}");
                if verdict == "allow" {
                    let rule = format!("of-{}", record["destination"]["port"]);
                    ensure!(record["rule"]["name"] == rule.as_str(), "a rule of another policy: {record}");
                    books.allowed += 1;
                } else {
                    books.denied += 1;
                }
            }
            "lost" => books.lost += record["count"].as_u64().context("a loss without a number")?,
            "stop" => books.stop = record,
            _ => {}
        }
    }
    Ok(books)
}

/// Every call is a record or lost, those that were dropped are two, and the daemon has counted them. `by_hand` calls were
/// answered, and as many refused, besides the load.
fn check_books(books: &Books, sum: &Sum, by_hand: u64) -> anyhow::Result<()> {
    let Books { allowed, denied, lost, stop } = books;
    let admitted = sum.answered + sum.cut + sum.dropped + by_hand;
    let refused = sum.refused + sum.dropped + by_hand;
    ensure!(
        admitted + refused == allowed + denied + lost && *allowed <= admitted && *denied <= refused,
        "{admitted} admitted, {refused} refused; {allowed} allowed, {denied} denied and {lost} lost in the log"
    );
    ensure!(stop["denied"] == refused && stop["events_lost"] == *lost, "{admitted}, {refused}: {stop}");
    Ok(())
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of a run are what its reader wants")]
fn between_two_policies_no_decision_is_of_both() -> anyhow::Result<()> {
    let reloads = amount::of("ENFORCER_TEST_RELOADS", 25);
    let mut scene = Scene::new("mixture")?;
    for revision in 2..reloads + 2 {
        scene.reload(revision)?;
    }
    let (sandbox, sum) = scene.end()?;
    let books = read_books(&sandbox)?;
    check_books(&books, &sum, reloads)?;
    println!(
        "{reloads} reloads at {} connections/s: {} permitted answered, {} closed by the next policy and {} dropped by it, \
         {} forbidden refused, {} written, {} lost",
        sum.rate(),
        sum.answered,
        sum.cut,
        sum.dropped,
        sum.refused,
        books.allowed + books.denied,
        books.lost
    );
    Ok(())
}

/// What a daemon holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holding {
    /// Resident memory, in KiB.
    resident: u64,
    /// Open descriptors.
    descriptors: usize,
    /// Memory of its maps, in bytes, as the kernel accounts for it.
    maps: u64,
}

impl Holding {
    fn of(process: u32) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
        let resident = resident.context("no VmRSS")?.trim().parse()?;
        let infos = fdinfo::of_process(process)?;
        let mut maps = 0;
        for info in infos.iter().filter(|info| info.contains("map_type:")) {
            maps += fdinfo::field::<u64>(info, "memlock").context("a map without memlock")?;
        }
        let descriptors = infos.len();
        Ok(Self { resident, descriptors, maps })
    }

    /// The least of several looks: what comes and goes with a reload or a request is none that stays.
    fn least(process: u32, looks: usize) -> anyhow::Result<Self> {
        let mut least = Self::of(process)?;
        for _ in 1..looks {
            let next = Self::of(process)?;
            least = Self {
                resident: least.resident.min(next.resident),
                descriptors: least.descriptors.min(next.descriptors),
                maps: least.maps.min(next.maps),
            };
        }
        Ok(least)
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures of a run are what its reader wants")]
fn under_full_load_and_reloads_nothing_grows() -> anyhow::Result<()> {
    /// Between two looks at the holding, reloads.
    const ROUND: u64 = 4;
    let (time, pause) = match amount::of("ENFORCER_TEST_SOAK", 0) {
        0 => (Duration::from_secs(6), Duration::ZERO),
        seconds => (Duration::from_secs(seconds), Duration::from_secs(5)),
    };
    let mut scene = Scene::new("soak")?;
    let process = scene.daemon.child.0.id();
    let mut revision = 1;
    let mut round = |scene: &mut Scene| -> anyhow::Result<Holding> {
        for _ in 0..ROUND {
            let next = Instant::now() + pause;
            revision += 1;
            scene.reload(revision)?;
            while Instant::now() < next {
                scene.load.wait_for(100)?;
            }
        }
        // It gets ready for the next policy after the answer to a reload, and answers this after that.
        scene.sandbox.ask_daemon(&["status"])?;
        Holding::least(process, 20)
    };
    // What it takes to have seen everything once is not growth.
    let (_, first) = (round(&mut scene)?, round(&mut scene)?);
    let start = Instant::now();
    let mut last = first;
    while start.elapsed() < patience(time) {
        last = round(&mut scene)?;
    }
    let (sandbox, sum) = scene.end()?;
    let books = read_books(&sandbox)?;
    check_books(&books, &sum, revision - 1)?;
    println!(
        "{} s and {revision} revisions at {} connections/s: {first:?} became {last:?}; {} written, {} lost",
        start.elapsed().as_secs(),
        sum.rate(),
        books.allowed + books.denied,
        books.lost
    );
    ensure!(last.descriptors <= first.descriptors, "descriptors grow: {first:?}, {last:?}");
    ensure!(last.maps <= first.maps, "maps grow: {first:?}, {last:?}");
    // An allocator keeps what it once had, so that there are some steps before it is level.
    ensure!(last.resident <= first.resident + first.resident / 4, "memory grows: {first:?}, {last:?}");
    Ok(())
}
