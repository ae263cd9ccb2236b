//! Tells configurations apart: a fingerprint of the documents that make one up.

use std::fmt;
use std::fmt::Write as _;

use aws_lc_rs::digest::{Context, SHA256};

use super::SourceFile;

/// Bytes of the hash that are shown: nobody forges a configuration to look like another one's.
const SHOWN: usize = 8;

/// The beginning of a SHA-256 over names and texts of the files, in their order. Directories don't count.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConfigDigest(String);

impl ConfigDigest {
    /// Of these files.
    pub fn of(files: &[SourceFile]) -> Self {
        let name = |file: &SourceFile| file.name.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
        Self::of_parts(files.iter().map(|file| (name(file), &file.text)))
    }

    /// Of names and texts.
    pub(super) fn of_parts(parts: impl Iterator<Item = (impl AsRef<[u8]>, impl AsRef<[u8]>)>) -> Self {
        let mut hash = Context::new(&SHA256);
        let mut parts: Vec<_> = parts.collect();
        // In which order they were read means nothing.
        parts.sort_by(|one, other| one.0.as_ref().cmp(other.0.as_ref()));
        for (name, text) in parts {
            // Lengths first, or two parts could look like one.
            for part in [name.as_ref(), text.as_ref()] {
                hash.update(&part.len().to_be_bytes());
                hash.update(part);
            }
        }
        let mut text = String::new();
        for byte in &hash.finish().as_ref()[..SHOWN] {
            // Writing to a String can't fail.
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        Self(text)
    }
}

impl fmt::Display for ConfigDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_text_counts_and_the_directory_does_not() {
        let of = |files: &[(&str, &str)]| {
            let file = |(name, text): &(&str, &str)| SourceFile { name: name.into(), text: (*text).to_owned() };
            ConfigDigest::of(&files.iter().map(file).collect::<Vec<_>>()).to_string()
        };
        let one = of(&[("/etc/a/m.yaml", "x")]);
        assert_eq!((one.len(), &one), (16, &of(&[("/b/m.yaml", "x")])));
        for other in [of(&[]), of(&[("m.yaml", "y")]), of(&[("n.yaml", "x")]), of(&[("m.yaml", ""), ("", "x")])] {
            assert_ne!(one, other);
        }
    }
}
