//! The key that signs checkpoints, and what a checkpoint says.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::AuditError;
use super::record::{Head, Record};

/// The event of a checkpoint.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// What comes before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key of checkpoints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CheckpointKey([u8; 32]);

impl CheckpointKey {
    /// Reads what [`CheckpointKey::to_pem`] writes.
    pub fn from_pem(text: &str) -> Option<Self> {
        let block = pem::parse(text).ok().filter(|block| block.tag() == "PUBLIC KEY")?;
        Some(Self(block.contents().strip_prefix(&SPKI_HEAD)?.try_into().ok()?))
    }

    /// PEM of the SubjectPublicKeyInfo, as openssl has it.
    pub fn to_pem(&self) -> String {
        pem::encode(&pem::Pem::new("PUBLIC KEY", [&SPKI_HEAD[..], &self.0].concat()))
    }

    /// In base64, as records have it.
    pub(super) fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    fn from_base64(text: &str) -> Option<Self> {
        Some(Self(STANDARD.decode(text).ok()?.try_into().ok()?))
    }
}

/// What a checkpoint claims: an agent with this key saw the chain end with this record.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    /// The newest record before it.
    pub(super) covered: Head,
    pub(super) key: CheckpointKey,
    signature: Vec<u8>,
    message: Vec<u8>,
}

impl Checkpoint {
    /// The claim in a record, if it makes one. Whether it is true is [`Checkpoint::is_signed`]'s to say.
    pub(super) fn of(record: &Record) -> Option<Self> {
        if record.event != CHECKPOINT {
            return None;
        }
        let covered = Head { sequence: record.sequence.checked_sub(1)?, hash: record.prev };
        let key = CheckpointKey::from_base64(record.text("key")?)?;
        let signature = STANDARD.decode(record.text("signature")?).ok()?;
        let message = message(record.text("node")?, covered, &record.time);
        Some(Self { covered, key, signature, message })
    }

    pub(super) fn is_signed(&self) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.key.0).verify(&self.message, &self.signature).is_ok()
    }
}

fn message(node: &str, covered: Head, time: &str) -> Vec<u8> {
    let Head { sequence, hash } = covered;
    format!("hauberk audit checkpoint\n{node}\n{sequence}\n{hash}\n{time}\n").into_bytes()
}

/// The private key.
pub(super) struct Signer {
    key: Ed25519KeyPair,
    public: CheckpointKey,
    /// Holds the lock: one process writes a log.
    _file: Option<File>,
}

impl Signer {
    /// A key that lives as long as this process.
    pub(super) fn ephemeral() -> Result<Self, AuditError> {
        Self::new(Ed25519KeyPair::generate().map_err(|_unspecified| AuditError::Key)?, None)
    }

    /// The key in `path`, made there (mode 0600) if there is none; its public half goes to `public`. `log` is locked.
    pub(super) fn open(log: &Path, path: &Path, public: &Path) -> Result<Self, AuditError> {
        let failed = AuditError::file(path);
        let mut options = OpenOptions::new();
        let mut file = match options.create(true).truncate(false).read(true).write(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(error) => return Err(failed(error)),
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(AuditError::InUse { path: log.to_owned() });
        }
        let key = read_or_make(&mut file).map_err(failed)?.ok_or(AuditError::Key)?;
        let signer = Self::new(key, Some(file))?;
        std::fs::write(public, signer.public.to_pem()).map_err(AuditError::file(public))?;
        Ok(signer)
    }

    fn new(key: Ed25519KeyPair, file: Option<File>) -> Result<Self, AuditError> {
        let public = key.public_key().as_ref().try_into().map_err(|_length| AuditError::Key)?;
        Ok(Self { key, public: CheckpointKey(public), _file: file })
    }

    pub(super) fn public(&self) -> &CheckpointKey {
        &self.public
    }

    /// The fields of a checkpoint after `covered`.
    pub(super) fn checkpoint(&self, node: &str, covered: Head, time: &str) -> Map<String, Value> {
        let signature = self.key.sign(&message(node, covered, time));
        let fields = [
            ("node", node.to_owned()),
            ("key", self.public.to_base64()),
            ("signature", STANDARD.encode(signature.as_ref())),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    }
}

/// `None`: what is there is no key.
fn read_or_make(file: &mut File) -> io::Result<Option<Ed25519KeyPair>> {
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text)?;
    if !text.is_empty() {
        let parsed = pem::parse(text.as_str()).ok().map(|block| Zeroizing::new(block.into_contents()));
        return Ok(parsed.and_then(|der| Ed25519KeyPair::from_pkcs8(&der).ok()));
    }
    let made = Ed25519KeyPair::generate().and_then(|key| Ok((key.to_pkcs8v1()?, key)));
    let Ok((der, key)) = made else { return Ok(None) };
    let text = Zeroizing::new(pem::encode(&pem::Pem::new("PRIVATE KEY", der.as_ref())));
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(Some(key))
}
