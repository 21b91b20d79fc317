//! The user-space program: watches Services and EndpointSlices and keeps the eBPF maps filled.
//!
//! The way of the data is the order of the modules, and nothing points back:
//! [`source`] → [`model`] → [`plan`] → [`apply`] → [`datapath`]. [`engine`] is that line in one value.

pub mod apply;
pub mod cli;
pub mod datapath;
pub mod engine;
pub mod health;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod run;
pub mod source;
