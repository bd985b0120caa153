//! A timer of the kernel's own, that wakes the process when it is due and at no other time.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Something that is due again and again. The runtime's own timers wake it up to four times for each time they are due, to
/// move what is far away into finer slots.
pub struct Timer {
    timer: TimerFd,
    readable: AsyncFd<OwnedFd>,
    first: Duration,
    period: Duration,
    is_running: bool,
}

impl Timer {
    /// A timer that is due this long after it was started, and then with this period. It does not run yet.
    ///
    /// # Errors
    ///
    /// The process has no descriptor left.
    pub fn every(first: Duration, period: Duration) -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let own = timer.as_fd().try_clone_to_owned()?;
        #[expect(
            deprecated,
            reason = "its unsafe successor asks for an owned descriptor, which this is by its type"
        )]
        let readable = AsyncFd::with_interest(own, Interest::READABLE)?;
        Ok(Self { timer, readable, first, period, is_running: false })
    }

    /// Has it run, or stand still.
    ///
    /// # Errors
    ///
    /// The kernel does not take it.
    pub fn run(&mut self, is_to_run: bool) -> io::Result<()> {
        if is_to_run == self.is_running {
            return Ok(());
        }
        if is_to_run {
            // A timer that is due after no time at all does not run.
            let first = TimeSpec::from_duration(self.first.max(Duration::from_nanos(1)));
            let period = TimeSpec::from_duration(self.period);
            self.timer.set(Expiration::IntervalDelayed(first, period), TimerSetTimeFlags::empty())?;
        } else {
            self.timer.unset()?;
        }
        self.is_running = is_to_run;
        Ok(())
    }

    /// Waits until it is due, once however often it was meanwhile; for ever while it stands still.
    ///
    /// # Errors
    ///
    /// The runtime ends.
    pub async fn tick(&self) -> io::Result<()> {
        loop {
            self.readable.readable().await?.clear_ready();
            match self.timer.wait() {
                Ok(()) => return Ok(()),
                // It was stopped, or somebody has seen it.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Timer;

    #[test]
    fn it_is_due_at_its_times_and_not_while_it_stands_still() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let period = Duration::from_millis(20);
            let mut timer = Timer::every(Duration::ZERO, period).expect("a descriptor");
            let is_due =
                async |timer: &Timer, within| tokio::time::timeout(within, timer.tick()).await.is_ok();
            assert!(!is_due(&timer, 3 * period).await, "it was not started");
            let start = Instant::now();
            timer.run(true).expect("it runs");
            timer.tick().await.expect("due at once");
            timer.tick().await.expect("due after a period");
            assert!(start.elapsed() >= period, "{:?}", start.elapsed());
            timer.run(false).expect("it stops");
            assert!(!is_due(&timer, 3 * period).await, "it was stopped");
        });
    }
}
