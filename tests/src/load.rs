//! Calls to two ports of a service, one after the other, as fast as they go, from a process of their own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};

use crate::actor::{Request, Tally};
use crate::sandbox::Actor;
use crate::slowness::patience;

/// How long the load may stand still. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Calls to each port at a time.
const ROUNDS: u64 = 10;

/// What the calls are to come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// Those to the first port are answered, those to the second refused.
    Steady,
    /// Each is answered or refused, or was permitted by the policy before and is closed or dropped by the next.
    Changing,
}

/// The load, while it goes on.
pub struct Load {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    thread: JoinHandle<Result<Sum, String>>,
    /// Why it has ended, if it has.
    why: Arc<OnceLock<String>>,
}

/// What came of it.
pub struct Sum {
    /// The caller.
    pub caller: Actor,
    /// Calls that were answered.
    pub answered: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Calls whose connections were closed before the answer.
    pub cut: u64,
    /// Calls that were permitted, and whose packets were not.
    pub dropped: u64,
    /// For how long.
    pub took: Duration,
}

impl Sum {
    /// Calls of either kind in a second.
    pub fn rate(&self) -> u64 {
        let millis = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX).max(1);
        (self.answered + self.refused + self.cut) * 1000 / millis
    }
}

impl Load {
    /// Begins. A call that ends otherwise than expected ends the load with an error.
    pub fn new(caller: Actor, ports: [SocketAddr; 2], expected: Expected) -> Self {
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&refused));
        let why = Arc::new(OnceLock::new());
        let told = Arc::clone(&why);
        let work = move || -> anyhow::Result<Sum> {
            let start = Instant::now();
            let mut sum = Sum { caller, answered: 0, refused: 0, cut: 0, dropped: 0, took: Duration::ZERO };
            let request = Request::Volley { to: ports.to_vec(), rounds: ROUNDS };
            while !stopped.load(Ordering::Relaxed) {
                let reply = sum.caller.ask(&request)?;
                let tallies: Vec<Tally> = serde_json::from_str(&reply.text)?;
                for (number, tally) in tallies.iter().enumerate() {
                    let is_right = match expected {
                        Expected::Steady if number == 0 => tally.answered == ROUNDS,
                        Expected::Steady => tally.refused == ROUNDS,
                        Expected::Changing => {
                            tally.answered + tally.refused + tally.cut + tally.dropped == ROUNDS
                        }
                    };
                    let so_far = sum.answered;
                    ensure!(is_right, "port {number}, after {so_far} answers: {tally:?} of {ROUNDS}");
                    sum.answered += tally.answered;
                    sum.refused += tally.refused;
                    sum.cut += tally.cut;
                    sum.dropped += tally.dropped;
                }
                counted.store(sum.refused, Ordering::Relaxed);
            }
            sum.took = start.elapsed();
            Ok(sum)
        };
        let thread =
            thread::spawn(move || work().map_err(|err| told.get_or_init(|| format!("{err:#}")).clone()));
        Self { stop, refused, thread, why }
    }

    /// Waits until so many more calls have been refused.
    ///
    /// # Errors
    ///
    /// The load has ended, or stands still.
    pub fn wait_for(&self, more: u64) -> anyhow::Result<()> {
        let refused = || self.refused.load(Ordering::Relaxed);
        let (start, first) = (Instant::now(), refused());
        while refused() < first + more {
            if let Some(why) = self.why.get() {
                bail!("the load has ended: {why}");
            }
            ensure!(start.elapsed() < patience(DEADLINE), "the load does not go on");
            thread::yield_now();
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// A call did not end as expected.
    pub fn end(self) -> anyhow::Result<Sum> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_panic| anyhow!("the load panicked"))?.map_err(anyhow::Error::msg)
    }
}
