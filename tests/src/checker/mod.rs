//! Model checking of the datapath's concurrent code, as it is.
//!
//! Nothing is translated into another language: [`replay`] runs the functions of `svc_common::datapath` themselves and
//! stops them after each access to a shared map, so that a model checker can try every order in which the accesses of
//! several CPUs, the garbage collector, eviction and the agent can fall.
//!
//! | room | owns |
//! |---|---|
//! | [`memory`] | a flow map with the slots of the kernel's: what is deleted can still be read through an old pointer |
//! | [`replay`] | one access at a time: surroundings that can be stopped and continued |
//! | [`updates`] | the agent's writes against a packet that reads: no packet finds half a service |
//! | [`protocol`] | the life of one flow: packets, collector, eviction, sweep; what must hold |

pub mod memory;
pub mod protocol;
pub mod replay;
pub mod updates;
