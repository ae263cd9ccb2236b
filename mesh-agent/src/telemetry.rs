//! What operators see: logs, metrics, and one access line a connection.
//!
//! Emitters only; what is worth telling is decided by the callers.

pub mod access;
pub mod log;
pub mod metrics;

pub use access::{ConnectionSummary, Direction, End, Tls};
pub use metrics::Metrics;
