//! Chooses where the records of a session are protected: in the kernel or in user space.
//!
//! What this kernel can do was asked once, at start ([`super::probe`]). Before a handshake nothing is lost by going on in
//! user space; once keys are on their way to the kernel, a failure ends the connection.

use rustls::{ExtractedSecrets, SupportedCipherSuite};

use super::error::SessionError;
use super::keys::{KeySchedule, TrafficKeys};
use super::layer::{Kernel, Layer, Transport, Userspace};
use super::probe::{KernelSupport, ProbeError};
use super::session::{Parts, TlsStream};
use super::usage::KeyLimit;
use crate::model::mesh::{CipherSuite, DataPathMode, TlsSettings};
use crate::sys::ktls;

/// Why the agent doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum DataPathError {
    /// Only the kernel may do it, and it can't.
    #[error("`tls.dataPath` is Kernel, and this kernel has no TLS")]
    NoKernelTls(#[source] ProbeError),
    /// Only the kernel may do it, and it lacks a cipher that may be negotiated.
    #[error("`tls.dataPath` is Kernel, and this kernel's TLS lacks {}", cipher.name())]
    NoCipher {
        /// Which.
        cipher: CipherSuite,
    },
}

/// The ways that sessions may take.
#[derive(Debug)]
pub struct DataPaths {
    only_kernel: bool,
    /// `None`: user space.
    kernel: Option<KernelSupport>,
    rekey_after: Option<u64>,
}

impl DataPaths {
    /// For these settings on the kernel that `probe` asks; it isn't asked if nothing is wanted of it.
    pub fn new(
        settings: &TlsSettings,
        probe: impl FnOnce() -> Result<KernelSupport, ProbeError>,
    ) -> Result<Self, DataPathError> {
        let (only_kernel, kernel) = match settings.data_path {
            DataPathMode::Userspace => (false, None),
            DataPathMode::Auto => (false, probe().ok().filter(|support| !support.ciphers.is_empty())),
            DataPathMode::Kernel => {
                let support = probe().map_err(DataPathError::NoKernelTls)?;
                let lacking = settings.cipher_suites.iter().find(|cipher| !support.ciphers.contains(cipher));
                if let Some(cipher) = lacking {
                    return Err(DataPathError::NoCipher { cipher: *cipher });
                }
                (true, Some(support))
            }
        };
        Ok(Self { only_kernel, kernel, rekey_after: settings.rekey_after })
    }

    /// User space alone.
    pub fn userspace() -> Self {
        Self { only_kernel: false, kernel: None, rekey_after: None }
    }

    /// What the kernel carries; `None` if nothing.
    pub fn kernel(&self) -> Option<&KernelSupport> {
        self.kernel.as_ref()
    }

    /// What to negotiate. A key that can't be replaced should last: ChaCha20-Poly1305 has no bound that a connection
    /// could reach, and AES-GCM has (RFC 8446 §5.5). A list that somebody has written is left alone.
    pub fn prefer(&self, settings: &TlsSettings) -> TlsSettings {
        let mut settings = settings.clone();
        if self.kernel.as_ref().is_some_and(|kernel| !kernel.rekey) && !settings.ciphers_chosen {
            settings.cipher_suites.sort_by_key(|cipher| *cipher != CipherSuite::Chacha20Poly1305);
            settings.server_decides = true;
        }
        settings
    }

    /// Prepares a connected socket, before the handshake: later the peer may already have gone (KERNEL.md §2). Says
    /// whether the kernel can take over.
    pub(super) fn attach(&self, stream: &impl Transport) -> Result<bool, SessionError> {
        let (Some(_), Some(socket)) = (&self.kernel, stream.socket()) else { return Ok(false) };
        match ktls::attach(socket) {
            Ok(()) => Ok(true),
            Err(error) if self.only_kernel => Err(SessionError::KernelTls(error)),
            Err(error) => {
                // The module was unloaded, or the connection is over and the handshake will say so.
                tracing::debug!(%error, "kernel TLS is not to be had: this connection stays in user space");
                Ok(false)
            }
        }
    }

    /// Hands the keys of a finished handshake to the record layer.
    pub(super) fn begin<S: Transport>(
        &self,
        stream: S,
        attached: bool,
        cipher: CipherSuite,
        suite: SupportedCipherSuite,
        (secrets, schedule): (ExtractedSecrets, KeySchedule),
    ) -> Result<TlsStream<S>, SessionError> {
        let (transmit, receive) = (TrafficKeys::from(secrets.tx), TrafficKeys::from(secrets.rx));
        let kernel = self.kernel.as_ref().filter(|kernel| attached && kernel.ciphers.contains(&cipher));
        let layer = match (kernel, stream.socket()) {
            (Some(_), Some(_)) if !stream.is_drained() => return Err(SessionError::Unexpected),
            (Some(kernel), Some(socket)) => Layer::Kernel(Kernel::install(socket, &transmit, &receive, kernel.rekey)?),
            _ => Layer::Userspace(Box::new(Userspace::new(suite, transmit, receive)?)),
        };
        let limit = KeyLimit::new(cipher, self.rekey_after);
        Ok(TlsStream::new(Parts { stream, layer, suite, schedule, limit }))
    }
}
