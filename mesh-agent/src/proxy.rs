//! Carries connections: accepts them, authenticates both ends, relays the bytes.
//!
//! Knows nothing of how a pod was enrolled; `app` hands it listeners and the pod's facts.

mod classify;
mod contexts;
mod inbound;
mod listener;
mod outbound;
mod relay;
mod upstream;

pub use listener::{PodProxy, Shared};
