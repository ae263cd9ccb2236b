//! Turns the OpenMetrics text that our registry writes into Prometheus' own text format, version 0.0.4.
//!
//! Scrapers that know OpenMetrics ask for it by name; everybody else, `promtool check metrics` included, gets the older
//! one. They differ in three lines: a counter's family is named without `_total` in the former and with it in the latter,
//! and `# UNIT` and `# EOF` mean something in the former alone.

/// The media type of the older format.
pub const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The media type of the newer one.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The older format of the same samples.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = None;
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match [words.next(), words.next(), words.next(), words.next()] {
            // Comes before the type, which says what the family is called.
            [Some("#"), Some("HELP"), Some(_), Some(what)] => help = Some(what),
            [Some("#"), Some("TYPE"), Some(name), Some(kind)] => {
                let total = if kind == "counter" { "_total" } else { "" };
                if let Some(help) = help.take() {
                    text += &format!("# HELP {name}{total} {help}\n");
                }
                text += &format!("# TYPE {name}{total} {kind}\n");
            }
            [Some("#"), ..] => {}
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_get_their_suffix_and_nothing_else_changes() {
        let openmetrics = "\
# HELP mesh_relayed_bytes Bytes.
# TYPE mesh_relayed_bytes counter
# UNIT mesh_relayed_bytes bytes
mesh_relayed_bytes_total{flow=\"sent\"} 7
# HELP mesh_active Open now.
# TYPE mesh_active gauge
mesh_active 1
# EOF
";
        let expected = "\
# HELP mesh_relayed_bytes_total Bytes.
# TYPE mesh_relayed_bytes_total counter
mesh_relayed_bytes_total{flow=\"sent\"} 7
# HELP mesh_active Open now.
# TYPE mesh_active gauge
mesh_active 1
";
        assert_eq!(classic(openmetrics), expected);
    }
}
