//! How much of something a test does.

/// How often or how long: `usual`, or what the environment's `variable` asks for, as the long forms do.
///
/// # Panics
///
/// It is not a number: going on would show less than was asked for.
pub fn of(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |told| match told.parse() {
        Ok(number) => number,
        Err(_) => panic!("{variable} is {told:?}, not a number"),
    })
}
