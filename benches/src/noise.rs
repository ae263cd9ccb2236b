//! How much the machine did besides the bench, and whether the numbers can be believed.

use crate::bed::Mode;
use crate::report::{Report, median};
use crate::usage::Usage;

/// Share of the machine that others may use in one measurement before it is repeated. Kernel threads count as others.
const MAX_FOREIGN: f64 = 0.10;

/// Share of the machine that the hypervisor may keep from us in one measurement before it is repeated.
const MAX_STOLEN: f64 = 0.03;

/// Share of measurements that may stay noisy after all repetitions.
const MAX_NOISY: f64 = 0.15;

/// How far the direct mode's rounds may lie apart, as a share of their median; for the median metric.
const MAX_SPREAD: f64 = 0.20;

/// What disturbed one measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Disturbance {
    /// Share of the machine that others used.
    pub(crate) foreign: f64,
    /// Share of the machine that was stolen.
    pub(crate) stolen: f64,
}

impl Disturbance {
    /// What disturbed a measurement on a machine with so many processors.
    pub(crate) fn of(usage: Usage, processors: usize) -> Self {
        let available_us = (usage.elapsed_us as f64 * processors as f64).max(1.0);
        let foreign_us = usage.machine_us.saturating_sub(usage.cgroup_us);
        Self { foreign: foreign_us as f64 / available_us, stolen: usage.stolen_us as f64 / available_us }
    }

    /// Whether the measurement is worth repeating.
    pub(crate) fn is_too_much(self) -> bool {
        self.foreign > MAX_FOREIGN || self.stolen > MAX_STOLEN
    }

    /// One number, to compare.
    pub(crate) fn weight(self) -> f64 {
        self.foreign + self.stolen
    }
}

/// What is to be said about noise; the last line is the verdict.
pub(crate) fn verdict(report: &Report) -> String {
    let kept = &report.disturbances;
    let noisy = kept.iter().filter(|disturbance| disturbance.is_too_much()).count();
    let share_noisy = noisy as f64 / kept.len().max(1) as f64;
    let [foreign, stolen] = [|d: &Disturbance| d.foreign, |d: &Disturbance| d.stolen].map(|share| {
        let shares: Vec<f64> = kept.iter().map(share).collect();
        (percent(median(&shares)), percent(shares.iter().copied().fold(0.0, f64::max)))
    });
    let mut spreads = spreads(report);
    spreads.sort_by(|a, b| a.0.total_cmp(&b.0));
    let spread = median(&spreads.iter().map(|(spread, _)| *spread).collect::<Vec<_>>());
    let mut text = format!(
        "noise: others used {} of the machine (median; at worst {}), {} was stolen (at worst {});\n\
         {} measurements were repeated, {noisy} of {} stayed noisy",
        foreign.0,
        foreign.1,
        stolen.0,
        stolen.1,
        report.repeated,
        kept.len(),
    );
    if let Some((worst, metric)) = spreads.last() {
        let (spread, worst) = (percent(spread), percent(*worst));
        text += &format!(";\nthe direct mode's rounds spread over {spread} (median metric; {worst} for {metric})");
    }
    text + "\n" + judge(share_noisy, (!spreads.is_empty()).then_some(spread))
}

fn judge(share_noisy: f64, spread: Option<f64>) -> &'static str {
    match spread {
        _ if share_noisy > MAX_NOISY => "TOO NOISY TO BELIEVE: other programs or the hypervisor took too much",
        None => "one round says nothing about its spread: take it as a smoke test",
        Some(spread) if spread > MAX_SPREAD => "TOO NOISY TO BELIEVE: the direct mode's rounds lie too far apart",
        Some(_) => "quiet enough to believe the ratios",
    }
}

/// How far the direct mode's rounds lie apart, as shares of their medians.
fn spreads(report: &Report) -> Vec<(f64, &str)> {
    let direct = report.series.iter().filter(|series| series.mode == Mode::Direct && series.rounds.len() > 1);
    direct
        .map(|series| {
            let low = series.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let high = series.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            ((high - low) / series.median(), series.metric.as_str())
        })
        .collect()
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_use_and_what_is_stolen_disturbs() {
        let usage = Usage { elapsed_us: 1_000_000, machine_us: 1_500_000, cgroup_us: 1_000_000, stolen_us: 20_000 };
        let disturbance = Disturbance::of(usage, 2);
        assert_eq!(disturbance, Disturbance { foreign: 0.25, stolen: 0.01 });
        assert!(disturbance.is_too_much());
        assert!(!Disturbance { foreign: 0.05, stolen: 0.01 }.is_too_much());
        assert!(Disturbance { foreign: 0.0, stolen: 0.05 }.is_too_much());
    }

    #[test]
    fn one_round_is_not_believed_and_noise_says_so() {
        assert!(judge(0.0, None).contains("smoke test"));
        assert!(judge(0.0, Some(0.1)).contains("believe the ratios"));
        assert!(judge(0.5, Some(0.1)).contains("TOO NOISY"));
        assert!(judge(0.0, Some(0.5)).contains("TOO NOISY"));
    }
}
