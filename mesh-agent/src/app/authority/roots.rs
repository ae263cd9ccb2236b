//! Which roots a cluster trusts while its CA is replaced: functions of what is published and of the time.
//!
//! A new root is published first, and signs once everybody has it; an old one stays until the last certificate below it has
//! expired. What is published remembers when: any replica of the CA may be asked next.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::model::bundle::{self, BundleError, check_ca};
use crate::model::spiffe::TrustDomain;
use crate::model::svid::fingerprint;

/// Old roots at once; the first to go is forgotten. More than any replacement needs.
const MAX_OLD: usize = 8;

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From the moment at which a root is published until everybody has it.
    pub(super) spreads: Duration,
    /// From the moment at which a root is no longer wanted until nothing below it is valid.
    pub(super) lasts: Duration,
}

/// A root, and its times.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Root {
    der: CertificateDer<'static>,
    /// From when on its CA may sign.
    signs_from: SystemTime,
    /// When it goes; `None`: it is wanted.
    until: Option<SystemTime>,
}

/// The roots that are published: those that are wanted first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Published(Vec<Root>);

#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Times {
    signs_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

impl Published {
    /// Reads what was published. Roots without times are those of an earlier version: everybody has them. What is no CA of
    /// the trust domain is left out.
    pub(super) fn read(pem: &str, times: &str, trust_domain: &TrustDomain) -> Result<Self, BundleError> {
        let times: BTreeMap<String, Times> = serde_json::from_str(times).unwrap_or_default();
        let fit = bundle::from_pem(pem)?.into_iter().filter(|der| check_ca(der, trust_domain).is_ok());
        let root = |der: CertificateDer<'static>| {
            let times = times.get(&fingerprint(&der));
            let signs_from = times.and_then(|times| parse(times.signs_from.as_ref()?));
            let until = times.and_then(|times| parse(times.until.as_ref()?));
            Root { der, signs_from: signs_from.unwrap_or(SystemTime::UNIX_EPOCH), until }
        };
        Ok(Self(fit.map(root).collect()))
    }

    /// What is to be published: the roots in PEM, and their times in JSON.
    pub(super) fn write(&self) -> (String, String) {
        let times = |root: &Root| {
            let times = Times { signs_from: Some(show(root.signs_from)), until: root.until.map(show) };
            (fingerprint(&root.der), times)
        };
        let times: BTreeMap<_, _> = self.0.iter().map(times).collect();
        (bundle::to_pem(&self.roots()), serde_json::to_string_pretty(&times).unwrap_or_default())
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The roots themselves.
    pub(super) fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.0.iter().map(|root| root.der.clone()).collect()
    }

    /// When a CA below `root` may sign; `None`: it is not published.
    pub(super) fn signs_from(&self, root: &CertificateDer<'_>) -> Option<SystemTime> {
        self.0.iter().find(|known| known.der == *root).map(|known| known.signs_from)
    }

    /// What is to be published after this, where the CA of now has the roots `wanted`.
    pub(super) fn next(&self, wanted: &[CertificateDer<'static>], now: SystemTime, pace: Pace) -> Self {
        let now = whole_seconds(now);
        let root = |der: &CertificateDer<'static>| {
            // The first of a cluster has nobody to wait for.
            let new = if self.is_empty() { now } else { now + pace.spreads };
            Root { der: der.clone(), signs_from: self.signs_from(der).unwrap_or(new), until: None }
        };
        let mut roots: Vec<_> = wanted.iter().map(root).collect();
        let left = now + pace.lasts;
        let old = self.0.iter().filter(|root| !wanted.contains(&root.der)).map(|root| Root {
            // Nobody's word makes it longer.
            until: Some(root.until.map_or(left, |until| until.min(left))),
            ..root.clone()
        });
        let mut old: Vec<_> = old.filter(|root| root.until > Some(now)).collect();
        old.sort_by_key(|root| std::cmp::Reverse(root.until));
        old.truncate(MAX_OLD);
        roots.extend(old);
        Self(roots)
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn show(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

fn parse(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::LocalCa;
    use crate::model::mesh::SvidSettings;

    const PACE: Pace = Pace { spreads: Duration::from_secs(30), lasts: Duration::from_hours(24) };

    fn trust_domain() -> TrustDomain {
        TrustDomain::parse("mesh.test").unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn root() -> CertificateDer<'static> {
        LocalCa::create(trust_domain(), SvidSettings::default(), at(0)).unwrap().root().clone()
    }

    /// As the next reader finds it.
    fn again(published: &Published) -> Published {
        let (pem, times) = published.write();
        Published::read(&pem, &times, &trust_domain()).unwrap()
    }

    #[test]
    fn a_new_root_is_trusted_before_it_signs_and_the_old_one_as_long_as_anything_below_it() {
        let [old, new] = [root(), root()];
        let first = Published::default().next(std::slice::from_ref(&old), at(0), PACE);
        assert_eq!(first.signs_from(&old), Some(at(0)), "there is nobody who trusts another");
        assert_eq!(again(&first), first);
        let both = again(&first.next(std::slice::from_ref(&new), at(100) + Duration::from_millis(7), PACE));
        assert_eq!(both.roots(), [new.clone(), old.clone()]);
        assert_eq!((both.signs_from(&new), both.signs_from(&root())), (Some(at(130)), None));
        // However often it is looked at, and by whomever.
        let hours = |hours: u64| at(100) + Duration::from_hours(hours);
        for hour in 0..24 {
            assert_eq!(again(&both.next(std::slice::from_ref(&new), hours(hour), PACE)), both, "after {hour} hours");
        }
        let last = both.next(std::slice::from_ref(&new), hours(24), PACE);
        assert_eq!((last.roots(), last.signs_from(&new)), (vec![new.clone()], Some(at(130))));
        // The old one comes back before it has gone: everybody has it.
        let back = both.next(std::slice::from_ref(&old), hours(1), PACE);
        assert_eq!((back.roots(), back.signs_from(&old)), (vec![old, new], Some(at(0))));
    }

    #[test]
    fn roots_without_times_are_everybodys_and_what_is_no_ca_is_left_out() {
        let [one, other] = [root(), root()];
        let read = |pem: &str, times: &str| Published::read(pem, times, &trust_domain()).unwrap();
        for times in ["", "{}", "[", "{\"x\":{}}"] {
            let published = read(&bundle::to_pem(std::slice::from_ref(&one)), times);
            assert_eq!(published.signs_from(&one), Some(SystemTime::UNIX_EPOCH));
            assert_eq!(published.next(std::slice::from_ref(&other), at(0), PACE).roots(), [other.clone(), one.clone()]);
        }
        let foreign = LocalCa::create(TrustDomain::parse("other.test").unwrap(), SvidSettings::default(), at(0));
        assert!(read(foreign.unwrap().certificate_pem(), "").is_empty());
        assert!(read("", "").is_empty());
    }

    #[test]
    fn nobodys_word_keeps_a_root_for_longer_than_it_can_be_needed() {
        let [old, new] = [root(), root()];
        let times = format!("{{\"{}\": {{\"until\": \"2099-01-01T00:00:00Z\"}}}}", fingerprint(&old));
        let published = Published::read(&bundle::to_pem(&[old]), &times, &trust_domain()).unwrap();
        let next = published.next(&[new], at(0), PACE);
        assert_eq!(next.0[1].until, Some(at(0) + PACE.lasts));
        let many: Vec<_> = (0..MAX_OLD + 3).map(|_| root()).collect();
        let many = Published::default().next(&many, at(0), PACE);
        assert_eq!(many.next(&[root()], at(0), PACE).roots().len(), 1 + MAX_OLD);
    }
}
