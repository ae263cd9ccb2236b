//! Splits YAML text into documents, within bounds of memory and time.
//!
//! Documents become plain JSON values, as in Kubernetes; what they mean is decided elsewhere. A document with a mistake
//! in its values doesn't hide the mistakes of the next; after one in the YAML syntax nothing can be read.

use serde_json::Value;

/// Largest file, in bytes.
const MAX_BYTES: usize = 16 << 20;
/// Deepest nesting: our deepest field is at 4.
const MAX_DEPTH: usize = 32;
const MAX_DOCUMENTS: usize = 100_000;
/// Parsed nodes that aliases may add in one document.
const MAX_ALIASED_NODES: usize = 10_000;

/// Gives each document of `text`, or what is wrong with it: a fragment in one line. Empty documents are left out.
pub(super) fn split(text: &str) -> Vec<Result<Value, String>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_BYTES),
            max_depth: MAX_DEPTH,
            max_documents: MAX_DOCUMENTS,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED_NODES },
        strict_booleans: true,
        with_snippet: false,
    };
    let mut bytes = text.as_bytes();
    serde_saphyr::read_with_options(&mut bytes, options)
        .map(|document| document.map_err(|error: serde_saphyr::Error| one_line(&error)))
        .collect()
}

fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
