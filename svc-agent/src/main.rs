//! The agent of one node: `svc-agent --help`.

fn main() {}
