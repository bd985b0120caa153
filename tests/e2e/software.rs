//! Permitted traffic is never broken: software that nobody here wrote works as it does without an enforcer, given the
//! rules for exactly what it needs, and is refused at once without one.

mod caches;
mod databases;
mod names;
mod network;
mod python;
mod quic;
mod rpc;

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_tests::sandbox::{Daemon, Finished, Killed, Sandbox};
use enforcer_tests::slowness::patience;
use serde_json::Value;

/// How long a server may take to be ready, and a client to do all its work. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(240);

/// How long a client may take to start, be refused and say so. What is dropped instead takes longer: the clients here
/// wait for five seconds at least.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A sandbox whose programs are other people's.
struct Stage {
    sandbox: Sandbox,
}

impl Stage {
    fn new(name: &str) -> anyhow::Result<Self> {
        Ok(Self { sandbox: Sandbox::new(name)? })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.sandbox.directory().join(name)
    }

    /// Writes a file into the sandbox's directory, and returns where it is.
    fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let file = self.file(name);
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        Ok(file.display().to_string())
    }

    /// A program in the cgroup of a service, its directory the sandbox's.
    fn command<S: AsRef<str>>(&self, cgroup: &str, words: &[S]) -> anyhow::Result<Command> {
        let (program, arguments) = words.split_first().context("run nothing")?;
        let mut command = self.sandbox.command(cgroup, installed(program.as_ref())?)?;
        command.args(arguments.iter().map(AsRef::as_ref)).current_dir(self.sandbox.directory());
        Ok(command)
    }

    /// Starts a server, and returns when it has said `ready`.
    fn serve<S: AsRef<str>>(&self, cgroup: &str, words: &[S], ready: &str) -> anyhow::Result<Server> {
        let mut command = self.command(cgroup, words)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Server::new(self.sandbox.spawn(command)?)?;
        server.wait_for(ready).with_context(|| format!("start {}", words[0].as_ref()))?;
        Ok(server)
    }

    /// Runs a client to its end, with what it wrote and how long it took.
    fn run<S: AsRef<str>>(&self, cgroup: &str, words: &[S]) -> anyhow::Result<Ran> {
        let limit = patience(DEADLINE).as_secs().to_string();
        let mut bounded = vec!["timeout", &limit];
        bounded.extend(words.iter().map(AsRef::as_ref));
        installed(bounded[2])?;
        let start = Instant::now();
        let output = self.sandbox.output(self.command(cgroup, &bounded)?)?;
        Ok(Ran { words: bounded.join(" "), output, took: start.elapsed() })
    }
}

/// A client that has ended.
struct Ran {
    words: String,
    output: Output,
    took: Duration,
}

impl Ran {
    /// What it wrote to its standard output, if it went well.
    fn text(&self) -> anyhow::Result<String> {
        ensure!(self.output.status.success(), "{self}");
        Ok(String::from_utf8_lossy(&self.output.stdout).into_owned())
    }

    /// Everything it wrote.
    fn said(&self) -> String {
        let (out, err) = (&self.output.stdout, &self.output.stderr);
        format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
    }

    /// It failed at once.
    #[track_caller]
    fn assert_failed_at_once(&self) {
        assert!(!self.output.status.success(), "{self}");
        assert!(self.took < patience(AT_ONCE), "took {:?}: {self}", self.took);
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}:\n{}", self.words, self.output.status, self.said())
    }
}

/// A running server, which is killed when this is dropped.
struct Server {
    _child: Killed,
    lines: Receiver<String>,
}

impl Server {
    fn new(child: Child) -> anyhow::Result<Self> {
        let mut child = Killed(child);
        let (sender, lines) = mpsc::channel();
        let stdout = child.0.stdout.take().context("server without stdout")?;
        let stderr = child.0.stderr.take().context("server without stderr")?;
        let streams: [Box<dyn Read + Send>; 2] = [Box::new(stdout), Box::new(stderr)];
        for stream in streams {
            let sender = sender.clone();
            // It is read to its end, so that a talkative server is never stopped by a full pipe.
            thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                        continue;
                    }
                }
            });
        }
        Ok(Self { _child: child, lines })
    }

    /// Waits until it has said something that contains `words`.
    fn wait_for(&mut self, words: &str) -> anyhow::Result<String> {
        let start = Instant::now();
        let mut said = String::new();
        loop {
            let left = patience(DEADLINE).saturating_sub(start.elapsed());
            let line = self.lines.recv_timeout(left);
            let line = line.with_context(|| format!("wait for {words:?}: it said only:\n{said}"))?;
            if line.contains(words) {
                return Ok(line);
            }
            said += &line;
            said.push('\n');
        }
    }
}

/// Waits for the denial of an attempt from one end to the other, and returns its record.
#[track_caller]
fn denial(daemon: &mut Daemon, from: &str, to: &str) -> anyhow::Result<Value> {
    daemon.wait_for(|record| {
        record["verdict"] == "deny"
            && record["source"]["service"] == from
            && record["destination"]["service"] == to
    })
}

/// The daemon told everything, and refused nothing but what callers without a rule tried, each of them once or more.
#[track_caller]
fn assert_refused_only(finished: &Finished, callers: &[&str]) -> anyhow::Result<()> {
    finished.check_totals()?;
    let denied: Vec<&Value> = finished.attempts().filter(|record| record["verdict"] == "deny").collect();
    for record in &denied {
        let from = record["source"]["service"].as_str().unwrap_or("none");
        assert!(callers.contains(&from), "permitted, and refused: {record}");
    }
    for caller in callers {
        assert!(denied.iter().any(|record| record["source"]["service"] == *caller), "not refused: {caller}");
    }
    assert_eq!(finished.stop["events_lost"], 0, "{}", finished.stop);
    Ok(())
}

fn installed(program: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories =
        std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")]);
    let given = std::iter::once(PathBuf::from(program)).filter(|_| Path::new(program).is_absolute());
    let found = given.chain(directories.map(|directory| directory.join(program))).find(|file| file.is_file());
    found.with_context(|| {
        format!("find program {program}: not installed\nhint: cargo xtask setup --with-tests")
    })
}
