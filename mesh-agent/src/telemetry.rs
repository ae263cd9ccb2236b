//! What operators see: logs, metrics, and one access line a connection.
//!
//! Emitters only; what is worth telling is decided by the callers.

pub mod access;
pub mod audit;
mod chain;
pub mod exposition;
pub mod log;
pub mod metrics;
mod moment;

pub use access::{ConnectionSummary, Direction, End, Refusal, Tls};
pub use chain::chain;
pub use metrics::Metrics;
pub use moment::moment;
