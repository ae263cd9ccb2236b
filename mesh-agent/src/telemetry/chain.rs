//! Errors as everything that this agent writes shows them: with their causes, on one line.

/// `what failed: why: why that`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
