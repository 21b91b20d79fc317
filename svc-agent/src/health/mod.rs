//! What others ask the agent about itself over HTTP, and what it tells the cluster: reads from the line, never steers it.
//!
//! | file | owns |
//! |---|---|
//! | [`status`] | how the agent is, shared by all who answer |
//! | [`probes`] | `/healthz`, `/livez` and `/readyz` on the health port |
//! | [`node_ports`] | `healthCheckNodePort`: a listener per Service that has one |
//! | [`events`] | what is told as Events on objects |
//! | [`web`] | listeners and connections |

pub mod events;
pub mod node_ports;
pub mod probes;
pub mod status;
#[cfg(test)]
pub(crate) mod tests;
pub mod web;

pub use events::Events;
pub use probes::Probes;
pub use status::Status;
