//! The entry points, one a hook, named as `mesh_common::names` has them.

mod connect;
mod ctx;
mod egress;
mod established;
mod lookup;
mod maps;
mod peername;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock_addr, classifier, sk_lookup, sock_ops},
    programs::{SkBuffContext, SkLookupContext, SockAddrContext, SockOpsContext, TcContext},
};
use ctx::{Callback, Connect};

/// cgroup/connect4.
#[cgroup_sock_addr(connect4)]
pub fn mesh_connect4(context: SockAddrContext) -> i32 {
    connect::connect(&Connect::<false>::new(&context))
}

/// cgroup/connect6; also sees IPv4 destinations of dual-stack sockets.
#[cgroup_sock_addr(connect6)]
pub fn mesh_connect6(context: SockAddrContext) -> i32 {
    connect::connect(&Connect::<true>::new(&context))
}

/// cgroup/getpeername4; also rewrites what accept() returns.
#[cgroup_sock_addr(getpeername4)]
pub fn mesh_peername4(context: SockAddrContext) -> i32 {
    peername::getpeername(&Connect::<false>::new(&context))
}

/// cgroup/getpeername6.
#[cgroup_sock_addr(getpeername6)]
pub fn mesh_peername6(context: SockAddrContext) -> i32 {
    peername::getpeername(&Connect::<true>::new(&context))
}

/// Socket state callbacks below the cgroup root.
#[sock_ops]
pub fn mesh_sockops(context: SockOpsContext) -> u32 {
    established::sock_ops(&Callback::new(&context))
}

/// cgroup_skb/egress below the cgroup root.
#[cgroup_skb(egress)]
pub fn mesh_egress(context: SkBuffContext) -> i32 {
    egress::from_socket(&context)
}

/// Ingress of the host's side of a pod's veth.
#[classifier]
pub fn mesh_veth(context: TcContext) -> i32 {
    egress::from_veth(&context)
}

/// Listener lookup inside a pod's namespace.
#[sk_lookup]
pub fn mesh_sk_lookup(context: SkLookupContext) -> u32 {
    lookup::sk_lookup(&context)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses a program that could get here.
    loop {}
}

// sk_storage and netns cookies are GPL-only helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
