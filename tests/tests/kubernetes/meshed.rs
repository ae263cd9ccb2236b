//! The mesh on a cluster, which the demo has too.

pub(crate) use mesh_tests::cluster::{Meshed, logs, manifests};
