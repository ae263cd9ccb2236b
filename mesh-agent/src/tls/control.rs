//! Understands the records of a session that are no data: alerts and the messages after the handshake.
//!
//! Pure: the session does what they say.

use rustls::AlertDescription;

use super::record::content;

/// What a peer says beside its data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Control {
    /// It will send no more (RFC 8446 §6.1). Data the other way may go on.
    CloseNotify,
    /// It gives up.
    Alert(AlertDescription),
    /// A ticket to resume the session with (RFC 8446 §4.6.1): the message's body.
    Ticket(Vec<u8>),
    /// From the next record on it uses new keys (RFC 8446 §4.6.3).
    KeyUpdate {
        /// It wants us to do the same.
        requested: bool,
    },
}

/// Why such a record makes no sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// A record or message that has no place after a handshake.
    #[error("an unexpected message")]
    Unexpected,
    /// It has the wrong length, or a value that doesn't exist.
    #[error("a malformed message")]
    Malformed,
    /// A message over many records that would fill memory.
    #[error("a message that is too long")]
    TooLong,
}

/// Types of handshake messages (RFC 8446 §4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// A message may span records; this much of an unfinished one is kept. Tickets are far shorter.
const MAX_UNFINISHED: usize = 32 * 1024;

/// Puts messages together that records have cut.
#[derive(Debug, Default)]
pub struct ControlReader {
    /// The start of a handshake message whose rest has not come yet.
    unfinished: Vec<u8>,
}

impl ControlReader {
    /// A handshake message has begun and not ended: no other record may come in between (RFC 8446 §5.1).
    pub fn is_within_message(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Takes a record's type and plaintext; returns what it says, in order.
    pub fn read(&mut self, content_type: u8, bytes: &[u8]) -> Result<Vec<Control>, ControlError> {
        match content_type {
            content::HANDSHAKE if bytes.is_empty() => Err(ControlError::Malformed),
            content::HANDSHAKE => self.messages(bytes),
            _ if self.is_within_message() => Err(ControlError::Unexpected),
            content::ALERT => Ok(alert(bytes)?.into_iter().collect()),
            _ => Err(ControlError::Unexpected),
        }
    }

    fn messages(&mut self, bytes: &[u8]) -> Result<Vec<Control>, ControlError> {
        let mut joined = std::mem::take(&mut self.unfinished);
        joined.extend_from_slice(bytes);
        let (mut rest, mut found) = (joined.as_slice(), vec![]);
        while let Some((message_type, body, after)) = split_message(rest) {
            found.push(message(message_type, body)?);
            rest = after;
        }
        if rest.len() > MAX_UNFINISHED {
            return Err(ControlError::TooLong);
        }
        self.unfinished = rest.to_vec();
        // New keys begin with the next record: nothing may follow in this one.
        let update = found.iter().position(|control| matches!(control, Control::KeyUpdate { .. }));
        if update.is_some_and(|index| index + 1 < found.len() || self.is_within_message()) {
            return Err(ControlError::Unexpected);
        }
        Ok(found)
    }
}

/// Splits a handshake message off: its type, body, and what follows.
fn split_message(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[message_type, high, middle, low], rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
    let (body, after) = rest.split_at_checked(length)?;
    Some((message_type, body, after))
}

fn message(message_type: u8, body: &[u8]) -> Result<Control, ControlError> {
    match (message_type, body) {
        (NEW_SESSION_TICKET, body) => Ok(Control::Ticket(body.to_vec())),
        (KEY_UPDATE, [requested @ (0 | 1)]) => Ok(Control::KeyUpdate { requested: *requested == 1 }),
        (KEY_UPDATE, _) => Err(ControlError::Malformed),
        _ => Err(ControlError::Unexpected),
    }
}

/// `None`: an alert that only announces another.
fn alert(bytes: &[u8]) -> Result<Option<Control>, ControlError> {
    // The level says nothing any more (RFC 8446 §6).
    match bytes {
        [_level, CLOSE_NOTIFY] => Ok(Some(Control::CloseNotify)),
        [_level, USER_CANCELED] => Ok(None),
        [_level, description] => Ok(Some(Control::Alert(AlertDescription::from(*description)))),
        _ => Err(ControlError::Malformed),
    }
}

/// A KeyUpdate message (RFC 8446 §4.6.3), as the body of a handshake record.
pub const fn key_update(request: bool) -> [u8; 5] {
    [KEY_UPDATE, 0, 0, 1, request as u8]
}

/// An alert, as the body of an alert record. Everything but a goodbye is fatal.
pub fn alert_message(description: AlertDescription) -> [u8; 2] {
    let description = u8::from(description);
    [if description == CLOSE_NOTIFY { 1 } else { 2 }, description]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(length: u8) -> Vec<u8> {
        [&[NEW_SESSION_TICKET, 0, 0, length][..], &vec![7; usize::from(length)]].concat()
    }

    #[test]
    fn alerts_say_what_they_are() {
        let read = |bytes: &[u8]| ControlReader::default().read(content::ALERT, bytes);
        assert_eq!(read(&alert_message(AlertDescription::CloseNotify)), Ok(vec![Control::CloseNotify]));
        let fatal = AlertDescription::CertificateExpired;
        assert_eq!(read(&alert_message(fatal)), Ok(vec![Control::Alert(fatal)]));
        assert_eq!(read(&[1, USER_CANCELED]), Ok(vec![]));
        for bytes in [&[][..], &[1], &[1, 0, 0]] {
            assert_eq!(read(bytes), Err(ControlError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn several_tickets_in_a_record_are_all_read() {
        let record = [ticket(3), ticket(5)].concat();
        let expected = vec![Control::Ticket(vec![7; 3]), Control::Ticket(vec![7; 5])];
        assert_eq!(ControlReader::default().read(content::HANDSHAKE, &record), Ok(expected));
    }

    #[test]
    fn a_message_is_joined_wherever_it_was_cut() {
        let whole = ticket(9);
        for cut in 1..whole.len() {
            let mut reader = ControlReader::default();
            assert_eq!(reader.read(content::HANDSHAKE, &whole[..cut]), Ok(vec![]));
            assert!(reader.is_within_message());
            assert_eq!(reader.clone_unfinished().read(content::ALERT, &[1, 0]), Err(ControlError::Unexpected));
            assert_eq!(reader.read(content::HANDSHAKE, &whole[cut..]), Ok(vec![Control::Ticket(vec![7; 9])]), "{cut}");
            assert!(!reader.is_within_message());
        }
    }

    impl ControlReader {
        fn clone_unfinished(&self) -> Self {
            Self { unfinished: self.unfinished.clone() }
        }
    }

    #[test]
    fn a_key_update_is_the_last_of_its_record() {
        let read = |bytes: &[u8]| ControlReader::default().read(content::HANDSHAKE, bytes);
        assert_eq!(read(&key_update(true)), Ok(vec![Control::KeyUpdate { requested: true }]));
        let after_ticket = [ticket(1), key_update(false).to_vec()].concat();
        assert_eq!(read(&after_ticket).unwrap().last(), Some(&Control::KeyUpdate { requested: false }));
        assert_eq!(read(&[key_update(false).to_vec(), ticket(1)].concat()), Err(ControlError::Unexpected));
        assert_eq!(read(&[&key_update(false)[..], &[4]].concat()), Err(ControlError::Unexpected));
        assert_eq!(read(&[KEY_UPDATE, 0, 0, 1, 2]), Err(ControlError::Malformed));
        assert_eq!(read(&[KEY_UPDATE, 0, 0, 0]), Err(ControlError::Malformed));
    }

    #[test]
    fn nothing_else_is_expected_and_nothing_grows_without_end() {
        let mut reader = ControlReader::default();
        assert_eq!(reader.read(content::CHANGE_CIPHER_SPEC, &[1]), Err(ControlError::Unexpected));
        assert_eq!(reader.read(content::HANDSHAKE, &[]), Err(ControlError::Malformed));
        assert_eq!(reader.read(content::HANDSHAKE, &[1, 0, 0, 0]), Err(ControlError::Unexpected));
        let mut reader = ControlReader::default();
        let mut record = vec![0; 16 * 1024];
        record[..4].copy_from_slice(&[NEW_SESSION_TICKET, 0xff, 0xff, 0xff]);
        let results: Vec<_> = (0..4).map(|_| reader.read(content::HANDSHAKE, &record).is_ok()).collect();
        assert_eq!(results, [true, true, false, true]);
    }
}
