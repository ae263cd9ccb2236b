//! Runs the test tiers that this machine can run, in order, and says up front which it skips and why.
//!
//! Everything of our own is printed before the last tier starts: the runners' summaries stay the last lines.
use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::process::say;

mod tier;

pub(crate) use tier::Tier;

/// Run the test tiers that this machine can run
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The tiers to run; all if none is named
    tiers: Vec<Tier>,
}

/// What a tier that cannot run means for the result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Skips {
    /// It is named and passed over.
    Allow,
    /// Nothing runs and the command fails.
    Fail,
}

impl Options {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        // A tier that somebody asked for by name is wanted, not hoped for.
        let strict = !self.tiers.is_empty() || env::var("CI").is_ok_and(|ci| ci == "true");
        run_tiers(&self.tiers, if strict { Skips::Fail } else { Skips::Allow })
    }
}

/// Runs `wanted`, or every tier if that is empty.
pub(crate) fn run_tiers(wanted: &[Tier], skips: Skips) -> Result<ExitCode> {
    let plan = plan(wanted, Tier::obstacle);
    say(describe(&plan));
    let skipped = plan.iter().any(|(_, obstacle)| obstacle.is_some());
    if skipped && skips == Skips::Fail {
        bail!("a required tier cannot run here");
    }
    for (tier, _) in plan.iter().filter(|(_, obstacle)| obstacle.is_none()) {
        run_tier(*tier)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A tier, and why it cannot run.
type Planned = (Tier, Option<String>);

fn plan(wanted: &[Tier], obstacle: impl Fn(Tier) -> Option<String>) -> Vec<Planned> {
    let all = Tier::ALL.into_iter();
    all.filter(|tier| wanted.is_empty() || wanted.contains(tier)).map(|tier| (tier, obstacle(tier))).collect()
}

fn describe(plan: &[Planned]) -> String {
    let lines = plan.iter().map(|(tier, obstacle)| {
        let state = match obstacle {
            None => format!("runs; budget {} min, killed after {} min", tier.budget_min(), tier.limit_min()),
            Some(reason) => format!("SKIPPED: {reason}"),
        };
        format!("tier {tier:<6} {state}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn run_tier(tier: Tier) -> Result<()> {
    let started = Instant::now();
    say(format_args!("\n== tier {tier}"));
    tier.run(started + Duration::from_secs(60 * tier.limit_min())).with_context(|| format!("tier {tier}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_run_in_their_order_whatever_the_order_asked_for() {
        let tiers: Vec<_> = plan(&[Tier::Native, Tier::Lint], |_| None).into_iter().map(|(tier, _)| tier).collect();
        assert_eq!(tiers, [Tier::Lint, Tier::Native]);
        assert_eq!(plan(&[], |_| None).len(), Tier::ALL.len());
    }

    #[test]
    fn a_skipped_tier_is_named_with_its_reason() {
        let plan = plan(&[], |tier| (tier == Tier::Native).then(|| "needs root".to_owned()));
        let text = describe(&plan);
        assert!(text.contains("tier native SKIPPED: needs root"), "{text}");
        assert!(text.contains("tier unit   runs; budget"), "{text}");
    }
}
