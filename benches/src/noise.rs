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

/// How far a mode's rounds may lie apart, as a share of their median; for the median metric.
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
    let spreads: Vec<Spread<'_>> = Mode::ALL.into_iter().filter_map(|mode| spread(report, mode)).collect();
    for Spread { mode, median, worst, metric } in &spreads {
        let (mode, median, worst) = (mode.name(), percent(*median), percent(*worst));
        text += &format!(";\nthe rounds of {mode} spread over {median} (median metric; {worst} for {metric})");
    }
    // A ratio is as good as its worse half: a quiet direct mode says nothing about the proxies.
    text + "\n" + &judge(share_noisy, spreads.iter().max_by(|one, other| one.median.total_cmp(&other.median)))
}

fn judge(share_noisy: f64, widest: Option<&Spread<'_>>) -> String {
    match widest {
        _ if share_noisy > MAX_NOISY => {
            "TOO NOISY TO BELIEVE: other programs or the hypervisor took too much".to_owned()
        }
        None => "one round says nothing about its spread: take it as a smoke test".to_owned(),
        Some(Spread { mode, median, .. }) if *median > MAX_SPREAD => {
            format!("TOO NOISY TO BELIEVE: the rounds of {} lie too far apart", mode.name())
        }
        Some(_) => "quiet enough to believe the ratios".to_owned(),
    }
}

/// How far the rounds of one mode lie apart, as shares of their medians.
#[derive(Clone, Copy, Debug)]
struct Spread<'a> {
    mode: Mode,
    /// Of the median metric.
    median: f64,
    /// Of the metric with most.
    worst: f64,
    /// Which that is.
    metric: &'a str,
}

/// `None` where no metric has two rounds.
fn spread(report: &Report, mode: Mode) -> Option<Spread<'_>> {
    let series = report.series.iter().filter(|series| series.mode == mode && series.rounds.len() > 1);
    let spreads: Vec<(f64, &str)> = series
        .map(|series| {
            let low = series.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let high = series.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            ((high - low) / series.median(), series.metric.as_str())
        })
        .collect();
    let (worst, metric) = spreads.iter().copied().max_by(|one, other| one.0.total_cmp(&other.0))?;
    let median = median(&spreads.iter().map(|(spread, _)| *spread).collect::<Vec<_>>());
    Some(Spread { mode, median, worst, metric })
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Number;

    #[test]
    fn what_others_use_and_what_is_stolen_disturbs() {
        let usage = Usage {
            elapsed_us: 1_000_000,
            machine_us: 1_500_000,
            cgroup_us: 1_000_000,
            stolen_us: 20_000,
            busy_ns: None,
        };
        let disturbance = Disturbance::of(usage, 2);
        assert_eq!(disturbance, Disturbance { foreign: 0.25, stolen: 0.01 });
        assert!(disturbance.is_too_much());
        assert!(!Disturbance { foreign: 0.05, stolen: 0.01 }.is_too_much());
        assert!(Disturbance { foreign: 0.0, stolen: 0.05 }.is_too_much());
    }

    #[test]
    fn one_round_is_not_believed_and_noise_says_so() {
        let spread = |median| Spread { mode: Mode::Mesh, median, worst: median, metric: "x" };
        assert!(judge(0.0, None).contains("smoke test"));
        assert!(judge(0.0, Some(&spread(0.1))).contains("believe the ratios"));
        assert!(judge(0.5, Some(&spread(0.1))).contains("TOO NOISY"));
        assert!(judge(0.0, Some(&spread(0.5))).contains("TOO NOISY TO BELIEVE: the rounds of mesh"));
    }

    #[test]
    fn a_proxy_that_jumps_is_noise_however_quiet_the_direct_mode_is() {
        let mut report = Report::default();
        for (direct, haproxy) in [(100.0, 10.0), (101.0, 20.0), (99.0, 14.0)] {
            report.add(Mode::Direct, Number::new("x", "u", direct));
            report.add(Mode::Haproxy, Number::new("x", "u", haproxy));
        }
        let verdict = verdict(&report);
        assert!(verdict.ends_with("TOO NOISY TO BELIEVE: the rounds of haproxy lie too far apart"), "{verdict}");
        assert!(verdict.contains("the rounds of direct spread over 2.0 %"), "{verdict}");
    }
}
