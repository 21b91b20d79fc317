//! Everything a person types: `cargo xtask --help`.

fn main() {}
