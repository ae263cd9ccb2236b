//! Renders what the admin socket shows as tables that fit a terminal.
//!
//! A function of values and a [`Style`]: the terminal is looked at by who prints.

/// How a table may look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Style {
    /// Columns of the terminal; `None`: as many as it takes.
    pub width: Option<usize>,
    /// Whether colours show.
    pub colour: bool,
}

/// How a cell is meant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Tone {
    /// Something is wrong.
    Bad,
    /// All is well.
    Good,
    /// Nothing of note.
    #[default]
    Plain,
}

/// One cell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cell(pub String, pub Tone);

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self(text.into(), Tone::Plain)
    }
}

/// Narrower than this no column gets.
const MIN_COLUMN: usize = 6;
const GAP: usize = 2;
const BOLD: &str = "1";

/// A table with a line of titles. Columns that don't fit are cut where they are widest, and show it.
pub fn render(titles: &[&str], rows: &[Vec<Cell>], style: Style) -> String {
    let mut widths: Vec<usize> = titles.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.0.chars().count());
        }
    }
    if let Some(limit) = style.width {
        fit(&mut widths, limit);
    }
    let mut text = String::new();
    let header: Vec<String> = titles.iter().zip(&widths).map(|(title, width)| pad(title, *width)).collect();
    push_line(&mut text, header.iter().map(|cell| paint(cell, BOLD, style)));
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(Cell(cell, tone), width)| (pad(cell, *width), *tone));
        push_line(&mut text, cells.map(|(cell, tone)| toned(&cell, tone, style)));
    }
    text
}

/// Lines of a name and a value.
pub fn render_pairs(pairs: &[(&str, Cell)], style: Style) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, Cell(value, tone)) in pairs {
        let name = paint(&pad(name, width), BOLD, style);
        for (index, line) in value.lines().enumerate() {
            let name = if index == 0 { &*name } else { &*" ".repeat(width) };
            push_line(&mut text, [name.to_owned(), toned(line, *tone, style)].into_iter());
        }
    }
    text
}

/// Takes from the widest column until all fit.
fn fit(widths: &mut [usize], limit: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > MIN_COLUMN) else { return };
        *widest -= 1;
    }
}

/// Of this width: filled up, or cut with a sign that it was.
fn pad(text: &str, width: usize) -> String {
    // What names a thing is often at its end (an identity, an address), so the beginning goes.
    let count = text.chars().count();
    if count > width {
        return std::iter::once('…').chain(text.chars().skip(count + 1 - width)).collect();
    }
    format!("{text:<width$}")
}

fn push_line(text: &mut String, cells: impl Iterator<Item = String>) {
    let line = cells.collect::<Vec<_>>().join(&" ".repeat(GAP));
    text.push_str(line.trim_end());
    text.push('\n');
}

fn toned(text: &str, tone: Tone, style: Style) -> String {
    match tone {
        Tone::Bad => paint(text, "31", style),
        Tone::Good => paint(text, "32", style),
        Tone::Plain => text.to_owned(),
    }
}

fn paint(text: &str, code: &str, style: Style) -> String {
    if style.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: [&str; 3] = ["WORKLOAD", "IDENTITY", "STATE"];

    fn rows() -> Vec<Vec<Cell>> {
        let row = |name: &str, account: &str, state: Cell| {
            vec![Cell::from(name), format!("spiffe://mesh.test/ns/demo/sa/{account}").into(), state]
        };
        vec![
            row("demo/client", "client", Cell("enrolled".to_owned(), Tone::Good)),
            row("demo/server-with-a-long-name", "server", Cell("waiting".to_owned(), Tone::Bad)),
        ]
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let expected = "\
WORKLOAD                      IDENTITY                              STATE
demo/client                   spiffe://mesh.test/ns/demo/sa/client  enrolled
demo/server-with-a-long-name  spiffe://mesh.test/ns/demo/sa/server  waiting
";
        assert_eq!(render(&TITLES, &rows(), Style::default()), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_and_no_line_is_longer_than_it() {
        let text = render(&TITLES, &rows(), Style { width: Some(50), colour: false });
        assert!(text.lines().all(|line| line.chars().count() <= 50), "{text}");
        assert!(text.contains("…") && text.contains("sa/client"), "{text}");
    }

    #[test]
    fn colours_are_on_top_of_the_same_text() {
        let style = Style { width: None, colour: true };
        let text = render(&TITLES, &rows(), style);
        assert!(text.contains("\x1b[32menrolled\x1b[0m") && text.contains("\x1b[31mwaiting \x1b[0m"), "{text}");
        let plain: String =
            ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"].iter().fold(text, |text, code| text.replace(code, ""));
        let expected = render(&TITLES, &rows(), Style::default());
        assert_eq!(plain.lines().map(str::trim_end).collect::<Vec<_>>(), expected.lines().collect::<Vec<_>>());
    }

    #[test]
    fn pairs_line_up_and_long_values_go_on_below() {
        let pairs = [("node", Cell::from("a")), ("pending", "x: no\ny: no".into())];
        assert_eq!(render_pairs(&pairs, Style::default()), "node     a\npending  x: no\n         y: no\n");
    }
}
