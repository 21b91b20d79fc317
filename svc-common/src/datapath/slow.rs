//! The slow paths, and the steps they consist of: what happens once a connection, or once a second, and not for every
//! packet.
//!
//! Each takes its input from the scratch and leaves its result there. The paths call the steps through [`super::env::Env`],
//! one after another and not one inside the other, so that their stacks do not add up.

pub use super::conntrack::{judge, keep, renew, reserve, take_over};
pub use super::open::{begin, begin_external, choose, complete, complete_external, find, open, read, translate_source};
pub use super::turn::turn;
