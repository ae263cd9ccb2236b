//! Compares identities and namespaces with lists of patterns: exact ones by number, so that a long list costs no more.

use std::collections::HashMap;

use crate::model::policy::Pattern;

/// Numbers for texts of all policies: exact ones of their lists, or names of time zones.
#[derive(Debug, Default)]
pub(super) struct Numbers(HashMap<String, u32>);

impl Numbers {
    pub(super) fn assign(&mut self, text: &str) -> u32 {
        if let Some(number) = self.0.get(text) {
            return *number;
        }
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0.insert(text.to_owned(), next);
        next
    }

    /// A text, and its number if a policy has it.
    pub(super) fn known<'t>(&self, text: &'t str) -> Known<'t> {
        Known { text, number: self.0.get(text).copied() }
    }
}

/// A text of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'t> {
    text: &'t str,
    number: Option<u32>,
}

/// A list of patterns.
#[derive(Debug)]
pub(super) struct Texts {
    exact: Box<[u32]>,
    others: Box<[Pattern]>,
}

impl Texts {
    pub(super) fn of<'p>(patterns: impl Iterator<Item = &'p Pattern>, numbers: &mut Numbers) -> Self {
        let (mut exact, mut others) = (Vec::new(), Vec::new());
        for pattern in patterns {
            match pattern {
                Pattern::Exact(text) => exact.push(numbers.assign(text)),
                other => others.push(other.clone()),
            }
        }
        exact.sort_unstable();
        Self { exact: exact.into(), others: others.into() }
    }

    /// Whether one of them means this text; none means a text that isn't there.
    pub(super) fn mean(&self, known: Option<Known<'_>>) -> bool {
        known.is_some_and(|Known { text, number }| {
            number.is_some_and(|number| self.exact.binary_search(&number).is_ok())
                || self.others.iter().any(|pattern| pattern.matches(text))
        })
    }
}
