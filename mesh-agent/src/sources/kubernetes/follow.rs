//! Follows one kind of objects: a list, then a watch with bookmarks; again from the list after 410 Gone. Errors back off
//! with jitter; the last state stands meanwhile.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::serde::de::DeserializeOwned;
use kube::api::ListParams;
use kube::core::Resource;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::health::{Health, LATEST};
use super::read;
use crate::model::cluster::ObjectName;

/// Objects a page of the first list: bounds what is in memory at once.
const PAGE: u32 = 250;

/// How often an API server is asked again for a kind that it hasn't served: it may have been replaced by a newer one.
const ASK_AGAIN: Duration = Duration::from_secs(300);
/// The same after no answer at all.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The pauses of client-go, but none longer than [`LATEST`]; with jitter.
#[derive(Default)]
struct Pauses(DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0.next()?;
        // What is cut off is the jitter of what is left.
        let jitter = Duration::from_millis(u64::from(pause.subsec_millis()) * 5);
        Some(if pause <= LATEST { pause } else { LATEST.saturating_sub(jitter) })
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
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
    let mut events = std::pin::pin!(watch(api, config).backoff(Pauses::default()));
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

/// The same for a kind that older API servers don't have, or older roles don't let us see: there is none of it then.
pub(super) async fn follow_if_served<K, T, W>(
    api: Api<K>,
    what: &'static str,
    read: impl Fn(&K) -> Option<T>,
    wrap: impl Fn(News<T>) -> W,
    sender: mpsc::Sender<W>,
    health: Health,
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let mut told = false;
    loop {
        let wait = match api.list(&ListParams::default().limit(1)).await {
            Ok(_) => return follow(api, what, read, wrap, sender, health).await,
            Err(kube::Error::Api(status)) if [403, 404].contains(&status.code) => {
                if !std::mem::replace(&mut told, true) {
                    let reason = &status.message;
                    tracing::warn!(
                        what,
                        reason,
                        "the Kubernetes API doesn't show this kind: only known Services are diverted"
                    );
                    if sender.send(wrap(News::All(Vec::new()))).await.is_err() {
                        return;
                    }
                }
                ASK_AGAIN
            }
            Err(_) => TRY_AGAIN,
        };
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::StatusCode;
    use k8s_openapi::api::networking::v1::ServiceCIDR;
    use kube::Client;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// What an API server gives that answers these statuses one after another, and the last one for ever.
    async fn first_news(statuses: &'static [u16]) -> Vec<ObjectName> {
        let asked = Arc::new(AtomicUsize::new(0));
        let answer = async move || {
            let status = statuses[asked.fetch_add(1, Ordering::Relaxed).min(statuses.len() - 1)];
            let what = if status == 200 {
                r#"{"metadata":{"resourceVersion":"1"},"items":[{"metadata":{"name":"kubernetes"}}]}"#.to_owned()
            } else {
                format!(r#"{{"kind":"Status","status":"Failure","code":{status},"message":"no","reason":"no"}}"#)
            };
            (StatusCode::from_u16(status).unwrap(), what)
        };
        let client = Client::new(Router::new().fallback(answer), "default");
        let (sender, mut receiver) = mpsc::channel(1);
        let following = follow_if_served(
            Api::<ServiceCIDR>::all(client),
            "it",
            |_| Some(()),
            |news| news,
            sender,
            Health::default(),
        );
        tokio::select! {
            () = following => unreachable!("it follows for ever"),
            news = receiver.recv() => match news {
                Some(News::All(all)) => all.into_iter().map(|(name, ())| name).collect(),
                other => panic!("{other:?}"),
            },
        }
    }

    #[test]
    fn no_pause_is_longer_than_the_latest_and_few_are_alike() {
        let pauses: Vec<_> = Pauses::default().take(40).collect();
        assert!(pauses[0] < Duration::from_secs(2) && pauses.iter().all(|pause| *pause <= LATEST), "{pauses:?}");
        let distinct: std::collections::BTreeSet<_> = pauses[10..].iter().collect();
        assert!(distinct.len() > 10, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_an_api_server_does_not_show_has_no_objects() {
        for without in [&[404][..], &[403], &[500, 503, 404]] {
            assert_eq!(first_news(without).await, [], "{without:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_fails_is_asked_again() {
        let names: Vec<_> = first_news(&[500, 503, 200]).await.into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["kubernetes"]);
    }
}
