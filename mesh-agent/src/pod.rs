//! Makes this node's workloads part of the mesh, and takes them out again.

mod enrol;
mod manager;
mod numbers;

pub use enrol::{Enrolled, PodError};
pub use manager::{PodManager, Readiness};
