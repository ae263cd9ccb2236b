//! Carries connections: accepts them, authenticates both ends, relays the bytes.
//!
//! Knows nothing of how a pod was enrolled; `app` hands it listeners and the pod's facts.

mod admission;
mod carry;
pub mod classify;
mod contexts;
mod drain;
mod gate;
mod inbound;
mod listed;
mod listener;
mod live;
mod outbound;
mod rego;
mod relay;
mod silence;
mod socket;
mod standing;
mod upstream;

pub use drain::Drain;
pub use listener::{PodProxy, Shared};
pub use live::{Live, LiveConnections};
