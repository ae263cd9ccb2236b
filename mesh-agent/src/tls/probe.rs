//! Asks this kernel what its TLS can do, by doing it: keys for every cipher, a record each way, and other keys.
//!
//! Uses two sockets on loopback and keys that protect nothing.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use super::keys::crypto_info;
use crate::model::mesh::CipherSuite;
use crate::sys::interrupt;
use crate::sys::ktls::{self, Way};

const TIME_LIMIT: Duration = Duration::from_secs(2);

/// What the kernel's TLS can do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelSupport {
    /// Ciphers that work in both directions.
    pub ciphers: Vec<CipherSuite>,
    /// Keys can be replaced (kernel 6.14).
    pub rekey: bool,
    /// A blocking send that a signal interrupts within a record ends with errno 512 and breaks the connection. The
    /// agent's sockets don't block: this concerns sockets of applications.
    pub interrupted_send_breaks: bool,
}

/// Why the kernel's TLS can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No two sockets to try with.
    #[error("connect two sockets on loopback")]
    Loopback(#[source] io::Error),
    /// No TLS.
    #[error("the kernel has no TLS (CONFIG_TLS, module `tls`)")]
    NoTls(#[source] io::Error),
}

/// Probes every cipher.
pub fn probe() -> Result<KernelSupport, ProbeError> {
    let mut support = KernelSupport { ciphers: vec![], rekey: true, interrupted_send_breaks: false };
    for cipher in CipherSuite::ALL {
        let (near, far) = pair().map_err(ProbeError::Loopback)?;
        for socket in [&near, &far] {
            ktls::attach(socket).map_err(ProbeError::NoTls)?;
        }
        match carries(cipher, &near, &far) {
            Ok(()) => {
                support.ciphers.push(cipher);
                support.rekey &= ktls::set_keys(&near, Way::Transmit, &example(cipher, 2)).is_ok();
            }
            Err(error) => tracing::warn!(%error, cipher = cipher.name(), "the kernel's TLS does not carry this cipher"),
        }
    }
    support.rekey &= !support.ciphers.is_empty();
    if let Some(cipher) = support.ciphers.first() {
        support.interrupted_send_breaks = interrupted_send_breaks(*cipher).map_err(ProbeError::Loopback)?;
    }
    Ok(support)
}

/// Not an errno that user space may see (include/linux/errno.h).
const ERESTARTSYS: i32 = 512;

fn interrupted_send_breaks(cipher: CipherSuite) -> io::Result<bool> {
    let (near, _far) = pair()?;
    ktls::attach(&near)?;
    ktls::set_keys(&near, Way::Transmit, &example(cipher, 3))?;
    // Nobody reads at the other end, so this blocks once the buffers are full.
    let error = interrupt::interrupted_send(&near, TIME_LIMIT)?;
    Ok(error.is_some_and(|error| error.raw_os_error() == Some(ERESTARTSYS)))
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect_timeout(&listener.local_addr()?, TIME_LIMIT)?;
    let (far, peer) = listener.accept()?;
    // Somebody else may connect first.
    if peer != near.local_addr()? {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    far.set_read_timeout(Some(TIME_LIMIT))?;
    near.set_read_timeout(Some(TIME_LIMIT))?;
    Ok((near, far))
}

fn carries(cipher: CipherSuite, near: &TcpStream, far: &TcpStream) -> io::Result<()> {
    for (from, to, seed) in [(near, far, 0), (far, near, 1)] {
        let info = example(cipher, seed);
        ktls::set_keys(from, Way::Transmit, &info)?;
        ktls::set_keys(to, Way::Receive, &info)?;
        let (sent, mut received) = ([seed; 100], [0xff; 100]);
        (&*from).write_all(&sent)?;
        (&*to).read_exact(&mut received)?;
        if sent != received {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

fn example(cipher: CipherSuite, seed: u8) -> zeroize::Zeroizing<Vec<u8>> {
    let key_length = match cipher {
        CipherSuite::Aes128Gcm => 16,
        CipherSuite::Aes256Gcm | CipherSuite::Chacha20Poly1305 => 32,
    };
    crypto_info(cipher, &vec![seed; key_length], &[seed; 12], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_has_an_answer_on_any_kernel() {
        match probe() {
            Ok(support) => assert!(!support.ciphers.is_empty()),
            Err(error) => assert!(matches!(error, ProbeError::NoTls(_)), "{error:?}"),
        }
    }
}
