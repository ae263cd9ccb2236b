//! What `doctor` found, as rows, and how they print. No probing here: that makes the text testable anywhere.
use std::{fmt::Display, io};

/// What a finding means for the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Status {
    /// Something works less well, or only part of it; the mesh runs.
    Degraded,
    /// The mesh does not run here.
    Missing,
    /// As it should be.
    Ok,
}

/// One finding.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Row {
    name: String,
    status: Status,
    value: String,
    follows: String,
}

impl Row {
    pub(crate) fn ok(name: impl Into<String>, value: impl Display) -> Self {
        Self { name: name.into(), status: Status::Ok, value: value.to_string(), follows: String::new() }
    }

    /// A finding without which the mesh does not run; `follows` says what becomes of it.
    pub(crate) fn missing(name: impl Into<String>, value: impl Display, follows: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Missing, value: value.to_string(), follows: follows.into() }
    }

    /// A finding that the mesh can live with; `follows` says how.
    pub(crate) fn degraded(name: impl Into<String>, value: impl Display, follows: impl Into<String>) -> Self {
        Self { status: Status::Degraded, ..Self::missing(name, value, follows) }
    }

    /// The row of a probe that gives a value or an error; `lacking` is what an error means.
    pub(crate) fn probed(
        name: impl Into<String>,
        probe: io::Result<impl Display>,
        lacking: Status,
        follows: impl Into<String>,
    ) -> Self {
        match probe {
            Ok(value) => Self::ok(name, value),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Self { status: lacking, ..Self::missing(name, error, "cannot be told without privileges: run as root") }
            }
            Err(error) => Self { status: lacking, ..Self::missing(name, error, follows) },
        }
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> Status {
        self.status
    }
}

/// Whether a row says that the mesh cannot run.
pub(crate) fn is_unusable(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.status == Status::Missing)
}

/// The rows as text, with what follows from a finding on the line below it.
pub(crate) fn render(rows: &[Row]) -> String {
    let width = |text: fn(&Row) -> usize| rows.iter().map(text).max().unwrap_or(0);
    let names = width(|row| row.name.chars().count());
    let statuses = width(|row| label(row.status).len());
    let mut text = String::new();
    for row in rows {
        text += &format!("{:<names$}  {:<statuses$}  {}\n", row.name, label(row.status), row.value);
        if !row.follows.is_empty() {
            text += &format!("{:<names$}  {:<statuses$}  → {}\n", "", "", row.follows);
        }
    }
    text + &verdict(rows)
}

fn verdict(rows: &[Row]) -> String {
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    let (ok, degraded, missing) = (count(Status::Ok), count(Status::Degraded), count(Status::Missing));
    let can = if missing == 0 { "the mesh can run here" } else { "the mesh cannot run here" };
    format!("{can}: {ok} ok, {degraded} degraded, {missing} missing\n")
}

fn label(status: Status) -> &'static str {
    match status {
        Status::Degraded => "degraded",
        Status::Missing => "missing",
        Status::Ok => "ok",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_ends_with_a_verdict() {
        let rows = [
            Row::ok("kernel", "6.18"),
            Row::degraded("kTLS", "no module", "TLS stays in user space"),
            Row::missing("sk_lookup", "no", "nothing is steered"),
        ];
        let expected = "\
kernel     ok        6.18
kTLS       degraded  no module
                     → TLS stays in user space
sk_lookup  missing   no
                     → nothing is steered
the mesh cannot run here: 1 ok, 1 degraded, 1 missing
";
        assert_eq!(render(&rows), expected);
        assert!(is_unusable(&rows));
        assert!(!is_unusable(&rows[..2]));
    }

    #[test]
    fn a_lack_of_privilege_is_not_reported_as_a_lack_in_the_kernel() {
        let denied: io::Result<&str> = Err(io::Error::from_raw_os_error(1));
        let row = Row::probed("sk_lookup", denied, Status::Missing, "the kernel has no sk_lookup");
        assert!(row.follows.contains("run as root"), "{row:?}");
    }
}
