//! How much longer everything may take where programs run in an emulated machine or beside others.

use std::sync::LazyLock;
use std::time::Duration;

/// The variable that holds how many times slower than usual this machine is, 1 to 1000: an emulated one is 15 to 20.
pub const VARIABLE: &str = "ENFORCER_TEST_SLOWNESS";

static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let told = std::env::var(VARIABLE).ok();
    told.map_or(1, |told| match told.parse() {
        Ok(times @ 1..=1000) => times,
        // Going on would let tests fail for a reason that nobody sees.
        Ok(_) | Err(_) => panic!("{VARIABLE} is {told:?}, not a number from 1 to 1000"),
    })
});

/// A time-out for this machine, from what it is on a usual one.
pub fn patience(usual: Duration) -> Duration {
    usual * *SLOWNESS
}

/// The variable that is set where one test runs at a time and nothing else does.
pub const ALONE: &str = "ENFORCER_TEST_ALONE";

/// Whether times on the wall may be judged: beside other tests and builds they are only told.
pub fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}
