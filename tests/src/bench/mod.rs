//! What `cargo xtask bench` measures and how it reports it.

pub mod budget;
pub mod nft;
pub mod report;
