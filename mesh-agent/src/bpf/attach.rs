//! Attaches programs by pinned links; where a link is pinned already, swaps the program under it.
//!
//! A pin is named by what it is attached to (cgroup id, netns cookie), so that a new object of the same path never takes
//! an old one's link for its own.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, LinkOrder, Program, TcAttachType};
use aya::util::KernelVersion;
use mesh_common::names;

use super::clsact;
use super::object::{BpfError, Kernel, pin_error};
use crate::sys;
use crate::sys::netns::Netns;

type Cause = Box<dyn Error + Send + Sync>;

impl Kernel {
    /// Attaches the node's programs to the cgroup `root`, whose id is `id`.
    pub fn attach_cgroup(&mut self, root: &Path, id: u64) -> Result<(), BpfError> {
        let file = File::open(root).map_err(pin_error("open", root))?;
        for name in names::CGROUP_PROGRAMS {
            let pin = self.links.join(format!("cgroup-{id}-{name}"));
            self.attach(name, &pin, &root.display().to_string(), |program| match program {
                // Links of one cgroup add up whatever the mode; the mode's own flag is refused for links.
                Program::CgroupSkb(program) => {
                    let link = program.attach(&file, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)?;
                    Ok(program.take_link(link)?.try_into()?)
                }
                Program::CgroupSockAddr(program) => {
                    let link = program.attach(&file, CgroupAttachMode::Single)?;
                    Ok(program.take_link(link)?.try_into()?)
                }
                Program::SockOps(program) => {
                    let link = program.attach(&file, CgroupAttachMode::Single)?;
                    Ok(program.take_link(link)?.try_into()?)
                }
                _ => Err(BpfError::Missing(name.to_owned()).into()),
            })?;
        }
        Ok(())
    }

    /// Attaches the steering program to a pod's namespace, and the filter to `host_ends` of its veth pairs.
    pub fn attach_pod(&mut self, netns: &Netns, host_ends: &[String]) -> Result<(), BpfError> {
        let cookie = netns.cookie();
        let pin = self.links.join(format!("pod-{cookie}-{}", names::SK_LOOKUP));
        self.attach(names::SK_LOOKUP, &pin, "the pod's network namespace", |program| match program {
            Program::SkLookup(program) => {
                let link = program.attach(netns.as_file())?;
                Ok(program.take_link(link)?.into())
            }
            _ => Err(BpfError::Missing(names::SK_LOOKUP.to_owned()).into()),
        })?;
        for interface in host_ends {
            self.attach_veth(cookie, interface)?;
        }
        Ok(())
    }

    fn attach_veth(&mut self, cookie: u64, interface: &str) -> Result<(), BpfError> {
        let tcx = KernelVersion::current().is_ok_and(|kernel| kernel >= KernelVersion::new(6, 6, 0));
        let program = self.ebpf.program_mut(names::VETH);
        if let (false, Some(Program::SchedClassifier(program))) = (tcx, program) {
            return clsact::attach(program, interface, &clsact::mark(&self.links, cookie, interface))
                .map_err(|source| attach_error(names::VETH, interface.to_owned(), source));
        }
        let pin = self.links.join(format!("pod-{cookie}-{}-{interface}", names::VETH));
        self.attach(names::VETH, &pin, interface, |program| match program {
            Program::SchedClassifier(program) => {
                let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                let link = program.attach_with_options(interface, TcAttachType::Ingress, order)?;
                Ok(program.take_link(link)?.try_into()?)
            }
            _ => Err(BpfError::Missing(names::VETH.to_owned()).into()),
        })
    }

    /// Cookies of the namespaces that have pinned links, whoever pinned them.
    pub fn pinned_pods(&self) -> Result<Vec<u64>, BpfError> {
        let pins = self.pins()?;
        let cookie = |pin: &PathBuf| pin_name(pin).strip_prefix("pod-")?.split('-').next()?.parse().ok();
        Ok(pins.iter().filter_map(cookie).collect())
    }

    /// Removes the links of the pod whose namespace has this cookie.
    pub fn detach_pod(&mut self, cookie: u64) -> Result<(), BpfError> {
        self.remove_pins(|name| name.starts_with(&format!("pod-{cookie}-")))
    }

    /// Removes the links to cgroups other than the one whose id is `id`: the root was another one before.
    pub fn detach_other_roots(&mut self, id: u64) -> Result<(), BpfError> {
        self.remove_pins(|name| name.starts_with("cgroup-") && !name.starts_with(&format!("cgroup-{id}-")))
    }

    fn remove_pins(&self, unwanted: impl Fn(&str) -> bool) -> Result<(), BpfError> {
        for pin in self.pins()?.into_iter().filter(|pin| unwanted(&pin_name(pin))) {
            clsact::detach_marked(&pin).map_err(pin_error("remove the filter of", &pin))?;
            std::fs::remove_file(&pin).map_err(pin_error("remove", &pin))?;
        }
        Ok(())
    }

    fn pins(&self) -> Result<Vec<PathBuf>, BpfError> {
        let entries = std::fs::read_dir(&self.links).map_err(pin_error("list", &self.links))?;
        Ok(entries.flatten().map(|entry| entry.path()).collect())
    }

    fn attach(
        &mut self,
        name: &str,
        pin: &Path,
        target: &str,
        create: impl FnOnce(&mut Program) -> Result<FdLink, Cause>,
    ) -> Result<(), BpfError> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| BpfError::Missing(name.to_owned()))?;
        let result = match sys::bpf::open_pinned(pin) {
            Ok(link) => replace(link, program),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(program).and_then(|link| link.pin(pin).map(drop).map_err(Cause::from))
            }
            Err(error) => Err(error.into()),
        };
        result.map_err(|source| attach_error(name, target.to_owned(), source))
    }
}

fn replace(link: impl AsFd, program: &Program) -> Result<(), Cause> {
    Ok(sys::bpf::update_link(link, program.fd()?)?)
}

fn attach_error(program: &str, target: String, source: Cause) -> BpfError {
    BpfError::Attach { program: program.to_owned(), target, source }
}

fn pin_name(pin: &Path) -> String {
    pin.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
