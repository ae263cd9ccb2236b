//! Who may ask for a review now: anybody can call, and each review is work for somebody else.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reviews at once; more wait.
const AT_ONCE: usize = 8;
/// From one address, those that wait included; more are sent away.
const OF_ONE: usize = 2;

/// The turns.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    _source: Source,
    _permit: OwnedSemaphorePermit,
}

struct Source {
    address: IpAddr,
    sources: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.address);
            }
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(AT_ONCE)), sources: Arc::default() }
    }
}

impl Turns {
    /// Waits for a turn; `None`: this address has enough.
    pub(super) async fn take(&self, address: IpAddr) -> Option<Turn> {
        let address = address.to_canonical();
        {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            let count = sources.entry(address).or_default();
            if *count >= OF_ONE {
                return None;
            }
            *count += 1;
        }
        let source = Source { address, sources: Arc::clone(&self.sources) };
        // Never closed.
        let permit = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _source: source, _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_address_has_few_turns_and_all_together_have_not_many() {
        let turns = Turns::default();
        let take = |text: &str| turns.take(text.parse().unwrap()).now_or_never();
        let mut taken = Vec::new();
        for host in 0..AT_ONCE / OF_ONE {
            for _ in 0..OF_ONE {
                taken.push(take(&format!("10.0.0.{host}")).unwrap().unwrap());
            }
            assert!(take(&format!("::ffff:10.0.0.{host}")).unwrap().is_none(), "the same host, written otherwise");
        }
        assert!(take("10.0.1.1").is_none(), "it waits");
        taken.pop();
        drop(take("10.0.1.1").unwrap().unwrap());
        taken.clear();
        assert!(turns.sources.lock().unwrap().is_empty(), "who waited no longer and who is done are forgotten");
    }
}
