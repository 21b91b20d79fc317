//! The lab: nodes and pods as network namespaces, and every test that crosses a crate.

pub mod bench;
pub mod model;
