//! Which way TLS records take, by what the kernel can do.

use crate::model::kernel::{KernelDefect, defects_of, parse_version};
use crate::model::mesh::CipherSuite;
use crate::state::MeshState;
use crate::tls::datapath::{DataPathError, DataPaths};
use crate::tls::probe::{ProbeError, probe};

/// Asks the kernel, unless the configuration wants nothing of it, and says what came out.
pub(super) fn choose_data_paths(state: &MeshState) -> Result<DataPaths, DataPathError> {
    let settings = &state.mesh().tls;
    let mut why = None;
    let asked = || probe().inspect_err(|error| why = Some(error.to_string()));
    let paths = DataPaths::new(settings, asked)?;
    match paths.kernel() {
        Some(kernel) => {
            let ciphers: Vec<_> = kernel.ciphers.iter().map(|cipher| cipher.name()).collect();
            tracing::info!(
                datapath = "kernel",
                ?ciphers,
                rekey = kernel.rekey,
                "TLS records are protected in the kernel"
            );
        }
        None => {
            tracing::info!(datapath = "userspace", why, "TLS records are protected in user space");
        }
    }
    if paths.kernel().is_some_and(|kernel| kernel.interrupted_send_breaks) {
        tracing::warn!("this kernel breaks a TLS connection whose sender a signal interrupts (errno 512)");
    }
    for defect in paths.kernel().into_iter().flat_map(|_| known_defects()) {
        tracing::warn!(cve = defect.cve, "this kernel's TLS has a known defect: {}", defect.summary);
    }
    Ok(paths)
}

/// What is known against this kernel's TLS, by its version.
pub(super) fn known_defects() -> impl Iterator<Item = &'static KernelDefect> {
    let name = rustix::system::uname();
    let version = parse_version(&name.release().to_string_lossy(), &name.version().to_string_lossy());
    version.into_iter().flat_map(defects_of)
}

/// What this kernel's TLS can do, for people: `mesh-agent probe`.
pub fn describe_probe() -> Result<String, ProbeError> {
    let support = probe()?;
    let mut text = format!("kernel     {}\n", rustix::system::uname().release().to_string_lossy());
    for defect in known_defects() {
        text += &format!("defect     {}: {}\n", defect.cve, defect.summary);
    }
    for cipher in CipherSuite::ALL {
        let carried = if support.ciphers.contains(&cipher) { "in the kernel" } else { "in user space" };
        text += &format!("cipher     {}: {carried}\n", cipher.name());
    }
    let can = |can: bool| if can { "yes" } else { "no" };
    text += &format!("rekey      {}\nerrno 512  {}\n", can(support.rekey), can(support.interrupted_send_breaks));
    Ok(text)
}
