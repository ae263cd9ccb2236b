//! The mistakes of a configuration, each with the place where its author finds it.

use std::fmt;
use std::path::PathBuf;

/// One mistake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The file; none where the mistake is that something is nowhere.
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
        if let Some(document) = self.document {
            write!(f, "document {document}")?;
            if let Some(object) = &self.object {
                write!(f, " ({object})")?;
            }
            f.write_str(": ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
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
