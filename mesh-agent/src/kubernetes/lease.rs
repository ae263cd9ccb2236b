//! Who of several replicas does what only one should: a Lease, as Kubernetes' own components hold theirs.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::core::ObjectMeta;

use super::{Kubernetes, KubernetesError, api, is_conflict, is_missing};

impl Kubernetes {
    /// Takes or renews this Lease of ours for `holder`, who is then alone with it for `duration`, in whole seconds. Returns
    /// whether `holder` has it. Clocks of replicas may differ by less than `duration`.
    pub async fn hold_lease(&self, name: &str, holder: &str, duration: Duration) -> Result<bool, KubernetesError> {
        let what = format!("hold the Lease {}/{name}", self.namespace());
        let (leases, now) = (self.own::<Lease>(), Timestamp::now());
        let next = |held: Option<Lease>| {
            let held = held.unwrap_or_default();
            let spec = held.spec.unwrap_or_default();
            let is_ours = spec.holder_identity.as_deref() == Some(holder);
            Lease {
                metadata: ObjectMeta { name: Some(name.to_owned()), ..held.metadata },
                spec: Some(LeaseSpec {
                    holder_identity: Some(holder.to_owned()),
                    lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
                    acquire_time: if is_ours { spec.acquire_time } else { Some(MicroTime(now)) },
                    renew_time: Some(MicroTime(now)),
                    lease_transitions: Some(spec.lease_transitions.unwrap_or_default() + i32::from(!is_ours)),
                    ..LeaseSpec::default()
                }),
            }
        };
        let written = match leases.get(name).await {
            Ok(held) if is_held_by_another(&held, holder, now) => return Ok(false),
            // Its resource version makes it a conflict if somebody else was faster.
            Ok(held) => leases.replace(name, &PostParams::default(), &next(Some(held))).await,
            Err(error) if is_missing(&error) => leases.create(&PostParams::default(), &next(None)).await,
            Err(error) => return Err(api(&what)(error)),
        };
        match written {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(api(&what)(error)),
        }
    }
}

fn is_held_by_another(lease: &Lease, holder: &str, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let another = spec.holder_identity.as_deref().is_some_and(|held_by| !held_by.is_empty() && held_by != holder);
    let age = spec.renew_time.as_ref().map(|MicroTime(renewed)| now.duration_since(*renewed).as_secs());
    another && age.is_some_and(|age| age < i64::from(spec.lease_duration_seconds.unwrap_or_default()))
}
