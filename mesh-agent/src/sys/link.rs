//! Finds the host's ends of a pod's veth pairs, by netlink inside and outside of the pod's namespace.

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::LinkAttribute;

use super::netns::Netns;

struct Link {
    index: u32,
    peer: Option<u32>,
    name: String,
}

/// Names of the interfaces in *this* namespace that are paired with an interface of the pod.
pub fn host_ends(pod: &Netns) -> io::Result<Vec<String>> {
    // Netlink here is asynchronous, and the thread that opens the socket must be inside: a thread of its own.
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let inside = pod.enter(|| runtime.block_on(links()))??;
            let outside = runtime.block_on(links())?;
            Ok(paired(&inside, outside))
        });
        asking.join().map_err(|_panic| io::Error::other("the thread that asks for interfaces panicked"))?
    })
}

/// Each end names the other by its index; one direction alone may mean an interface of a third namespace.
fn paired(inside: &[Link], outside: Vec<Link>) -> Vec<String> {
    let faces = |host: &Link| inside.iter().any(|link| link.peer == Some(host.index) && host.peer == Some(link.index));
    outside.into_iter().filter(faces).map(|host| host.name).collect()
}

async fn links() -> io::Result<Vec<Link>> {
    let (connection, handle, _messages) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let messages = handle.link().get().execute().try_collect::<Vec<_>>().await.map_err(io::Error::other)?;
    driver.abort();
    let link = |message: rtnetlink::packet_route::link::LinkMessage| {
        let mut link = Link { index: message.header.index, peer: None, name: String::new() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Link(peer) => link.peer = Some(peer),
                _ => {}
            }
        }
        link
    };
    Ok(messages.into_iter().map(link).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_two_interfaces_that_name_each_other() {
        let link = |index, peer, name: &str| Link { index, peer, name: name.to_owned() };
        let inside = [link(1, None, "lo"), link(2, Some(7), "eth0")];
        let outside =
            vec![link(1, None, "lo"), link(7, Some(2), "veth-a"), link(8, Some(2), "veth-b"), link(2, Some(7), "c")];
        assert_eq!(paired(&inside, outside), ["veth-a"]);
    }
}
