//! Everything that may wake the daemon, and the order in which it is looked at.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::Daemon;
use super::policy::Parsed;
use super::tree::TreeRead;
use super::upkeep::Surveyed;
use crate::connections::Sweeper;
use crate::connections::sweep::Report;
use crate::containers::lookup::Word;
use crate::control::Request;
use crate::existing::Bound;
use crate::kernel::MapError;
use crate::notify::{self, Watchdog};
use crate::timer::Timer;

/// How long events are left to gather after some were read. A program wakes the reader of a ring that was read to its end,
/// by an interrupt that costs the caller more than the rest of the event, so this bounds how often one does.
const EVENTS_GATHER: Duration = Duration::from_millis(10);

/// How often the next daemon can tell from the ledger that this one was alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long a change of the network that nobody told of stays unseen.
pub(super) const TICK: Duration = Duration::from_secs(10);

/// Everything that may wake the daemon.
pub(super) enum Input {
    Events,
    KernelLog,
    Cgroups,
    Network,
    Surveyed(Box<Surveyed>),
    TreeRead(Box<TreeRead>),
    TablesRead(u32, Result<(), MapError>),
    Bound(Vec<Bound>),
    Container(Box<Word>),
    Tick,
    Heartbeat,
    Connections(Report),
    Reload,
    Parsed(Box<Parsed>),
    PolicyFiles,
    PolicySettled,
    Reopen,
    Control(Request),
    Unconfirmed,
    Watchdog,
    Stop,
}

/// The file descriptors and signals that [`Input`] comes from.
pub(super) struct Inputs {
    events: AsyncFd<OwnedFd>,
    /// When events are looked for again, after some were read.
    events_from: Instant,
    kernel_log: Option<AsyncFd<OwnedFd>>,
    cgroups: Option<AsyncFd<OwnedFd>>,
    network: AsyncFd<OwnedFd>,
    files: Option<AsyncFd<OwnedFd>>,
    reports: mpsc::Receiver<Input>,
    answers: mpsc::Receiver<Word>,
    ticks: Timer,
    pub(super) heartbeat: Timer,
    requests: Option<mpsc::Receiver<Request>>,
    signals: Signals,
    watchdog: Watchdog,
}

/// The signals that are taken for requests.
pub(super) struct Signals {
    hangup: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn catch() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("wait for signals");
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            reopen: on(SignalKind::user_defined1())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }
}

impl Signals {
    /// Waits, with nothing to do, until a signal asks for another try to start, or for the end.
    pub(super) async fn ask_for_another_try(&mut self, watchdog: &mut Watchdog) -> bool {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return false,
                _ = self.interrupt.recv() => return false,
                _ = self.hangup.recv() => return true,
                // There is no log that is written to.
                _ = self.reopen.recv() => {}
                () = watchdog.due() => notify::alive(),
            }
        }
    }
}

impl Inputs {
    pub(super) fn new(
        daemon: &mut Daemon,
        signals: Signals,
        reports: mpsc::Receiver<Input>,
        answers: mpsc::Receiver<Word>,
        watchdog: Watchdog,
    ) -> anyhow::Result<Self> {
        let (mut ticks, heartbeat) =
            (Timer::every(Duration::ZERO, TICK)?, Timer::every(HEARTBEAT, HEARTBEAT)?);
        ticks.run(true)?;
        Ok(Self {
            events: readable(daemon.enforcement.events_fd())?,
            events_from: Instant::now(),
            kernel_log: daemon.enforcement.log_fd().map(readable).transpose()?,
            cgroups: daemon.watch.as_ref().map(|watch| readable(watch.fd())).transpose()?,
            network: readable(daemon.news.fd())?,
            files: daemon.files.as_ref().map(|files| readable(files.fd())).transpose()?,
            reports,
            answers,
            ticks,
            heartbeat,
            requests: daemon.requests.take(),
            signals,
            watchdog,
        })
    }

    /// The next input; with `more_events`, events if there is nothing else.
    pub(super) async fn next(
        &mut self,
        more_events: bool,
        confirm_by: Option<Instant>,
        settled_at: Option<Instant>,
        sweeper: &mut Sweeper,
    ) -> anyhow::Result<Input> {
        // Cgroups come before events, so that events find the names of what they are about.
        let input = tokio::select! {
            biased;
            _ = self.signals.terminate.recv() => Input::Stop,
            _ = self.signals.interrupt.recv() => Input::Stop,
            () = self.watchdog.due() => Input::Watchdog,
            ready = if_ready(self.cgroups.as_ref()) => { ready?; Input::Cgroups }
            ready = self.network.readable() => { ready?.clear_ready(); Input::Network }
            // The daemon holds a sender for as long as it lives, so there is always one to come.
            report = self.reports.recv() => report.unwrap_or(Input::Tick),
            answer = self.answers.recv() => match answer {
                Some(word) => Input::Container(Box::new(word)),
                // Likewise.
                None => Input::Tick,
            },
            ticked = self.ticks.tick() => { ticked?; Input::Tick }
            _ = self.signals.hangup.recv() => Input::Reload,
            ready = if_ready(self.files.as_ref()) => { ready?; Input::PolicyFiles }
            () = moment(settled_at) => Input::PolicySettled,
            _ = self.signals.reopen.recv() => Input::Reopen,
            () = moment(confirm_by) => Input::Unconfirmed,
            request = next_request(&mut self.requests) => Input::Control(request),
            Some(report) = sweeper.report() => Input::Connections(report),
            ready = readable_from(self.events_from, &self.events) => {
                ready?;
                self.events_from = Instant::now() + EVENTS_GATHER;
                Input::Events
            }
            ready = if_ready(self.kernel_log.as_ref()) => { ready?; Input::KernelLog }
            ticked = self.heartbeat.tick() => { ticked?; Input::Heartbeat }
            // Through the runtime, which looks at clocks and descriptors only when nothing is ready in here.
            () = tokio::task::yield_now(), if more_events => Input::Events,
        };
        Ok(input)
    }
}

/// Waits for a descriptor through one of its own, which no one else can close.
#[expect(deprecated, reason = "its unsafe successor asks for an owned descriptor, which this is by its type")]
fn readable(fd: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd.try_clone_to_owned()?, Interest::READABLE)
}

/// Waits for a moment, and then for a descriptor.
async fn readable_from(moment: Instant, fd: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
    tokio::time::sleep_until(moment.into()).await;
    fd.readable().await?.clear_ready();
    Ok(())
}

/// Waits for a descriptor, for ever if there is none.
async fn if_ready(fd: Option<&AsyncFd<OwnedFd>>) -> std::io::Result<()> {
    match fd {
        Some(fd) => {
            fd.readable().await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

/// Waits for a moment, for ever if there is none.
pub(super) async fn moment(moment: Option<Instant>) {
    let Some(moment) = moment else { return std::future::pending().await };
    tokio::time::sleep_until(moment.into()).await;
}

/// Waits for a request of the control socket, for ever if there is none.
async fn next_request(requests: &mut Option<mpsc::Receiver<Request>>) -> Request {
    if let Some(receiver) = requests {
        match receiver.recv().await {
            Some(request) => return request,
            // The control socket has gone, so nobody asks any more.
            None => *requests = None,
        }
    }
    std::future::pending().await
}
