//! Runs the test tiers that this machine can run, in order, and says up front which it skips and why.
//!
//! Everything of our own is printed before the last tier starts: the runners' summaries stay the last lines.
use std::{
    env,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{process::say, vm};

mod tier;

pub(crate) use tier::{NATIVE_BUILD, Tier};

/// Run the test tiers that this machine can run
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The tiers to run (lint, unit, fuzz, vm, kubernetes, native, soak), all but the soak if none is named; after `vm` the kernels
    /// (6.1, 6.12, latest)
    wanted: Vec<Wanted>,
    /// Run only this file of tests/tests in the VM; may be repeated
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// The soak too, and 512 MiB in the VM for every cipher
    #[arg(long)]
    long: bool,
}

/// A word of the command line.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Tier(Tier),
    Kernel(vm::Series),
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let tier = Tier::ALL.into_iter().find(|tier| tier.to_string() == word).map(Self::Tier);
        tier.or_else(|| word.parse().ok().map(Self::Kernel)).ok_or_else(|| "neither a tier nor a kernel".to_owned())
    }
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
        let (tiers, selection) = self.selection()?;
        // A tier that somebody asked for by name is wanted, not hoped for.
        let strict = !tiers.is_empty() || env::var("CI").is_ok_and(|ci| ci == "true");
        run_tiers(&self.with_soak(&tiers), &selection, if strict { Skips::Fail } else { Skips::Allow })
    }

    fn selection(&self) -> Result<(Vec<Tier>, vm::Selection)> {
        let (mut tiers, mut selection) =
            (Vec::new(), vm::Selection { tests: self.tests.clone(), long: self.long, ..Default::default() });
        for wanted in &self.wanted {
            match wanted {
                Wanted::Tier(tier) => tiers.push(*tier),
                Wanted::Kernel(series) => selection.kernels.push(*series),
            }
        }
        if self.wanted.is_empty() && self.tests.is_empty() && !self.long {
            // What the one between does, one of its neighbours does; all three would be half of the whole run.
            selection.kernels = vec![vm::Series::V6_1, vm::Series::Latest];
            return Ok((tiers, selection));
        }
        let narrowed = !selection.kernels.is_empty() || !selection.tests.is_empty();
        if narrowed && !tiers.contains(&Tier::Vm) {
            bail!("kernels and --test are for the tier `vm`");
        }
        Ok((tiers, selection))
    }

    fn with_soak(&self, tiers: &[Tier]) -> Vec<Tier> {
        match (self.long, tiers) {
            (false, tiers) => tiers.to_vec(),
            (true, []) => Tier::ALL.to_vec(),
            (true, tiers) => [tiers, &[Tier::Soak]].concat(),
        }
    }
}

/// Runs `wanted`, or every tier but the soak if that is empty.
pub(crate) fn run_tiers(wanted: &[Tier], selection: &vm::Selection, skips: Skips) -> Result<ExitCode> {
    let plan = plan(wanted, Tier::obstacle);
    say(describe(&plan));
    let skipped = plan.iter().any(|(_, obstacle)| obstacle.is_some());
    if skipped && skips == Skips::Fail {
        bail!("a required tier cannot run here");
    }
    for (tier, _) in plan.iter().filter(|(_, obstacle)| obstacle.is_none()) {
        run_tier(*tier, selection)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A tier, and why it cannot run.
type Planned = (Tier, Option<String>);

fn plan(wanted: &[Tier], obstacle: impl Fn(Tier) -> Option<String>) -> Vec<Planned> {
    let all = Tier::ALL.into_iter();
    let is_wanted = |tier: &Tier| if wanted.is_empty() { *tier != Tier::Soak } else { wanted.contains(tier) };
    all.filter(is_wanted).map(|tier| (tier, obstacle(tier))).collect()
}

fn describe(plan: &[Planned]) -> String {
    let lines = plan.iter().map(|(tier, obstacle)| {
        let state = match obstacle {
            None => format!("runs; budget {} min, killed after {} min", tier.budget_min(), tier.limit_min()),
            Some(reason) => format!("SKIPPED: {reason}"),
        };
        format!("tier {tier:<10} {state}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn run_tier(tier: Tier, selection: &vm::Selection) -> Result<()> {
    let started = Instant::now();
    say(format_args!("\n== tier {tier}"));
    let limit = Duration::from_secs(60 * tier.limit_min()) * if selection.long { vm::LONGER } else { 1 };
    tier.run(selection, started + limit).with_context(|| format!("tier {tier}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_run_in_their_order_whatever_the_order_asked_for() {
        let tiers: Vec<_> = plan(&[Tier::Native, Tier::Lint], |_| None).into_iter().map(|(tier, _)| tier).collect();
        assert_eq!(tiers, [Tier::Lint, Tier::Native]);
    }

    #[test]
    fn the_soak_runs_only_when_asked_for() {
        let planned = |tiers: &[Tier], long| {
            let wanted = Options { wanted: Vec::new(), tests: Vec::new(), long }.with_soak(tiers);
            plan(&wanted, |_| None).into_iter().map(|(tier, _)| tier).collect::<Vec<_>>()
        };
        assert_eq!([&planned(&[], false)[..], &[Tier::Soak]].concat(), Tier::ALL);
        assert_eq!(planned(&[], true), Tier::ALL);
        assert_eq!(planned(&[Tier::Unit], true), [Tier::Unit, Tier::Soak]);
        assert_eq!(planned(&[Tier::Soak], false), [Tier::Soak]);
    }

    #[test]
    fn kernels_go_with_the_vm_tier() {
        let options = |words: &[&str]| Options {
            wanted: words.iter().map(|word| word.parse().unwrap()).collect(),
            tests: Vec::new(),
            long: false,
        };
        let (tiers, selection) = options(&["vm", "6.1", "latest"]).selection().unwrap();
        assert_eq!((tiers, selection.kernels), (vec![Tier::Vm], vec![vm::Series::V6_1, vm::Series::Latest]));
        assert!(options(&["native", "6.1"]).selection().is_err());
        let (tiers, selection) = options(&[]).selection().unwrap();
        assert_eq!((tiers, selection.kernels), (vec![], vec![vm::Series::V6_1, vm::Series::Latest]));
        assert!(options(&["vm"]).selection().unwrap().1.kernels.is_empty());
        assert!("6.2".parse::<Wanted>().is_err());
    }

    #[test]
    fn a_skipped_tier_is_named_with_its_reason() {
        let plan = plan(&[], |tier| (tier == Tier::Native).then(|| "needs root".to_owned()));
        let text = describe(&plan);
        assert!(text.contains("tier native     SKIPPED: needs root"), "{text}");
        assert!(text.contains("tier unit       runs; budget"), "{text}");
    }
}
