//! The only place that knows aya and bpf(2): maps, programs, links, pins, and what a running datapath needs tending.
//!
//! | file | owns |
//! |---|---|
//! | [`bpf`] | bpf(2) by raw descriptors |
//! | [`cleanup`] | taking all of it away |
//! | [`empty`] | programs that do nothing, to measure against |
//! | [`table`] | a map as a typed table |
//! | [`maps`] | all maps of the datapath: sizes, pins, shapes, memory |
//! | [`load`] | the kernel object: programs on their maps
//! | [`gc`] | the garbage collector |
//! | [`links`] | attachments: pinned, updated, never detached |
//! | [`filters`] | TC programs where there is no TCX |
//! | [`netlink`] | netlink by hand, for what rtnetlink has no types for |
//! | [`devices`] | which devices are served, and the addresses of the node |
//! | [`pins`] | the folder of pins: one agent at a time |
//! | [`ports`] | ports kept out of the host's own use |
//! | [`sock_destroy`] | ending sockets that are connected to a gone endpoint |
//! | [`stats`] | what the programs count, and what the maps cost |
//! | [`relay`] | a program that hands its packet on, to measure with |
//! | [`sweep`] | forgetting what a change has made worthless |
//! | [`upgrade`] | going on from the pins of another version |
//! | [`trace`] | the lines that programs write about packets |
//! | [`writer`] | carrying writes out, reading the tables back |
//! | `primary` | the node's own address where no Node object names it |
//! | [`probe`] | what this kernel and this network namespace are like |
#![expect(unsafe_code, reason = "the boundary to the kernel; each block says why it is sound")]

mod announce;
pub mod bpf;
pub mod cleanup;
pub mod devices;
pub mod empty;
pub mod filters;
pub mod gc;
pub mod heap;
pub mod links;
pub mod load;
pub mod maps;
pub mod netlink;
pub mod pins;
pub mod ports;
mod primary;
pub mod probe;
pub mod relay;
pub mod sock_destroy;
pub mod stats;
pub mod sweep;
pub mod table;
pub mod trace;
pub mod upgrade;
pub mod writer;

pub use links::Links;
pub use load::{Globals, Hook, Object, Programs};
pub use maps::{Maps, Sizes};
pub use writer::Writer;
