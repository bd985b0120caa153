//! The verbs of the developer.
fn main() {}
