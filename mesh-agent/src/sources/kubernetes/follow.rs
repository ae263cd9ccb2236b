//! Follows one kind of objects: a list, then a watch with bookmarks; again from the list after 410 Gone. Errors back off
//! with jitter; the last state stands meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::core::Resource;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::read;
use crate::model::cluster::ObjectName;

/// Objects a page of the first list: bounds what is in memory at once.
const PAGE: u32 = 250;

/// How long after its last failure a watch counts as failing: the longest pause between two tries (30 s), and more.
const CALM: Duration = Duration::from_secs(45);

/// Which watches fail. Clones share.
#[derive(Clone, Debug, Default)]
pub(super) struct Health(Arc<Mutex<HashMap<&'static str, Instant>>>);

impl Health {
    /// Whether all watches work, as far as can be told: one that works says nothing while there are no news.
    pub(super) fn is_good(&self) -> bool {
        self.lock().values().all(|failed| failed.elapsed() >= CALM)
    }

    fn failed(&self, what: &'static str) {
        self.lock().insert(what, Instant::now());
    }

    fn works(&self, what: &'static str) {
        self.lock().remove(what);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<&'static str, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// News of one kind.
#[derive(Debug)]
pub(super) enum News<T> {
    /// All that there is.
    All(Vec<(ObjectName, T)>),
    /// One is new or has changed.
    Set(ObjectName, T),
    /// One is gone.
    Gone(ObjectName),
}

/// Sends the news of `api` through `wrap`, for ever; `read` keeps what we want of an object.
pub(super) async fn follow<K, T, W>(
    api: Api<K>,
    what: &'static str,
    read: impl Fn(&K) -> Option<T>,
    wrap: impl Fn(News<T>) -> W,
    sender: mpsc::Sender<W>,
    health: Health,
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().page_size(PAGE);
    let mut events = std::pin::pin!(watch(api, config).default_backoff());
    let (mut listed, mut failing) = (Vec::new(), false);
    while let Some(event) = events.next().await {
        let (name, news) = match event {
            Ok(Event::Init) => {
                listed = Vec::new();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.extend(read::name(object.meta()).zip(read(&object)));
                continue;
            }
            Ok(Event::InitDone) => (None, News::All(std::mem::take(&mut listed))),
            Ok(Event::Apply(object)) => match (read::name(object.meta()), read(&object)) {
                (Some(name), Some(kept)) => (Some(object.name_any()), News::Set(name, kept)),
                (Some(name), None) => (Some(object.name_any()), News::Gone(name)),
                (None, _) => continue,
            },
            Ok(Event::Delete(object)) => match read::name(object.meta()) {
                Some(name) => (Some(object.name_any()), News::Gone(name)),
                None => continue,
            },
            Err(error) => {
                health.failed(what);
                if !std::mem::replace(&mut failing, true) {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(what, error, "the Kubernetes API can't be watched; what is known stands");
                }
                continue;
            }
        };
        if std::mem::take(&mut failing) {
            health.works(what);
            tracing::info!(what, name, "the Kubernetes API is watched again");
        }
        if sender.send(wrap(news)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_failed_is_trusted_again_when_it_tells_news_or_after_a_while() {
        let health = Health::default();
        assert!(health.is_good());
        health.failed("Pod");
        health.failed("Node");
        health.works("Pod");
        assert!(!health.is_good());
        advance(CALM).await;
        assert!(health.is_good());
    }
}
