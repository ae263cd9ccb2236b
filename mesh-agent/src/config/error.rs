//! The mistakes of a configuration, each with the place where its author finds it.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The file; none from the Kubernetes API, and where the mistake is that something is nowhere.
    pub file: Option<PathBuf>,
    /// The document in the file, counted from 1.
    pub document: Option<usize>,
    /// `Kind namespace/name`, as far as known.
    pub object: Option<String>,
    /// The field's path, such as `spec.addresses[0]`; empty for the whole document.
    pub field: String,
    /// What is wrong with it: a lower-case fragment.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        match (self.document, &self.object) {
            (Some(document), Some(object)) => write!(f, "document {document} ({}): ", OneLine(object))?,
            (Some(document), None) => write!(f, "document {document}: ")?,
            (None, Some(object)) => write!(f, "{}: ", OneLine(object))?,
            (None, None) => {}
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", OneLine(&self.field))?;
        }
        OneLine(&self.reason).fmt(f)
    }
}

/// Shows control characters escaped: what a document quotes must not look like another mistake, or steer a terminal.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        Ok(())
    }
}

/// All mistakes of a configuration, in the order of files and documents. Never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line_whatever_it_quotes() {
        let error = ConfigError {
            file: Some("web.yaml".into()),
            document: Some(1),
            object: Some("Workload shop/\n".to_owned()),
            field: "spec.x\r".to_owned(),
            reason: "`1\n\u{1b}[31mé` is not an IP address".to_owned(),
        };
        let expected = r"web.yaml: document 1 (Workload shop/\n): spec.x\r: `1\n\u{1b}[31mé` is not an IP address";
        assert_eq!(error.to_string(), expected);
    }
}
