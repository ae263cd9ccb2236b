//! The report as a table for people: medians, and how the modes compare.

use crate::bed::Mode;
use crate::report::Report;

/// The comparisons that the table shows.
const RATIOS: [(Mode, Mode); 6] = [
    (Mode::Mesh, Mode::Direct),
    (Mode::Mesh, Mode::Haproxy),
    (Mode::Mesh, Mode::HaproxyResumed),
    (Mode::Mesh, Mode::MeshFull),
    (Mode::MeshScraped, Mode::Mesh),
    (Mode::MeshX25519, Mode::Haproxy),
];

/// The table, as text that is also Markdown.
pub(crate) fn render(report: &Report) -> String {
    let mut head = vec!["metric".to_owned(), "unit".to_owned()];
    head.extend(Mode::ALL.map(|mode| mode.to_string()));
    head.extend(RATIOS.map(|(mode, to)| format!("{mode} / {to}")));
    let mut rows = vec![head];
    for (metric, unit) in report.metrics() {
        let mut row = vec![metric.to_owned(), unit.to_owned()];
        row.extend(Mode::ALL.map(|mode| report.find(metric, mode).map_or_else(String::new, |s| short(s.median()))));
        row.extend(
            RATIOS.map(|(mode, to)| report.ratio(metric, mode, to).map_or_else(String::new, |r| format!("{r:.2}"))),
        );
        rows.push(row);
    }
    layout(&rows)
}

/// Three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Aligns the columns: words to the left, numbers to the right.
pub(crate) fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text += &format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "));
        if index == 0 {
            let rules = widths
                .iter()
                .enumerate()
                .map(|(column, &width)| if column < 2 { "-".repeat(width) } else { "-".repeat(width - 1) + ":" });
            text += &format!("| {} |\n", rules.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Number;

    #[test]
    fn a_mode_without_a_number_leaves_its_cell_empty() {
        let mut report = Report::default();
        report.add(Mode::Direct, Number::new("rate", "1/s", 2000.0));
        report.add(Mode::Mesh, Number::new("rate", "1/s", 1000.0));
        let text = render(&report);
        let row = text.lines().nth(2).unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(cells, ["", "rate", "1/s", "2000", "1000", "", "", "", "", "", "0.50", "", "", "", "", "", ""]);
    }
}
