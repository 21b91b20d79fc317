//! The lab: nodes and pods as network namespaces, and every test that crosses a crate.
//!
//! [`lab`] lays out a small cluster on this machine and takes it away again; [`traffic`] holds the servers and clients
//! that the tests run inside it. [`cluster`] adds a real Kubernetes control plane. [`model`] is the naive model of the specification that the programs are compared with,
//! [`packet`] writes packets and puts them through the programs, [`bench`] the budgets and what is measured against.

pub mod bench;
pub mod checker;
pub mod cluster;
pub mod fake;
pub mod lab;
pub mod model;
pub mod packet;
pub mod traffic;
