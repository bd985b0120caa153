//! Measures enforcer beside nothing, nftables, proxies and a loop of verdicts: the same work under the same policy, in one
//! run.
//!
//! [`workload`] is the policy and what each variant is told of it, [`variant`] sets one up in a sandbox of its own,
//! [`load`] are the processes that call and answer, [`stats`] is what the kernel counts of its programs, [`figures`] makes
//! medians and intervals of samples, [`goals`] judges them, and [`report`] tells all of it. What is not measured by rounds
//! is in [`singles`].

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use serde::Serialize;

use self::load::{Deed, Done};
use self::report::{Report, Series};
use self::variant::{Daemon, Fixture, Variant};
use self::workload::{
    CLIENT, CONNECTIONS, DATAGRAMS, Place, ROUND_TRIPS, STRANGER, STREAM, UNMANAGED, Workload,
};
use crate::sandbox::Sandbox;

pub mod decisions;
pub mod figures;
mod floor;
pub mod goals;
pub mod load;
pub mod peers;
mod plot;
pub mod report;
pub mod singles;
pub mod stats;
pub mod variant;
pub mod workload;

/// What to measure, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Measure this alone; may be given more than once
    #[arg(long, value_enum, value_name = "METRIC")]
    pub only: Vec<Metric>,
    /// Few and short rounds, up to 1000 rules: what continuous integration prints
    #[arg(long)]
    pub short: bool,
    /// Go on although others use the machine; the output says so
    #[arg(long)]
    pub even_if_noisy: bool,
    /// How to answer
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
    /// Where the report and the plots are written
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub out: PathBuf,
}

impl Options {
    fn wants(&self, metric: Metric) -> bool {
        self.only.is_empty() || self.only.contains(&metric)
    }
}

/// How to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// A table.
    Text,
    /// One JSON object.
    Json,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Connect, accept and close.
    Connect,
    /// Connects that are refused.
    Refused,
    /// Request and response of a byte on a connection that is open.
    RoundTrip,
    /// Datagrams from a socket that is not connected.
    Datagram,
    /// Bytes of one stream.
    Stream,
    /// Creating sockets in a service.
    Socket,
    /// Creating sockets in no service, in the tree that is judged.
    SocketUnmanaged,
    /// Connects between processes of no service, in the tree that is judged.
    Unmanaged,
    /// Connects where the enforcer judges another part of the tree.
    Outside,
    /// Making a cgroup and removing it.
    Cgroup,
    /// The time of each program, as the kernel counts it.
    Programs,
    /// Putting a policy in force.
    Load,
    /// Changing one rule.
    Change,
    /// The audit log under a flood of events.
    Audit,
    /// What the daemon takes, idle and busy.
    Daemon,
}

impl Metric {
    /// As tables have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect, accept, close",
            Self::Refused => "refused connect",
            Self::RoundTrip => "request, response",
            Self::Datagram => "datagram",
            Self::Stream => "stream",
            Self::Socket => "create socket",
            Self::SocketUnmanaged => "create socket, unmanaged",
            Self::Unmanaged => "connect, unmanaged",
            Self::Outside => "connect, outside the tree",
            Self::Cgroup => "make and remove cgroup",
            Self::Programs => "time of programs",
            Self::Load => "put policy in force",
            Self::Change => "change of one rule",
            Self::Audit => "audit log",
            Self::Daemon => "daemon",
        }
    }

    /// What is counted in a second.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Stream => "B/s",
            _ => "/s",
        }
    }
}

/// What is not measured by rounds of all variants.
const SINGLY: [Metric; 5] = [Metric::Outside, Metric::Load, Metric::Change, Metric::Audit, Metric::Daemon];

/// How often a policy is put in force, and how often it is changed.
const LOADS: usize = 3;
const CHANGES: usize = 12;

/// Events that are made in a second for the goal: what makes them lags a little behind, and 200,000 are wanted.
const AUDITED: f64 = 210e3;

/// How long an idle daemon is looked at.
const IDLE: Duration = Duration::from_secs(5);

/// How often and how long.
#[derive(Clone, Copy)]
struct Rounds {
    number: usize,
    time: Duration,
}

impl Rounds {
    /// How many there are of a metric. Of what is told from nothing by a hundredth there are twice as many.
    const fn of(self, metric: Metric) -> usize {
        match metric {
            Metric::Connect | Metric::Unmanaged | Metric::Outside => 2 * self.number,
            _ => self.number,
        }
    }
}

/// Measures, and tells on standard output.
///
/// # Errors
///
/// The machine is not quiet, or something did not do what it is there for.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let environment = report::Environment::look()?;
    if environment.is_busy() && !options.even_if_noisy {
        bail!(
            "measure: others use {:.2} of this machine's CPUs, and what is measured would be theirs\n\
             hint: wait until it is quiet, or go on with --even-if-noisy",
            environment.busy
        );
    }
    let rounds = if options.short {
        Rounds { number: 5, time: Duration::from_millis(50) }
    } else {
        Rounds { number: 15, time: Duration::from_millis(300) }
    };
    let sizes: &[usize] = if options.short { &[10, 1000] } else { &[10, 1000, 10_000, 100_000, 1_000_000] };
    let mut bench = Bench { options, rounds, report: Report::new(environment) };
    // What fails is told, and does not take with it what was measured.
    for rules in sizes {
        if let Err(err) = bench.of_size(*rules) {
            bench.report.failed.push(format!("with {rules} rules: {err:#}"));
        }
    }
    for metric in SINGLY.into_iter().filter(|metric| options.wants(*metric)) {
        if let Err(err) = bench.singly(metric) {
            bench.report.failed.push(format!("{}: {err:#}", metric.name()));
        }
    }
    bench.report.look_back();
    if bench.report.is_noisy() && !options.even_if_noisy {
        bench
            .report
            .failed
            .push(String::from("others used this machine or what it shares: not to be quoted"));
    }
    bench.report.seconds = begin.elapsed().as_secs_f64();
    let mut report = bench.report;
    report.goals = goals::judge(&report);
    fs::create_dir_all(&options.out).with_context(|| format!("create {}", options.out.display()))?;
    fs::write(options.out.join("report.json"), serde_json::to_vec_pretty(&report)?)?;
    plot::write(&report, &options.out)?;
    report.print(options.output)?;
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Bench<'a> {
    options: &'a Options,
    rounds: Rounds,
    report: Report,
}

impl Bench<'_> {
    /// Everything that is measured by rounds under a policy of so many rules.
    fn of_size(&mut self, rules: usize) -> anyhow::Result<()> {
        let small = rules == 10;
        let by_rounds = |metric: &Metric| match metric {
            Metric::Connect => true,
            other => small && !SINGLY.contains(other),
        };
        let metrics: Vec<Metric> = Metric::value_variants()
            .iter()
            .copied()
            .filter(|metric| self.options.wants(*metric) && by_rounds(metric))
            .collect();
        if metrics.is_empty() {
            return Ok(());
        }
        let mut fixtures = Vec::new();
        for variant in variants(rules) {
            progress(&format!("{rules} rules: {}", variant.name()))?;
            let mut fixture = Fixture::new(variant, rules).with_context(|| variant.name())?;
            fixture.check().with_context(|| variant.name())?;
            fixtures.push(fixture);
        }
        for metric in metrics {
            progress(&format!("{rules} rules: {}", metric.name()))?;
            self.report.environment.look_again()?;
            if metric == Metric::Programs {
                self.programs(&mut fixtures)?;
            } else {
                self.measure(metric, rules, &mut fixtures)?;
            }
        }
        Ok(())
    }

    /// Rounds of one metric: nothing enforced, every variant, nothing enforced again.
    fn measure(&mut self, metric: Metric, rules: usize, fixtures: &mut [Fixture]) -> anyhow::Result<()> {
        let mut taking: Vec<&mut Fixture> =
            fixtures.iter_mut().filter(|fixture| has(metric, fixture.variant)).collect();
        let mut series: Vec<Series> =
            taking.iter().map(|fixture| Series::new(metric, rules, fixture.variant)).collect();
        for round in 0..self.rounds.of(metric) {
            // Every variant takes every place, so that none always comes after the same one.
            let others = taking.len().saturating_sub(1).max(1);
            let order =
                (0..taking.len()).map(|place| if place == 0 { 0 } else { 1 + (place - 1 + round) % others });
            for (place, number) in order.chain([0]).enumerate() {
                let (Some(fixture), Some(series)) = (taking.get_mut(number), series.get_mut(number)) else {
                    continue;
                };
                let done = sample(metric, fixture, self.rounds.time)?;
                series.add(&done, place == taking.len());
            }
        }
        self.report.series.extend(series);
        Ok(())
    }

    /// What is not measured by rounds of all variants.
    fn singly(&mut self, metric: Metric) -> anyhow::Result<()> {
        progress(metric.name())?;
        self.report.environment.look_again()?;
        let short = self.options.short;
        match metric {
            Metric::Outside => self.outside()?,
            Metric::Load => {
                let sizes: &[usize] = if short { &[1000] } else { &[1000, 100_000, 1_000_000] };
                for rules in sizes {
                    for load in [singles::load_enforcer, singles::load_nft] {
                        for _ in 0..LOADS {
                            self.report.loads.push(load(*rules)?);
                        }
                    }
                }
            }
            Metric::Change => {
                let (rules, each) = if short { (1000, 100) } else { (1_000_000, 1000) };
                for each in [rules, each] {
                    self.report.changes.extend(singles::change(rules, each, CHANGES)?);
                }
            }
            Metric::Audit => {
                let (rates, time, last): (&[f64], Duration, Duration) = if short {
                    (&[], Duration::ZERO, Duration::from_secs(1))
                } else {
                    (&[100e3, 300e3, 400e3, 800e3], Duration::from_secs(2), Duration::from_secs(60))
                };
                for (rate, time) in rates.iter().map(|rate| (*rate, time)).chain([(AUDITED, last)]) {
                    self.report.audits.push(singles::audit(10, rate, time)?);
                }
            }
            Metric::Daemon => {
                let rules = if short { 1000 } else { 10_000 };
                self.report.uses.push(singles::idle(rules, IDLE)?);
                let mut fixture = Fixture::new(Variant::EnforcerAudit, rules)?;
                let pid = fixture.daemon.as_ref().context("a variant with a daemon")?.pid();
                let time = self.rounds.time;
                let busy =
                    singles::watch(pid, rules, || Ok(sample(Metric::Connect, &mut fixture, time)?.times))?;
                self.report.uses.push(busy);
            }
            _ => {}
        }
        Ok(())
    }

    /// Rounds in which an enforcer comes and goes that judges another part of the cgroup tree.
    fn outside(&mut self) -> anyhow::Result<()> {
        let mut fixture = Fixture::new(Variant::None, 10)?;
        let other = Sandbox::new("bench-other")?;
        let policy = Workload::new(10, Place::Middle).yaml("/elsewhere", false);
        let mut without = Series::new(Metric::Outside, 10, Variant::None);
        let mut with = Series::new(Metric::Outside, 10, Variant::Enforcer);
        let time = self.rounds.time;
        for _ in 0..self.rounds.of(Metric::Outside) {
            without.add(&sample(Metric::Connect, &mut fixture, time)?, false);
            let daemon = Daemon::start(&other, &policy, false)?;
            with.add(&sample(Metric::Connect, &mut fixture, time)?, false);
            daemon.stop()?;
            without.add(&sample(Metric::Connect, &mut fixture, time)?, true);
        }
        self.report.series.extend([without, with]);
        Ok(())
    }

    /// The time of each program, while the kernel counts it.
    fn programs(&mut self, fixtures: &mut [Fixture]) -> anyhow::Result<()> {
        let counting = stats::Counting::start()?;
        for fixture in fixtures.iter_mut() {
            for metric in
                [Metric::Connect, Metric::Refused, Metric::RoundTrip, Metric::Datagram, Metric::Socket]
            {
                if !fixture.has_programs() || !has(metric, fixture.variant) {
                    continue;
                }
                let before = fixture.programs()?;
                let done = sample(metric, fixture, self.rounds.time)?;
                let runs = stats::since(&before, &fixture.programs()?);
                self.report.programs.push(report::Programs::new(fixture.variant, metric, done.times, &runs));
            }
        }
        drop(counting);
        let daemon = fixtures.iter().find_map(|fixture| fixture.daemon.as_ref());
        if let Some(daemon) = daemon {
            self.report.verified = stats::verified(daemon.pid())?;
        }
        Ok(())
    }
}

/// Which variants a policy of so many rules is put in force by.
fn variants(rules: usize) -> Vec<Variant> {
    let mut variants = vec![Variant::None, Variant::NftSet];
    if rules <= 10_000 {
        variants.extend([Variant::NftLinear, Variant::NftLinearLast]);
    }
    variants.extend([Variant::Floor, Variant::Enforcer, Variant::EnforcerAudit]);
    if rules == 10 {
        variants.extend([Variant::Lookups, Variant::Proxies, Variant::Nfqueue]);
    }
    variants
}

/// Whether a metric says something of a variant.
const fn has(metric: Metric, variant: Variant) -> bool {
    let goes_through = !matches!(variant, Variant::Proxies | Variant::Nfqueue);
    match metric {
        Metric::Connect => true,
        Metric::RoundTrip | Metric::Stream => !matches!(variant, Variant::Lookups),
        Metric::Refused => matches!(variant, Variant::NftSet | Variant::Enforcer | Variant::EnforcerAudit),
        Metric::Datagram | Metric::Socket | Metric::SocketUnmanaged => {
            goes_through && !matches!(variant, Variant::Lookups)
        }
        Metric::Unmanaged => matches!(
            variant,
            Variant::None | Variant::Floor | Variant::Lookups | Variant::Enforcer | Variant::EnforcerAudit
        ),
        Metric::Cgroup => matches!(variant, Variant::None | Variant::Floor | Variant::Enforcer),
        Metric::Outside
        | Metric::Programs
        | Metric::Load
        | Metric::Change
        | Metric::Audit
        | Metric::Daemon => false,
    }
}

fn sample(metric: Metric, fixture: &mut Fixture, time: Duration) -> anyhow::Result<Done> {
    let (client, deed) = match metric {
        Metric::Connect => (CLIENT, Deed::Connect(fixture.at(CONNECTIONS))),
        Metric::Unmanaged => (UNMANAGED, Deed::Connect((Workload::unmanaged(), CONNECTIONS).into())),
        Metric::Refused => (STRANGER, Deed::BeRefused(fixture.at(CONNECTIONS))),
        Metric::RoundTrip => (CLIENT, Deed::RoundTrip(fixture.at(ROUND_TRIPS))),
        Metric::Datagram => (CLIENT, Deed::Send(fixture.at(DATAGRAMS))),
        Metric::Stream => (CLIENT, Deed::Stream(fixture.at(STREAM))),
        Metric::Socket => (CLIENT, Deed::Socket),
        Metric::SocketUnmanaged => (UNMANAGED, Deed::Socket),
        Metric::Cgroup => return make_cgroups(fixture, time),
        Metric::Outside
        | Metric::Programs
        | Metric::Load
        | Metric::Change
        | Metric::Audit
        | Metric::Daemon => bail!("not measured by rounds"),
    };
    fixture.repeat(client, deed, time)
}

fn make_cgroups(fixture: &Fixture, time: Duration) -> anyhow::Result<Done> {
    let cgroup = fixture.sandbox.cgroup().join("made");
    let begin = Instant::now();
    let mut done = Done::default();
    while begin.elapsed() < time {
        fs::create_dir(&cgroup)?;
        fs::remove_dir(&cgroup)?;
        done.times += 1.0;
    }
    done.seconds = begin.elapsed().as_secs_f64();
    Ok(done)
}

/// Says on standard error what is under way.
fn progress(words: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{words}")
}
