//! The opening of a connection: what it is follows from its bytes, not from the segments in which they come.

use mesh_agent::proxy::classify::{HelloReader, Verdict};
use mesh_agent::tls::record::MAX_HELLO_BYTES;

/// Checks `input`: its first four bytes say where the rest is cut.
pub fn check(input: &[u8]) {
    let Some((cuts, stream)) = input.split_first_chunk::<4>() else { return };
    let at_once = judge(stream, [stream.len()].into_iter());
    let cuts = cuts.map(|cut| (usize::from(cut) * 7).min(stream.len()));
    let in_pieces = judge(stream, cuts.into_iter().chain([stream.len()]));
    assert_eq!(at_once, in_pieces, "cut at {cuts:?}");
    match at_once {
        Verdict::Mesh => assert_eq!(stream.first(), Some(&0x16)),
        // Whoever keeps sending must not keep us reading.
        Verdict::Open => assert!(stream.len() < MAX_HELLO_BYTES, "open after {} bytes", stream.len()),
        Verdict::Plaintext | Verdict::TooLong => {}
    }
    // What has been said stays said.
    if at_once != Verdict::Open {
        let more = [stream, &[0x16; 16]].concat();
        assert_eq!(at_once, judge(&more, [more.len()].into_iter()), "other bytes that follow changed it");
    }
}

/// The first final verdict on `stream`, of which so much has come each time.
fn judge(stream: &[u8], come: impl Iterator<Item = usize>) -> Verdict {
    let (mut reader, mut so_far) = (HelloReader::default(), 0);
    for come in come {
        so_far = so_far.max(come);
        let verdict = reader.judge(&stream[..so_far]);
        if verdict != Verdict::Open {
            return verdict;
        }
    }
    Verdict::Open
}
