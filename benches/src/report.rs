//! What was measured: each metric of each mode with all its rounds, and one line of JSON for each.

use anyhow::Result;
use serde::Serialize;

use crate::bed::Mode;
use crate::noise::Disturbance;
use crate::plan::Number;

/// The rounds of one metric in one mode.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) metric: String,
    pub(crate) mode: Mode,
    pub(crate) unit: &'static str,
    pub(crate) rounds: Vec<f64>,
}

/// A series as JSON; its fields are in the order of the output.
#[derive(Serialize)]
struct Line<'a> {
    metric: &'a str,
    mode: &'static str,
    value: f64,
    unit: &'static str,
    rounds: &'a [f64],
}

impl Series {
    /// The median of the rounds.
    pub(crate) fn median(&self) -> f64 {
        median(&self.rounds)
    }

    fn line(&self) -> Line<'_> {
        let Self { metric, mode, unit, rounds } = self;
        Line { metric, mode: mode.name(), value: self.median(), unit, rounds }
    }
}

/// Everything that a run measured.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// In the order of the first round.
    pub(crate) series: Vec<Series>,
    /// Of every measurement that counts.
    pub(crate) disturbances: Vec<Disturbance>,
    /// Measurements that were thrown away.
    pub(crate) repeated: usize,
    /// Exchanges that failed, each with its mode and task.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Adds a round's number.
    pub(crate) fn add(&mut self, mode: Mode, number: Number) {
        let Number { metric, unit, value } = number;
        match self.series.iter_mut().find(|series| series.mode == mode && series.metric == metric) {
            Some(series) => series.rounds.push(value),
            None => self.series.push(Series { metric, mode, unit, rounds: vec![value] }),
        }
    }

    /// The rounds of `metric` in `mode`.
    pub(crate) fn find(&self, metric: &str, mode: Mode) -> Option<&Series> {
        self.series.iter().find(|series| series.mode == mode && series.metric == metric)
    }

    /// The metrics, each once and with its unit.
    pub(crate) fn metrics(&self) -> Vec<(&str, &'static str)> {
        let mut metrics: Vec<(&str, &'static str)> = Vec::new();
        for series in &self.series {
            if !metrics.iter().any(|(metric, _)| *metric == series.metric) {
                metrics.push((&series.metric, series.unit));
            }
        }
        metrics
    }

    /// The ratio of two modes: the median of the rounds' ratios, for what disturbs a round disturbs both.
    pub(crate) fn ratio(&self, metric: &str, mode: Mode, to: Mode) -> Option<f64> {
        let (ours, theirs) = (self.find(metric, mode)?, self.find(metric, to)?);
        let ratios: Vec<f64> = ours.rounds.iter().zip(&theirs.rounds).map(|(ours, theirs)| ours / theirs).collect();
        Some(median(&ratios))
    }

    /// One line for each metric of each mode.
    pub(crate) fn json_lines(&self) -> Result<String> {
        let lines = self.series.iter().map(|series| Ok(serde_json::to_string(&series.line())? + "\n"));
        lines.collect()
    }
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (count, middle) if count % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        for (direct, mesh) in [(10.0, 5.0), (20.0, 10.0), (12.0, 3.0)] {
            report.add(Mode::Direct, Number::new("x", "u", direct));
            report.add(Mode::Mesh, Number::new("x", "u", mesh));
        }
        report
    }

    #[test]
    fn a_ratio_compares_what_ran_in_the_same_round() {
        assert_eq!(report().ratio("x", Mode::Mesh, Mode::Direct), Some(0.5));
        assert_eq!(report().ratio("x", Mode::Haproxy, Mode::Direct), None);
    }

    #[test]
    fn a_line_of_json_has_the_median_and_every_round() {
        let lines = report().json_lines().unwrap();
        let expected = r#"{"metric":"x","mode":"direct","value":12.0,"unit":"u","rounds":[10.0,20.0,12.0]}"#;
        assert_eq!(lines.lines().next(), Some(expected));
    }

    #[test]
    fn the_median_of_an_even_number_is_between() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
