//! What `cargo xtask bench` measures and how it reports it.

pub mod budget;
pub mod control;
pub mod e2e;
pub mod live;
pub mod load;
pub mod nft;
pub mod programs;
pub mod report;
pub mod scale;
