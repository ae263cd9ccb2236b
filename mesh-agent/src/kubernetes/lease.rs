//! Who of several replicas does what only one should: a Lease, as Kubernetes' own components hold theirs.
//!
//! Clocks of different machines are never compared. A Lease is another's for as long as this process has seen it change within
//! the Lease's duration, by its own clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;

use super::{Kubernetes, KubernetesError, api, is_conflict, is_missing};

/// A Lease as it was seen, and since when it has been like that.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

impl Seen {
    /// After another look.
    fn again(before: Option<Self>, spec: LeaseSpec, now: Instant) -> Self {
        match before {
            Some(before) if before.spec == spec => before,
            _ => Self { spec, since: now },
        }
    }

    /// Whether somebody else than `holder` has it, who then renews it within `duration`, if it doesn't say otherwise.
    fn is_anothers(&self, holder: &str, duration: Duration, now: Instant) -> bool {
        let said = self.spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = said.map_or(duration, Duration::from_secs);
        let another = self.spec.holder_identity.as_deref().is_some_and(|of| !of.is_empty() && of != holder);
        another && now.duration_since(self.since) < lasts
    }
}

/// The Lease as `holder` takes or renews it.
fn taken(held: Option<Lease>, holder: &str, duration: Duration, now: Timestamp) -> Lease {
    let held = held.unwrap_or_default();
    let spec = held.spec.unwrap_or_default();
    let is_ours = spec.holder_identity.as_deref() == Some(holder);
    Lease {
        metadata: held.metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
            acquire_time: if is_ours { spec.acquire_time } else { Some(MicroTime(now)) },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(spec.lease_transitions.unwrap_or_default() + i32::from(!is_ours)),
            ..LeaseSpec::default()
        }),
    }
}

/// The Lease as `holder` leaves it to whoever comes first; `None`: it is not `holder`'s.
fn released(held: Lease, holder: &str) -> Option<Lease> {
    let spec = held.spec.filter(|spec| spec.holder_identity.as_deref() == Some(holder))?;
    let spec = LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec };
    Some(Lease { spec: Some(spec), ..held })
}

impl Kubernetes {
    /// Takes or renews this Lease of ours for `holder`, who is then alone with it for `duration`, in whole seconds. Returns
    /// whether `holder` has it. To be asked again within that time: another's Lease is seen to be left only by that.
    pub async fn hold_lease(&self, name: &str, holder: &str, duration: Duration) -> Result<bool, KubernetesError> {
        let what = format!("hold the Lease {}/{name}", self.namespace());
        let (leases, now) = (self.own::<Lease>(), Timestamp::now());
        let written = match leases.get(name).await {
            Ok(held) if self.is_anothers(name, &held, holder, duration) => return Ok(false),
            // Its resource version makes it a conflict if somebody else was faster.
            Ok(held) => leases.replace(name, &PostParams::default(), &taken(Some(held), holder, duration, now)).await,
            Err(error) if is_missing(&error) => {
                let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
                let first = Lease { metadata, ..taken(None, holder, duration, now) };
                leases.create(&PostParams::default(), &first).await
            }
            Err(error) => return Err(api(&what)(error)),
        };
        match written {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(api(&what)(error)),
        }
    }

    /// Gives this Lease of ours back, if `holder` has it: others needn't wait.
    pub async fn release_lease(&self, name: &str, holder: &str) -> Result<(), KubernetesError> {
        let what = format!("release the Lease {}/{name}", self.namespace());
        let leases = self.own::<Lease>();
        let held = leases.get(name).await.map_err(api(&what))?;
        let Some(free) = released(held, holder) else { return Ok(()) };
        match leases.replace(name, &PostParams::default(), &free).await {
            Err(error) if !is_conflict(&error) => Err(api(&what)(error)),
            _ => Ok(()),
        }
    }

    fn is_anothers(&self, name: &str, held: &Lease, holder: &str, duration: Duration) -> bool {
        let (mut all, now) = (self.leases.lock().unwrap_or_else(std::sync::PoisonError::into_inner), Instant::now());
        let seen = Seen::again(all.remove(name), held.spec.clone().unwrap_or_default(), now);
        let is_anothers = seen.is_anothers(holder, duration, now);
        all.insert(name.to_owned(), seen);
        is_anothers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTS: Duration = Duration::from_secs(15);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn spec(holder: &str, second: i64) -> LeaseSpec {
        taken(None, holder, LASTS, at(second)).spec.unwrap()
    }

    #[test]
    fn a_lease_is_anothers_while_it_is_seen_to_change_whatever_its_clock_says() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        // The other's clock is a day ahead, or behind: only that it moves counts.
        for offset in [-86_400, 0, 86_400] {
            let mut seen = Seen::again(None, spec("other", offset), start);
            for round in 0..10_u32 {
                seen =
                    Seen::again(Some(seen), spec("other", offset + 5 * i64::from(round)), after(5 * u64::from(round)));
                assert!(seen.is_anothers("us", LASTS, after(5 * u64::from(round))));
            }
            let last = spec("other", offset + 45);
            seen = Seen::again(Some(seen), last.clone(), after(59));
            assert!(seen.is_anothers("us", LASTS, after(59)), "14 s after its last change");
            seen = Seen::again(Some(seen), last, after(60));
            assert!(!seen.is_anothers("us", LASTS, after(60)));
        }
    }

    #[test]
    fn a_lease_that_is_ours_or_nobodys_is_taken_at_once() {
        let now = Instant::now();
        let is_anothers = |spec: LeaseSpec| Seen::again(None, spec, now).is_anothers("us", LASTS, now);
        assert!(is_anothers(spec("other", 0)));
        assert!(!is_anothers(spec("us", 0)) && !is_anothers(LeaseSpec::default()) && !is_anothers(spec("", 0)));
        // What does not say how long it lasts does so as long as ours; what says nonsense too.
        for said in [None, Some(-1)] {
            let odd = Seen::again(None, LeaseSpec { lease_duration_seconds: said, ..spec("other", 0) }, now);
            assert!(odd.is_anothers("us", LASTS, now + LASTS - Duration::from_secs(1)));
            assert!(!odd.is_anothers("us", LASTS, now + LASTS));
        }
    }

    #[test]
    fn taking_renewing_and_releasing_keep_the_books() {
        let first = taken(None, "us", LASTS, at(0));
        let renewed = taken(Some(first.clone()), "us", LASTS, at(5));
        let spec = renewed.spec.clone().unwrap();
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(at(0))), Some(MicroTime(at(5)))));
        assert_eq!((spec.lease_transitions, spec.lease_duration_seconds), (Some(1), Some(15)));
        assert!(released(renewed.clone(), "other").is_none());
        let free = released(renewed, "us").unwrap();
        let now = Instant::now();
        assert!(!Seen::again(None, free.spec.clone().unwrap(), now).is_anothers("other", LASTS, now));
        let next = taken(Some(free), "other", LASTS, at(6)).spec.unwrap();
        assert_eq!((next.holder_identity.as_deref(), next.lease_transitions), (Some("other"), Some(2)));
        assert_eq!(next.acquire_time, Some(MicroTime(at(6))));
    }
}
