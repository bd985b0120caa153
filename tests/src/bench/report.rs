//! What was measured, as a table, as JSON and as plots.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use serde::Serialize;

use super::figures::{Figure, ratios, wavering};
use super::goals::Goal;
use super::load::Done;
use super::singles::{Audit, Change, Load, Use};
use super::stats::Runs;
use super::variant::Variant;
use super::{Metric, Output};

/// The machine, and how quiet it was before anything was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Environment {
    /// What `uname -r` says.
    pub kernel: String,
    /// The processor, and how many of it there are.
    pub cpu: String,
    /// When it began.
    pub date: String,
    /// What `/proc/loadavg` said.
    pub load: String,
    /// CPUs that others kept busy, of all, before anything was measured.
    pub busy: f64,
    /// The most that they did between two measurements.
    pub busiest: f64,
}

/// How long the machine is looked at before anything is measured, and between two measurements.
const LOOK: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(500);

/// How long what was measured may take to go away.
const CLEARING: Duration = Duration::from_secs(20);

/// CPUs that others may keep busy.
const QUIET: f64 = 0.2;

/// How far what nothing is done to may waver. Who shares caches and memory with a virtual machine shows in nothing else.
const STEADY: f64 = 0.05;

impl Environment {
    /// Looks at it for some seconds.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn look() -> anyhow::Result<Self> {
        let busy = watch(LOOK)?;
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        let info = read("/proc/cpuinfo")?;
        let models: Vec<&str> =
            info.lines().filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).collect();
        let model = models.first().copied().unwrap_or("unknown");
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: format!("{} x {model}", models.len()),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            load: read("/proc/loadavg")?.trim().to_owned(),
            busy,
            busiest: 0.0,
        })
    }

    /// Looks again, while nothing of this process's is under way. What the kernel does after it, as freeing a million rules,
    /// is waited for.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn look_again(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        let mut least = watch(GLANCE)?;
        while least > QUIET && begin.elapsed() < CLEARING {
            least = least.min(watch(GLANCE)?);
        }
        self.busiest = self.busiest.max(least);
        Ok(())
    }

    /// Whether others use it too much for figures to be trusted.
    pub fn is_busy(&self) -> bool {
        self.busy.max(self.busiest) > QUIET
    }
}

/// CPUs that were busy meanwhile.
fn watch(time: Duration) -> anyhow::Result<f64> {
    let (before, begin) = (busy()?, Instant::now());
    while begin.elapsed() < time {
        std::thread::park_timeout(time.saturating_sub(begin.elapsed()));
    }
    Ok((busy()? - before) / begin.elapsed().as_secs_f64())
}

/// Seconds of CPU time that the machine has not been idle, since it started.
fn busy() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal, and guests, which user has already; of proc(5).
    let busy: f64 =
        ticks.iter().enumerate().filter(|(place, _)| ![3, 4, 8, 9].contains(place)).map(|(_, t)| t).sum();
    // `USER_HZ` is 100 on every architecture that enforcer is built for.
    Ok(busy / 100.0)
}

/// The samples of one metric of one variant, a round after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Series {
    /// What was measured.
    pub metric: Metric,
    /// Rules of the policy.
    pub rules: usize,
    /// By which it was enforced.
    pub variant: Variant,
    /// So many a second.
    pub per_second: Vec<f64>,
    /// The same at the end of each round; of the baseline alone.
    pub after: Vec<f64>,
    /// Half of the calls took no longer, in nanoseconds.
    pub p50: Vec<f64>,
    /// 99 of 100 took no longer.
    pub p99: Vec<f64>,
}

impl Series {
    /// One without samples.
    pub fn new(metric: Metric, rules: usize, variant: Variant) -> Self {
        let (per_second, after, p50, p99) = Default::default();
        Self { metric, rules, variant, per_second, after, p50, p99 }
    }

    /// Adds what came of a round, or of its end.
    pub fn add(&mut self, done: &Done, at_end: bool) {
        if at_end {
            self.after.push(done.per_second());
            return;
        }
        self.per_second.push(done.per_second());
        let nanoseconds = |time: u64| Duration::from_nanos(time).as_secs_f64() * 1e9;
        self.p50.extend(done.p50.map(nanoseconds));
        self.p99.extend(done.p99.map(nanoseconds));
    }
}

/// What programs cost where one thing was done over and over.
#[derive(Clone, Debug, Serialize)]
pub struct Programs {
    /// Whose programs.
    pub variant: Variant,
    /// What was done.
    pub metric: Metric,
    /// Nanoseconds of all programs for each time.
    pub nanoseconds: f64,
    /// By the program's name: how often it ran each time, and how long one run took.
    pub programs: BTreeMap<String, (f64, f64)>,
}

impl Programs {
    /// From what the kernel has counted while it was done so often.
    pub fn new(variant: Variant, metric: Metric, times: f64, runs: &BTreeMap<String, Runs>) -> Self {
        let programs: BTreeMap<String, (f64, f64)> = runs
            .iter()
            // What ran now and then is of others, as a tracepoint's program.
            .filter(|(_, runs)| runs.times > times / 20.0)
            .map(|(name, runs)| (name.clone(), (runs.times / times, runs.nanoseconds / runs.times)))
            .collect();
        let nanoseconds = programs.values().map(|(times, each)| times * each).sum();
        Self { variant, metric, nanoseconds, programs }
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where and when.
    pub environment: Environment,
    /// How long it took.
    pub seconds: f64,
    /// How far connects with nothing enforced wavered from round to round, as a part of them; nothing if they were not measured.
    pub wavered: Option<f64>,
    /// By rounds.
    pub series: Vec<Series>,
    /// What the kernel counted of programs.
    pub programs: Vec<Programs>,
    /// Instructions that the verifier walked for each program.
    pub verified: BTreeMap<String, u64>,
    /// Policies that were put in force.
    pub loads: Vec<Load>,
    /// Rules that were changed.
    pub changes: Vec<Change>,
    /// Floods of events.
    pub audits: Vec<Audit>,
    /// What the daemon took.
    pub uses: Vec<Use>,
    /// What was wanted.
    pub goals: Vec<Goal>,
    /// What could not be measured, and why.
    pub failed: Vec<String>,
}

impl Report {
    /// One without figures.
    pub fn new(environment: Environment) -> Self {
        let (series, programs, verified, loads, changes, audits, uses, goals, failed) = Default::default();
        Self {
            environment,
            seconds: 0.0,
            wavered: None,
            series,
            programs,
            verified,
            loads,
            changes,
            audits,
            uses,
            goals,
            failed,
        }
    }

    /// The samples of a variant, if it was measured.
    pub fn find(&self, metric: Metric, rules: usize, variant: Variant) -> Option<&Series> {
        self.series
            .iter()
            .find(|series| (series.metric, series.rules, series.variant) == (metric, rules, variant))
    }

    /// Says how steady the machine was, from what has been measured.
    pub fn look_back(&mut self) {
        let nothing = self
            .series
            .iter()
            .filter(|series| (series.metric, series.variant) == (Metric::Connect, Variant::None));
        self.wavered = nothing.map(|series| wavering(&series.per_second)).reduce(f64::max);
    }

    /// Whether the machine was too busy or too unsteady for figures to be trusted.
    pub fn is_noisy(&self) -> bool {
        self.environment.is_busy() || self.wavered.is_some_and(|wavered| wavered > STEADY)
    }

    /// How a variant stands to another one, which is the first of each round or any other.
    pub fn ratio(&self, metric: Metric, rules: usize, variant: Variant, baseline: Variant) -> Option<Figure> {
        let (variant, baseline) = (self.find(metric, rules, variant)?, self.find(metric, rules, baseline)?);
        let pairs: Vec<(f64, f64)> = if baseline.after.is_empty() {
            baseline.per_second.iter().map(|sample| (*sample, *sample)).collect()
        } else {
            baseline.per_second.iter().copied().zip(baseline.after.iter().copied()).collect()
        };
        Figure::of(&ratios(&variant.per_second, &pairs))
    }

    /// Prints it.
    ///
    /// # Errors
    ///
    /// Standard output takes nothing.
    pub fn print(&self, output: Output) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match output {
            Output::Json => serde_json::to_writer_pretty(&mut out, self)?,
            Output::Text => out.write_all(self.text().as_bytes())?,
        }
        out.flush()?;
        Ok(())
    }

    /// As tables for people.
    pub fn text(&self) -> String {
        let environment = &self.environment;
        let wavered = self.wavered.map_or(String::new(), |wavered| {
            format!("; nothing enforced wavered by {:.1} %", wavered * 100.0)
        });
        let mut text = format!(
            "{}, Linux {}, {}\nload {}; others kept {:.2} CPUs busy before, and {:.2} at most between{wavered}{}; \
             {:.0} s in all\n",
            environment.date,
            environment.kernel,
            environment.cpu,
            environment.load,
            environment.busy,
            environment.busiest,
            if self.is_noisy() { " -- NOISY: not to be quoted" } else { "" },
            self.seconds
        );
        for rows in [
            self.rates(),
            self.program_times(),
            self.verified_instructions(),
            self.load_times(),
            self.change_times(),
            self.audit_rates(),
            self.daemon_use(),
            self.goal_rows(),
        ] {
            // Its head alone says nothing.
            if rows.len() > 1 {
                text.push('\n');
                text += &aligned(&rows);
            }
        }
        for words in &self.failed {
            text += &format!("\nfailed: {words}\n");
        }
        text
    }

    fn load_times(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["put in force", "rules", "time", "most memory"].map(str::to_owned).to_vec()];
        let mut keys: Vec<(usize, Variant)> =
            self.loads.iter().map(|load| (load.rules, load.variant)).collect();
        keys.dedup();
        for (number, variant) in keys {
            let found = self.loads.iter().filter(|load| (load.rules, load.variant) == (number, variant));
            let (seconds, memory): (Vec<f64>, Vec<f64>) =
                found.map(|load| (load.seconds, load.memory)).unzip();
            let (Some(seconds), Some(memory)) = (Figure::of(&seconds), Figure::of(&memory)) else { continue };
            rows.push(vec![variant.name().to_owned(), rules(number), span(&seconds), bytes(memory.median)]);
        }
        rows
    }

    fn change_times(&self) -> Vec<Vec<String>> {
        let head = ["change of one rule", "rules", "in files", "", "time"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let key = |change: &Change| (change.variant, change.rules, change.files, change.first);
        let mut keys: Vec<_> = self.changes.iter().map(key).collect();
        keys.dedup();
        for wanted in keys {
            let (variant, number, files, first) = wanted;
            let found = self.changes.iter().filter(|change| key(change) == wanted);
            let seconds: Vec<f64> = found.map(|change| change.seconds).collect();
            let Some(seconds) = Figure::of(&seconds) else { continue };
            let which = if first { "the first since the start" } else { "" };
            let files = files.to_string();
            rows.push(vec![
                variant.name().to_owned(),
                rules(number),
                files,
                which.to_owned(),
                span(&seconds),
            ]);
        }
        rows
    }

    fn audit_rates(&self) -> Vec<Vec<String>> {
        let head = ["events aimed at", "there were", "for", "written", "lost", "CPUs of the daemon"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for audit in &self.audits {
            rows.push(vec![
                format!("{}/s", scaled(audit.aimed)),
                format!("{}/s", scaled(audit.events)),
                format!("{:.1} s", audit.seconds),
                scaled(audit.written),
                format!("{:.0}", audit.lost),
                format!("{:.2}", audit.cpus),
            ]);
        }
        rows
    }

    fn daemon_use(&self) -> Vec<Vec<String>> {
        let head = ["daemon", "rules", "connections recorded", "CPUs", "wake-ups", "memory"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for found in &self.uses {
            rows.push(vec![
                if found.connections > 0.0 { "busy" } else { "idle" }.to_owned(),
                rules(found.rules),
                format!("{}/s", scaled(found.connections)),
                format!("{:.3}", found.cpus),
                format!("{:.1}/s", found.wakeups),
                bytes(found.memory),
            ]);
        }
        rows
    }

    fn goal_rows(&self) -> Vec<Vec<String>> {
        let mut rows =
            vec![["goal", "wanted", "measured", "", "of empty programs"].map(str::to_owned).to_vec()];
        for goal in &self.goals {
            rows.push(vec![
                goal.id.to_owned(),
                goal.wanted.clone(),
                goal.found.clone(),
                goal.word().to_owned(),
                goal.of_floor.map_or_else(String::new, |floor| {
                    format!("{:.3} ({:.3}-{:.3})", floor.median, floor.low, floor.high)
                }),
            ]);
        }
        rows
    }

    fn rates(&self) -> Vec<Vec<String>> {
        let head = ["what", "rules", "variant", "median", "of none", "95 %", "p50", "p99"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for series in &self.series {
            let Some(median) = Figure::of(&series.per_second) else { continue };
            let ratio = self.ratio(series.metric, series.rules, series.variant, Variant::None);
            let time =
                |samples: &[f64]| Figure::of(samples).map_or_else(String::new, |time| duration(time.median));
            rows.push(vec![
                series.metric.name().to_owned(),
                rules(series.rules),
                series.variant.name().to_owned(),
                format!("{}{}", scaled(median.median), series.metric.unit()),
                ratio.map_or_else(String::new, |ratio| format!("{:.3}", ratio.median)),
                ratio.map_or_else(String::new, |ratio| format!("{:.3}-{:.3}", ratio.low, ratio.high)),
                time(&series.p50),
                time(&series.p99),
            ]);
        }
        rows
    }

    fn verified_instructions(&self) -> Vec<Vec<String>> {
        let mut rows = vec![["program", "instructions that the verifier walked"].map(str::to_owned).to_vec()];
        rows.extend(self.verified.iter().map(|(name, number)| vec![name.clone(), number.to_string()]));
        rows
    }

    fn program_times(&self) -> Vec<Vec<String>> {
        let head = ["for each", "variant", "programs", "program", "runs", "time of a run"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for found in &self.programs {
            let mut first = [
                found.metric.name().to_owned(),
                found.variant.name().to_owned(),
                duration(found.nanoseconds),
            ];
            for (name, (times, each)) in &found.programs {
                let mut row = std::mem::take(&mut first).to_vec();
                row.extend([name.clone(), format!("{times:.2}"), duration(*each)]);
                rows.push(row);
            }
        }
        rows
    }
}

/// A number of rules in few characters.
fn rules(number: usize) -> String {
    match number {
        1_000_000.. if number.is_multiple_of(1_000_000) => format!("{}M", number / 1_000_000),
        1000.. if number.is_multiple_of(1000) => format!("{}k", number / 1000),
        _ => number.to_string(),
    }
}

/// A number in three digits and more, with a letter for its size.
pub(super) fn scaled(number: f64) -> String {
    match number {
        1e9.. => format!("{:.2} G", number / 1e9),
        1e6.. => format!("{:.2} M", number / 1e6),
        1e4.. => format!("{:.1} k", number / 1e3),
        _ => format!("{number:.0} "),
    }
}

/// Nanoseconds in the unit that suits.
pub(super) fn duration(nanoseconds: f64) -> String {
    match nanoseconds {
        1e9.. => format!("{:.2} s", nanoseconds / 1e9),
        1e6.. => format!("{:.1} ms", nanoseconds / 1e6),
        1e4.. => format!("{:.1} us", nanoseconds / 1e3),
        1e3.. => format!("{:.2} us", nanoseconds / 1e3),
        _ => format!("{nanoseconds:.0} ns"),
    }
}

/// Seconds, from where to where they are.
fn span(seconds: &Figure) -> String {
    let [median, low, high] = [seconds.median, seconds.low, seconds.high].map(|time| duration(time * 1e9));
    format!("{median} ({low}-{high})")
}

/// Bytes in the unit that suits.
pub(super) fn bytes(number: f64) -> String {
    format!("{:.1} MB", number / 1e6)
}

/// Columns below each other; the first row is their head.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{duration, rules, scaled};

    #[test]
    fn numbers_are_short() {
        assert_eq!([10, 1000, 10_000, 1_000_000].map(rules), ["10", "1k", "10k", "1M"]);
        assert_eq!([29_214.0, 351_000.0, 26e9, 12.0].map(scaled), ["29.2 k", "351.0 k", "26.00 G", "12 "]);
        assert_eq!(
            [65.0, 1370.0, 33_000.0, 4.2e6, 5.81e9].map(duration),
            ["65 ns", "1.37 us", "33.0 us", "4.2 ms", "5.81 s"]
        );
    }
}
