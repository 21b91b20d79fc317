//! Packets as a person would write them, and the real programs to put them through.

mod frame;
mod node;

pub use frame::{Frame, Kind, Seen};
pub use node::{Ended, Node};
