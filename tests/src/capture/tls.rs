//! Reads TLS 1.3 off the wire: every byte of a connection must belong to a record of it.
//!
//! Not a parser from a TLS library: those are written for endpoints, and this one must judge bytes that anyone sent.

use anyhow::{Context as _, Result, bail, ensure};

use super::flow::Flow;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const TLS_1_3: [u8; 2] = [3, 4];

/// What the server's hello chose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hello {
    /// The cipher suite's number.
    pub cipher_suite: u16,
    /// The key exchange group's number; 0x11EC is X25519MLKEM768.
    pub group: u16,
}

struct Record<'a> {
    kind: u8,
    body: &'a [u8],
}

impl Flow {
    /// Checks that the connection is TLS 1.3 from its first byte to its last, and says what was chosen.
    pub fn tls13(&self) -> Result<Hello> {
        self.check().with_context(|| format!("{} → {}", self.client, self.server))
    }

    fn check(&self) -> Result<Hello> {
        let (sent, received) = (self.sent.bytes(), self.received.bytes());
        let (sent, received) = (records(&sent)?, records(&received)?);
        let client = hello(&sent, CLIENT_HELLO).context("the client's first record")?;
        let server = hello(&received, SERVER_HELLO).context("the server's first record")?;
        ensure!(!client.is_empty(), "an empty ClientHello");
        let extensions = Extensions::of_server_hello(server)?;
        ensure!(extensions.find(SUPPORTED_VERSIONS)? == Some(&TLS_1_3), "the server chose another version than 1.3");
        let group =
            extensions.find(KEY_SHARE)?.and_then(|share| share.first_chunk().copied()).context("no key share")?;
        for records in [&sent, &received] {
            let protected = records.iter().filter(|record| record.kind == APPLICATION_DATA).count();
            ensure!(protected > 0, "a direction without protected records");
        }
        Ok(Hello { cipher_suite: extensions.cipher_suite, group: u16::from_be_bytes(group) })
    }
}

/// Splits a direction into records; the last may be cut short by the end of the capture.
fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>> {
    let mut records: Vec<Record<'_>> = Vec::new();
    while let Some(([kind, major, _, length @ ..], rest)) = bytes.split_first_chunk::<5>() {
        let protected = records.iter().any(|record| record.kind == APPLICATION_DATA);
        match *kind {
            APPLICATION_DATA => {}
            CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE if !protected => {}
            kind => bail!("record {} of kind {kind}: not TLS 1.3", records.len()),
        }
        ensure!(*major == 3, "record {} of version {major}: not TLS", records.len());
        let length = usize::from(u16::from_be_bytes(*length));
        let (body, rest) = rest.split_at(length.min(rest.len()));
        records.push(Record { kind: *kind, body });
        bytes = rest;
    }
    Ok(records)
}

/// The body of the hello that opens a direction.
fn hello<'a>(records: &[Record<'a>], wanted: u8) -> Result<&'a [u8]> {
    let first = records.first().context("nothing was sent")?;
    match first.body {
        [kind, _, _, _, body @ ..] if first.kind == HANDSHAKE && *kind == wanted => Ok(body),
        body => bail!("kind {}, starts with {:02x?}", first.kind, &body[..body.len().min(8)]),
    }
}

struct Extensions<'a> {
    cipher_suite: u16,
    bytes: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// RFC 8446 §4.1.3: version, random, session id, cipher suite, compression, extensions.
    fn of_server_hello(body: &'a [u8]) -> Result<Self> {
        let cut = "a ServerHello that is cut short";
        let (session_length, rest) = body.get(34..).and_then(<[u8]>::split_first).context(cut)?;
        let rest = rest.get(usize::from(*session_length)..).context(cut)?;
        let ([high, low, _compression, _, _], bytes) = rest.split_first_chunk::<5>().context(cut)?;
        Ok(Self { cipher_suite: u16::from_be_bytes([*high, *low]), bytes })
    }

    fn find(&self, wanted: u16) -> Result<Option<&'a [u8]>> {
        let mut rest = self.bytes;
        while let Some(([k1, k2, l1, l2], after)) = rest.split_first_chunk::<4>() {
            let length = usize::from(u16::from_be_bytes([*l1, *l2]));
            let (body, next) = after.split_at_checked(length).context("an extension that is cut short")?;
            if u16::from_be_bytes([*k1, *k2]) == wanted {
                return Ok(Some(body));
            }
            rest = next;
        }
        Ok(None)
    }
}
