//! What a TLS session promises, whichever way its records are protected and whoever the other end is.
//!
//! Tests named after `kernel` need a kernel with TLS and show as ignored elsewhere; `cargo xtask test vm` runs them.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "what the tests share may fail them, too")]

mod ends;
mod peer;

mod carry;
mod hostile;
mod limits;
mod resume;
mod splits;

/// Makes a test for each pairing of two ends.
macro_rules! pairings {
    ($($name:ident)*) => { $(mod $name {
        use crate::ends::Path::{Kernel, Userspace};

        #[tokio::test]
        async fn userspace_to_userspace() {
            super::$name(Userspace, Userspace).await;
        }

        #[tokio::test]
        #[ignore = "needs a kernel with TLS: cargo xtask test vm"]
        async fn kernel_to_kernel() {
            super::$name(Kernel, Kernel).await;
        }

        #[tokio::test]
        #[ignore = "needs a kernel with TLS: cargo xtask test vm"]
        async fn kernel_to_userspace() {
            super::$name(Kernel, Userspace).await;
        }

        #[tokio::test]
        #[ignore = "needs a kernel with TLS: cargo xtask test vm"]
        async fn userspace_to_kernel() {
            super::$name(Userspace, Kernel).await;
        }
    })* };
}

/// Makes a test for each way of one end.
macro_rules! paths {
    ($($name:ident)*) => { $(mod $name {
        use crate::ends::Path::{Kernel, Userspace};

        #[tokio::test]
        async fn in_userspace() {
            super::$name(Userspace).await;
        }

        #[tokio::test]
        #[ignore = "needs a kernel with TLS: cargo xtask test vm"]
        async fn in_the_kernel() {
            super::$name(Kernel).await;
        }
    })* };
}

use {pairings, paths};
