//! What a peer says after the handshake: a message is the same wherever records cut it, and none makes us keep much.

use mesh_agent::tls::control::{Control, ControlError, ControlReader};
use mesh_agent::tls::record::content;

/// Checks `input`: its first byte is an alert's or any record's type, the next three say where the rest is cut.
pub fn check(input: &[u8]) {
    let Some(([content_type, cuts @ ..], bytes)) = input.split_first_chunk::<4>() else { return };
    let mut reader = ControlReader::default();
    // Any answer is right, but it is one: nothing of a refused record is left over.
    if reader.read(*content_type, bytes).is_ok() && *content_type != content::HANDSHAKE {
        assert!(!reader.is_within_message());
    }
    let Ok((at_once, unfinished)) = read([bytes].into_iter()) else { return };
    let [first, second, third] = cuts.map(|cut| usize::from(cut).min(bytes.len()));
    let mut cuts = [0, first, second, third, bytes.len()];
    cuts.sort_unstable();
    let in_pieces = read(cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
    assert_eq!(in_pieces, Ok((at_once.clone(), unfinished)), "cut at {cuts:?}");
    let tickets =
        at_once.iter().map(|control| if let Control::Ticket(ticket) = control { ticket.len() + 4 } else { 5 });
    assert!(tickets.sum::<usize>() <= bytes.len(), "more was read than came");
}

/// What handshake records with these bodies say, and whether the last message is not all there.
fn read<'a>(records: impl Iterator<Item = &'a [u8]>) -> Result<(Vec<Control>, bool), ControlError> {
    let (mut reader, mut all) = (ControlReader::default(), Vec::new());
    for record in records.filter(|record| !record.is_empty()) {
        all.extend(reader.read(content::HANDSHAKE, record)?);
    }
    Ok((all, reader.is_within_message()))
}
