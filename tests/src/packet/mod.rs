//! Packets as a person would write them, and the real programs to put them through.

pub mod cast;
pub mod errors;
mod frame;
mod icmp;
mod node;
mod pieces;
mod wires;

pub use frame::{Frame, Kind, Seen};
pub use icmp::{quoted, too_big};
pub use node::{Ended, HOOKS, Node};
pub use pieces::together;
pub use wires::{GATEWAY_MAC, NODE_MAC, OTHER_MAC, Wires};
