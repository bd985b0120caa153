//! A daemon whose audit log is a file, so that it can be killed, outlived and followed by another one.

use std::io::{self, BufRead as _, BufReader};
use std::process::{ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::{Killed, Sandbox};
use crate::slowness::patience;

/// How long a daemon may take to get ready or to end. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(120);

/// A daemon whose audit log is a file; killed when it is dropped.
pub struct Run {
    /// The process.
    pub child: Killed,
    stderr: Option<BufReader<ChildStderr>>,
    /// What it has said so far.
    pub words: String,
    started: Instant,
    /// How long it took to enforce.
    pub ready_in: Duration,
}

impl Run {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn(sandbox: &Sandbox, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = sandbox.spawn(command)?;
        let stderr = child.stderr.take().map(BufReader::new);
        Ok(Self { child: Killed(child), stderr, words: String::new(), started, ready_in: Duration::ZERO })
    }

    /// Waits until it enforces.
    ///
    /// # Errors
    ///
    /// It ends before that.
    pub fn ready(mut self) -> anyhow::Result<Self> {
        self.read_until(" enforcing")?;
        self.ready_in = self.started.elapsed();
        Ok(self)
    }

    /// Has what it says from now on read and thrown away, so that it never waits for a reader.
    pub fn unheard(mut self) -> Self {
        if let Some(mut stderr) = self.stderr.take() {
            thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        }
        self
    }

    /// Reads what it says up to a line with these words.
    ///
    /// # Errors
    ///
    /// It ends before that.
    pub fn read_until(&mut self, words: &str) -> anyhow::Result<()> {
        let stderr = self.stderr.as_mut().context("a daemon without words")?;
        loop {
            let mut line = String::new();
            if stderr.read_line(&mut line)? == 0 {
                bail!("wait for `{words}`: the daemon has ended; it said:\n{}", self.words);
            }
            self.words += &line;
            if line.contains(words) {
                return Ok(());
            }
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.0.id())?), signal)?)
    }

    /// Ends it by a signal, and returns whether it ended well.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn end(self, signal: Signal) -> anyhow::Result<bool> {
        self.signal(signal)?;
        Ok(self.wait()?.success())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    ///
    /// It goes on.
    pub fn wait(mut self) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.0.try_wait()? {
                return Ok(status);
            }
            ensure!(
                start.elapsed() < patience(DEADLINE),
                "end the daemon: it goes on; it said:\n{}",
                self.words
            );
            thread::yield_now();
        }
    }
}
