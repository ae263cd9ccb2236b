//! What is measured, and which numbers come of it.

use crate::load::Outcome;

/// One thing that a client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Task {
    /// Data from the server.
    BulkDown(usize),
    /// Data to the server.
    BulkUp(usize),
    /// Connect, ask, close; so many at once.
    Connect(usize),
    /// Ask on so many kept connections.
    Request(usize),
}

/// Everything, in the order of the table.
pub(crate) const TASKS: [Task; 8] = [
    Task::BulkUp(1),
    Task::BulkUp(8),
    Task::BulkDown(1),
    Task::BulkDown(8),
    Task::Request(1),
    Task::Request(64),
    Task::Connect(1),
    Task::Connect(16),
];

/// What is counted.
pub(crate) const COUNTED_TASKS: [Task; 3] = [Task::BulkUp(1), Task::Request(1), Task::Request(16)];

/// Connections whose memory is weighed.
pub(crate) const IDLE_CONNECTIONS: usize = 1000;

/// One number of one measurement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Number {
    /// Its name.
    pub(crate) metric: String,
    /// What it is counted in.
    pub(crate) unit: &'static str,
    /// The number.
    pub(crate) value: f64,
}

impl Number {
    /// A number of the metric `name`.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { metric: name.into(), unit, value }
    }
}

impl Task {
    /// The beginning of the names of its metrics.
    pub(crate) fn name(self) -> String {
        match self {
            Task::BulkDown(streams) => format!("bulk.down.{streams}"),
            Task::BulkUp(streams) => format!("bulk.up.{streams}"),
            Task::Connect(slots) => format!("connect.{slots}"),
            Task::Request(connections) => format!("request.{connections}"),
        }
    }

    /// One of what it moves: how it is called, and how many its outcome has.
    pub(crate) fn unit(self, outcome: &Outcome) -> (&'static str, f64) {
        let count = outcome.count as f64;
        match self {
            Task::BulkDown(_) | Task::BulkUp(_) => ("MiB", count / f64::from(1 << 20)),
            Task::Connect(_) => ("connection", count),
            Task::Request(_) => ("request", count),
        }
    }

    /// The load generator's arguments.
    pub(crate) fn arguments(self) -> Vec<String> {
        let (words, count): (&[&str], usize) = match self {
            Task::BulkDown(streams) => (&["bulk", "--direction", "down", "--streams"], streams),
            Task::BulkUp(streams) => (&["bulk", "--direction", "up", "--streams"], streams),
            Task::Connect(slots) => (&["connect", "--slots"], slots),
            Task::Request(connections) => (&["request", "--connections"], connections),
        };
        words.iter().map(|word| (*word).to_owned()).chain([count.to_string()]).collect()
    }

    /// The numbers that its outcome gives. `cpu` is of the whole machine, `own_cpu` of the world's cgroup: what other
    /// programs use is in the first only, what the kernel does on nobody's behalf as well.
    pub(crate) fn numbers(self, outcome: &Outcome) -> Vec<Number> {
        let number =
            |name: &str, unit: &'static str, value: f64| Number::new(format!("{}.{name}", self.name()), unit, value);
        let usage = outcome.usage;
        let seconds = usage.elapsed_us as f64 / 1e6;
        let count = outcome.count as f64;
        let (amount, throughput, per) = match self {
            Task::BulkDown(_) | Task::BulkUp(_) => {
                let gib = count / f64::from(1 << 30);
                (gib, number("throughput", "GiB/s", gib / seconds), "s/GiB")
            }
            Task::Connect(_) => (count / 1e4, number("rate", "connections/s", count / seconds), "s/10k"),
            Task::Request(_) => (count / 1e4, number("rate", "requests/s", count / seconds), "s/10k"),
        };
        let mut numbers = vec![throughput];
        if let (Task::Request(_), Some(latency)) = (self, outcome.latency) {
            let times = [("p50", latency.p50_ns), ("p90", latency.p90_ns), ("p99", latency.p99_ns)];
            numbers.extend(times.map(|(name, ns)| number(name, "us", ns as f64 / 1e3)));
        }
        numbers.push(number("cpu", per, usage.machine_us as f64 / 1e6 / amount));
        numbers.push(number("own_cpu", per, usage.cgroup_us as f64 / 1e6 / amount));
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    #[test]
    fn processor_time_is_given_for_what_was_done() {
        let usage = Usage { elapsed_us: 2_000_000, machine_us: 3_000_000, cgroup_us: 1_000_000, ..Usage::default() };
        let outcome = Outcome { count: 4 << 30, usage, ..Outcome::default() };
        let expected = [
            Number::new("bulk.up.8.throughput", "GiB/s", 2.0),
            Number::new("bulk.up.8.cpu", "s/GiB", 0.75),
            Number::new("bulk.up.8.own_cpu", "s/GiB", 0.25),
        ];
        assert_eq!(Task::BulkUp(8).numbers(&outcome), expected);
    }

    #[test]
    fn the_load_generator_is_told_what_to_do() {
        assert_eq!(Task::BulkDown(8).arguments(), ["bulk", "--direction", "down", "--streams", "8"]);
    }
}
