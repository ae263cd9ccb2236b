//! Every context access and helper call, with byte order. The only file, beside the maps, that needs `unsafe`.
use core::ptr::{null_mut, read_volatile, write_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops},
    helpers::generated as helper,
    programs::{SkBuffContext, SkLookupContext, SockAddrContext, SockOpsContext},
};
use mesh_common::{
    addr::IpKey,
    conn::{ConnKey, SockFacts, SockKind},
    divert::MAX_CGROUP_LEVEL,
    egress::Sender,
    event::{Counter, Event},
    packet::PacketBytes,
};

use super::maps;

const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;

/// Reads one context field: the verifier wants single loads of the declared width.
macro_rules! field {
    ($pointer:expr, $($path:tt)+) => {
        // SAFETY: the kernel hands a valid context to the program, and the verifier checks offset and width.
        unsafe { read_volatile(&raw const (*$pointer).$($path)+) }
    };
}

/// Writes one context field.
macro_rules! set_field {
    ($value:expr => $pointer:expr, $($path:tt)+) => {
        // SAFETY: as for `field!`; the verifier allows the write only to fields that this hook may change.
        unsafe { write_volatile(&raw mut (*$pointer).$($path)+, $value) }
    };
}

/// Reads the four words of an IPv6 address.
macro_rules! address {
    ($pointer:expr, $name:ident) => {
        IpKey::from_words([
            field!($pointer, $name[0]),
            field!($pointer, $name[1]),
            field!($pointer, $name[2]),
            field!($pointer, $name[3]),
        ])
    };
}

/// Reads the local and the remote address of a context that has both families' fields.
///
/// Both families are read before one is chosen: else the compiler merges the loads into one through a computed context
/// pointer, which the verifier refuses.
macro_rules! ends {
    ($pointer:expr) => {{
        let v4 = (IpKey::from_v4(field!($pointer, local_ip4)), IpKey::from_v4(field!($pointer, remote_ip4)));
        let v6 = (address!($pointer, local_ip6), address!($pointer, remote_ip6));
        if field!($pointer, family) == AF_INET6 { v6 } else { v4 }
    }};
}

/// A connect or getpeername call, from a hook for AF_INET6 or for AF_INET. The family is a type, since the verifier lets
/// a hook see its own family's fields only.
pub struct Connect<'a, const V6: bool> {
    context: &'a SockAddrContext,
}

impl<'a, const V6: bool> Connect<'a, V6> {
    /// Wraps the context.
    pub fn new(context: &'a SockAddrContext) -> Self {
        Self { context }
    }

    fn raw(&self) -> *mut bpf_sock_addr {
        self.context.sock_addr
    }

    fn socket(&self) -> *mut bpf_sock {
        field!(self.raw(), __bindgen_anon_1.sk)
    }

    /// Whether this is a stream socket: TCP or MPTCP.
    #[inline(always)]
    pub fn is_stream(&self) -> bool {
        field!(self.raw(), type_) == SOCK_STREAM
    }

    /// The address of the call.
    #[inline(always)]
    pub fn address(&self) -> IpKey {
        let raw = self.raw();
        if !V6 {
            return IpKey::from_v4(field!(raw, user_ip4));
        }
        address!(raw, user_ip6)
    }

    /// The port of the call, host order.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        u16::from_be(field!(self.raw(), user_port) as u16)
    }

    /// Replaces address and port. An IPv4 address becomes a mapped one for an AF_INET6 call.
    #[inline(always)]
    pub fn set(&self, address: &IpKey, port: u16) {
        let raw = self.raw();
        let words = address.words();
        if V6 {
            set_field!(words[0] => raw, user_ip6[0]);
            set_field!(words[1] => raw, user_ip6[1]);
            set_field!(words[2] => raw, user_ip6[2]);
            set_field!(words[3] => raw, user_ip6[3]);
        } else {
            set_field!(words[3] => raw, user_ip4);
        }
        set_field!(u32::from(port.to_be()) => raw, user_port);
    }

    /// The calling socket's own port, host order.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        let socket = self.socket();
        if socket.is_null() { 0 } else { field!(socket, src_port) as u16 }
    }

    /// Cookie of the calling socket's network namespace.
    #[inline(always)]
    pub fn netns(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { helper::bpf_get_netns_cookie(self.context.as_ptr()) }
    }

    /// The facts of the calling socket.
    #[inline(always)]
    pub fn facts(&self) -> Option<&'static mut SockFacts> {
        storage(self.socket(), false)
    }

    /// Writes the facts of the calling socket; false if the kernel has no memory for them.
    #[inline(always)]
    pub fn set_facts(&self, facts: SockFacts) -> bool {
        set_storage(self.socket(), facts)
    }

    /// Removes the facts of the calling socket.
    #[inline(always)]
    pub fn forget(&self) {
        // A socket without facts is what we want.
        // SAFETY: the socket is the context's.
        let _ = unsafe { maps::sockets().delete(self.socket()) };
    }

    /// Who makes this call, and where it goes.
    #[inline(always)]
    pub fn attest(&self, pod: u32) -> SockFacts {
        // SAFETY: these helpers take no pointer but the context.
        unsafe {
            SockFacts {
                address: self.address(),
                cookie: helper::bpf_get_socket_cookie(self.context.as_ptr()),
                cgroup: helper::bpf_get_current_cgroup_id(),
                port: self.port(),
                kind: 0,
                pod,
                tgid: (helper::bpf_get_current_pid_tgid() >> 32) as u32,
                uid: helper::bpf_get_current_uid_gid() as u32,
                comm: self.context.command().unwrap_or_default(),
            }
        }
    }

    /// Reports a denial.
    #[inline(always)]
    pub fn report(&self, counter: Counter, facts: SockFacts) {
        maps::count(counter);
        let event = Event { netns: self.netns(), counter: counter as u32, padding: 0, facts };
        // A wake-up each would cost four times the connect (KERNEL.md §1): the agent drains on a timer.
        const NO_WAKEUP: u64 = 1;
        if maps::EVENTS.output::<Event>(&event, NO_WAKEUP).is_err() {
            maps::count(Counter::EventLost);
        }
    }
}

/// The calling process' ancestor cgroup at `level`; 0 if there is none.
#[inline(always)]
pub fn ancestor_cgroup(level: u32) -> u64 {
    // SAFETY: the helper takes a number.
    unsafe { helper::bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Whether the calling process is in the cgroup of any enrolled pod.
#[inline(always)]
pub fn in_pod_cgroup() -> bool {
    let levels = maps::pod_levels();
    let mut level = 0;
    while level < MAX_CGROUP_LEVEL {
        if levels & 1 << level != 0 && maps::is_pod_cgroup(ancestor_cgroup(level)) {
            return true;
        }
        level += 1;
    }
    false
}

#[inline(always)]
fn storage(socket: *mut bpf_sock, create: bool) -> Option<&'static mut SockFacts> {
    if socket.is_null() {
        return None;
    }
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    let map = core::ptr::from_ref(maps::sockets()).cast_mut().cast();
    // SAFETY: the map is a socket storage with values of this type, and the socket is the context's and not null.
    unsafe { helper::bpf_sk_storage_get(map, socket.cast(), null_mut(), flags).cast::<SockFacts>().as_mut() }
}

#[inline(always)]
fn set_storage(socket: *mut bpf_sock, facts: SockFacts) -> bool {
    match storage(socket, true) {
        Some(slot) => {
            *slot = facts;
            true
        }
        None => false,
    }
}

/// A socket state callback.
pub struct Callback<'a> {
    context: &'a SockOpsContext,
}

/// Callbacks that concern us (`BPF_SOCK_OPS_*` in the kernel's linux/bpf.h).
pub enum Operation {
    /// A SYN is about to be sent; ports are known.
    Connect,
    /// A connection was accepted; accept() has not returned yet.
    Accepted,
    /// The state changed; asked for by [`Callback::watch`].
    State,
    /// Any other.
    Other,
}

impl<'a> Callback<'a> {
    /// Wraps the context.
    pub fn new(context: &'a SockOpsContext) -> Self {
        Self { context }
    }

    fn raw(&self) -> *mut bpf_sock_ops {
        self.context.ops
    }

    fn socket(&self) -> *mut bpf_sock {
        field!(self.raw(), __bindgen_anon_2.sk)
    }

    /// Which callback this is.
    #[inline(always)]
    pub fn operation(&self) -> Operation {
        match field!(self.raw(), op) {
            3 => Operation::Connect,
            5 => Operation::Accepted,
            10 => Operation::State,
            _ => Operation::Other,
        }
    }

    /// The socket's facts.
    #[inline(always)]
    pub fn facts(&self) -> Option<&'static mut SockFacts> {
        storage(self.socket(), false)
    }

    /// Writes the socket's facts.
    #[inline(always)]
    pub fn set_facts(&self, facts: SockFacts) -> bool {
        set_storage(self.socket(), facts)
    }

    /// Asks for the state callbacks of this socket, or no longer.
    #[inline(always)]
    pub fn watch(&self, on: bool) {
        const STATE_CB: i32 = 4;
        // The flag is known to every kernel that has sk_storage.
        let _ = self.context.set_cb_flags(if on { STATE_CB } else { 0 });
    }

    /// The connection, seen from the end that connects.
    #[inline(always)]
    pub fn outgoing(&self, netns: bool) -> ConnKey {
        let (source, source_port, destination, destination_port) = self.ends();
        let netns = if netns { self.netns() } else { 0 };
        ConnKey { netns, source, destination, source_port, destination_port, padding: 0 }
    }

    /// The connection that this end accepted, seen from the end that connects.
    #[inline(always)]
    pub fn incoming(&self) -> ConnKey {
        let (destination, destination_port, source, source_port) = self.ends();
        ConnKey { netns: self.netns(), source, destination, source_port, destination_port, padding: 0 }
    }

    fn netns(&self) -> u64 {
        // SAFETY: the helper takes the context of this program type.
        unsafe { helper::bpf_get_netns_cookie(self.context.as_ptr()) }
    }

    #[inline(always)]
    fn ends(&self) -> (IpKey, u16, IpKey, u16) {
        let raw = self.raw();
        let (local, remote) = ends!(raw);
        // The local port is in host order, the remote one in network order, in the upper half on little-endian.
        (local, field!(raw, local_port) as u16, remote, u32::from_be(field!(raw, remote_port)) as u16)
    }
}

/// What a listener lookup asks for.
pub struct Lookup {
    /// The pod's side.
    pub local: IpKey,
    /// Host order.
    pub port: u16,
    /// The other side.
    pub remote: IpKey,
    /// The other side's, host order.
    pub remote_port: u16,
    /// Whether the packet is IPv6.
    pub v6: bool,
}

impl Lookup {
    /// The connection, seen from the end that connects.
    #[inline(always)]
    pub fn flow(&self) -> ConnKey {
        let (source, source_port) = (self.remote, self.remote_port);
        let (destination, destination_port) = (self.local, self.port);
        ConnKey { netns: 0, source, destination, source_port, destination_port, padding: 0 }
    }
}

/// Reads the lookup; `None` if it isn't TCP.
#[inline(always)]
pub fn lookup(context: &SkLookupContext) -> Option<Lookup> {
    const TCP: u32 = 6;
    let raw: *mut bpf_sk_lookup = context.lookup;
    if field!(raw, protocol) != TCP {
        return None;
    }
    let (local, remote) = ends!(raw);
    let (port, remote_port) = (field!(raw, local_port) as u16, u16::from_be(field!(raw, remote_port)));
    Some(Lookup { local, port, remote, remote_port, v6: field!(raw, family) == AF_INET6 })
}

/// A packet's bytes by helper calls, so that paged data is seen too.
pub struct Skb<'a>(pub &'a aya_ebpf::programs::sk_buff::SkBuff);

impl PacketBytes for Skb<'_> {
    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.load::<u8>(offset).ok()
    }
    #[inline(always)]
    fn half(&self, offset: usize) -> Option<u16> {
        self.0.load::<u16>(offset).ok().map(u16::from_be)
    }
    #[inline(always)]
    fn word_be(&self, offset: usize) -> Option<u32> {
        self.0.load::<u32>(offset).ok()
    }
}

/// Which of the agent's sockets the packet comes from; `None`: from another one, or from none.
#[inline(always)]
pub fn agent_socket(context: &SkBuffContext) -> Option<Sender<'static>> {
    let socket = field!(context.skb.skb, __bindgen_anon_2.sk);
    if socket.is_null() {
        return None;
    }
    // SAFETY: the socket is the context's and not null; a request or time-wait socket gives null.
    let socket = unsafe { helper::bpf_sk_fullsock(socket) };
    match storage(socket, false) {
        Some(facts) if facts.is(SockKind::Outer) => Some(Sender::Agent),
        Some(facts) if facts.is(SockKind::Delivery) => Some(Sender::Delivery),
        _ => None,
    }
}

/// Index of the interface that it leaves by.
#[inline(always)]
pub fn interface(context: &SkBuffContext) -> u32 {
    field!(context.skb.skb, ifindex)
}
