//! A naive model of the specification: objects and a packet in, what has to happen to the packet out.
//!
//! It was written from the tables of the specification, not from the planner, and shares nothing with it: no type, no
//! parser, no index. It walks all objects for every question, so that each rule is one visible line. Speed is no aim.
//!
//! | room | owns |
//! |---|---|
//! | [`object`] | the objects as a cluster would have them, and how they are written as manifests |
//! | [`prefix`] | address prefixes and the node-port address list |
//! | [`rules`] | the specification: frontends, sets, policies, verdict of one first packet |
//! | [`session`] | what lasts from one packet to the next: connections, affinity |
//! | [`examples`] | the lines of the tables, written out by hand |
//! | [`generate`] | random clusters, changes and questions from a seed |
//! | [`differential`] | the same history put to `svc-agent explain` and to the model |
//! | [`shrink`] | a history that shows a difference made small |

pub mod differential;
pub mod examples;
pub mod generate;
pub mod object;
pub mod prefix;
pub mod rules;
pub mod session;
pub mod shrink;
