//! Why a session ends other than by both ends' goodbye. Each outcome has a name of its own.

use std::io;

use rustls::AlertDescription;

use crate::sys::ktls::Way;

/// What broke a session after its handshake.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The peer gave up and said why.
    #[error("the peer sent the alert {0:?}")]
    Alert(AlertDescription),
    /// A record that is not authentic.
    #[error("a record failed authentication")]
    BadRecordMac,
    /// Bytes that are no record.
    #[error("the peer sent something that is no TLS record")]
    BadRecord,
    /// The peer's FIN came without its goodbye (RFC 8446 §6.1): data may be missing.
    #[error("the stream was cut off")]
    Truncated,
    /// A record or message that has no place here.
    #[error("the peer sent an unexpected message")]
    Unexpected,
    /// A message that can't be read.
    #[error("the peer sent a malformed message")]
    Malformed,
    /// The peer changed its keys, and this kernel can't follow.
    #[error("the peer changed its keys, which this kernel can't follow")]
    KeyUpdateUnsupported,
    /// Our key has encrypted as much as it may (RFC 8446 §5.5), and this kernel can't change it.
    #[error("the key has encrypted as much as it may")]
    KeyLimit,
    /// The kernel's TLS could not be put on the socket, and there is no other way.
    #[error("the kernel's TLS could not be put on the socket")]
    KernelTls(#[source] io::Error),
    /// The kernel refused keys.
    #[error("the kernel refused keys for {way:?}")]
    Keys {
        /// Which.
        way: Way,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// rustls refused something.
    #[error("TLS failed")]
    Tls(#[source] rustls::Error),
}

impl SessionError {
    /// A stable label for logs and metrics. `None`: not TLS but the connection failed.
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Alert(description) => alert_reason(*description),
            Self::BadRecordMac => "bad_record_mac",
            Self::BadRecord => "bad_record",
            Self::Truncated => "truncated",
            Self::Unexpected => "unexpected_message",
            Self::Malformed => "malformed_message",
            Self::KeyUpdateUnsupported => "key_update_unsupported",
            Self::KeyLimit => "key_limit",
            Self::Keys { way: Way::Transmit, .. } => "ktls_transmit_keys",
            Self::Keys { way: Way::Receive, .. } => "ktls_receive_keys",
            Self::KernelTls(_) => "ktls_attach",
            Self::Io(_) => return None,
            Self::Tls(_) => "protocol",
        })
    }

    /// What the peer is told (RFC 8446 §6.2).
    pub(super) fn alert(&self) -> Option<AlertDescription> {
        match self {
            Self::BadRecordMac => Some(AlertDescription::BadRecordMac),
            Self::BadRecord | Self::Malformed => Some(AlertDescription::DecodeError),
            Self::Unexpected | Self::KeyUpdateUnsupported => Some(AlertDescription::UnexpectedMessage),
            Self::KeyLimit | Self::Tls(_) => Some(AlertDescription::InternalError),
            Self::Alert(_) | Self::Truncated | Self::KernelTls(_) | Self::Keys { .. } | Self::Io(_) => None,
        }
    }
}

impl From<SessionError> for io::Error {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Io(error) => error,
            SessionError::Truncated => Self::new(io::ErrorKind::UnexpectedEof, error),
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// The name of what broke a session, if this is such an error.
pub fn session_reason(error: &io::Error) -> Option<&'static str> {
    error.get_ref()?.downcast_ref::<SessionError>()?.reason()
}

/// One label for each alert of RFC 8446 §6 that a peer of ours may send.
fn alert_reason(description: AlertDescription) -> &'static str {
    match description {
        AlertDescription::UnexpectedMessage => "alert_unexpected_message",
        AlertDescription::BadRecordMac => "alert_bad_record_mac",
        AlertDescription::RecordOverflow => "alert_record_overflow",
        AlertDescription::HandshakeFailure => "alert_handshake_failure",
        AlertDescription::BadCertificate => "alert_bad_certificate",
        AlertDescription::UnsupportedCertificate => "alert_unsupported_certificate",
        AlertDescription::CertificateRevoked => "alert_certificate_revoked",
        AlertDescription::CertificateExpired => "alert_certificate_expired",
        AlertDescription::CertificateUnknown => "alert_certificate_unknown",
        AlertDescription::IllegalParameter => "alert_illegal_parameter",
        AlertDescription::UnknownCA => "alert_unknown_ca",
        AlertDescription::AccessDenied => "alert_access_denied",
        AlertDescription::DecodeError => "alert_decode_error",
        AlertDescription::DecryptError => "alert_decrypt_error",
        AlertDescription::ProtocolVersion => "alert_protocol_version",
        AlertDescription::InsufficientSecurity => "alert_insufficient_security",
        AlertDescription::InternalError => "alert_internal_error",
        AlertDescription::MissingExtension => "alert_missing_extension",
        AlertDescription::UnsupportedExtension => "alert_unsupported_extension",
        AlertDescription::CertificateRequired => "alert_certificate_required",
        AlertDescription::NoApplicationProtocol => "alert_no_application_protocol",
        _ => "alert_other",
    }
}
