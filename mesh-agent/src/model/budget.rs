//! How many connections a node may carry, by its file descriptors: nothing may use up what others need.

/// Descriptors kept for everything that is no connection: listeners, namespaces, maps, the admin endpoint.
const RESERVED: u64 = 1024;

/// A relayed connection is two sockets.
const PER_CONNECTION: u64 = 2;

/// More unauthenticated connections than this would only cost memory: a handshake takes milliseconds.
const MAX_UNAUTHENTICATED: usize = 16 * 1024;

/// Upper bounds of connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Budget {
    /// Of the node.
    pub node: usize,
    /// Of one pod.
    pub pod: usize,
    /// Of those, connections whose peer is not authenticated yet.
    pub unauthenticated: Unauthenticated,
}

/// Upper bounds of connections whose peer is not authenticated yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unauthenticated {
    /// Of the node.
    pub node: usize,
    /// To one pod.
    pub pod: usize,
    /// From one source to one pod.
    pub source: usize,
}

impl Budget {
    /// Divides up `descriptors`: each level leaves half of its own to others.
    pub fn of_descriptors(descriptors: u64) -> Self {
        let connections = descriptors.saturating_sub(RESERVED) / PER_CONNECTION;
        // Even a node with hardly any descriptors tries; accept() then says what is missing.
        let node = usize::try_from(connections).unwrap_or(usize::MAX).clamp(16, MAX_PERMITS);
        let unauthenticated = (node / 2).min(MAX_UNAUTHENTICATED);
        Self {
            node,
            pod: node / 2,
            unauthenticated: Unauthenticated {
                node: unauthenticated,
                pod: unauthenticated / 2,
                source: unauthenticated / 4,
            },
        }
    }
}

/// More than any node has; a semaphore's limit is beyond.
const MAX_PERMITS: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_leaves_half_to_others() {
        let unauthenticated = Unauthenticated { node: 4744, pod: 2372, source: 1186 };
        assert_eq!(Budget::of_descriptors(20_000), Budget { node: 9488, pod: 4744, unauthenticated });
        let unauthenticated = Unauthenticated { node: 16_384, pod: 8192, source: 4096 };
        assert_eq!(Budget::of_descriptors(1 << 20).unauthenticated, unauthenticated);
    }

    #[test]
    fn the_extremes_are_sane() {
        for descriptors in [0, 64, 1024, u64::MAX] {
            let budget = Budget::of_descriptors(descriptors);
            assert!(budget.unauthenticated.source >= 2 && budget.pod < budget.node, "{descriptors}: {budget:?}");
        }
    }
}
