//! What the service manager hears of the daemon (`sd_notify(3)`). Where there is none, nobody hears it.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::warn;

/// Says that the daemon does what it is for, and in a word what that is.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that a reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // Both in one message, or systemd takes the reload for failed (`Type=notify-reload`, systemd 253).
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(err) => warn!("read the clock: {err}"),
    }
}

/// Says that the daemon is about to end.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Says that the loop still turns.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        warn!("tell the service manager: {err}");
    }
}

/// When to say that the daemon is [`alive`].
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// Twice as often as the service manager expects it; never, if it does not.
    pub fn from_environment() -> Self {
        Self(sd_notify::watchdog_enabled().map(|patience| {
            let mut interval = interval((patience / 2).max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until it is time.
    pub async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
