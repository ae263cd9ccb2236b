//! Which sandbox is whose, where the plugin did not hear of it, or the API says otherwise.

use super::*;

pub(super) fn a_pod_that_nobody_knows_fails(stage: &Stage) -> Result<()> {
    let ghost = stage.sandbox("shop", "ghost", "00000000-0000-4000-8000-000000000001")?;
    let (code, message) = stage.add_refused(&ghost)?;
    ensure!(code == 11 && message.contains("shop/ghost") && message.contains("no such pod"), "{code} {message}");
    stage.runtime.del(&ghost.sandbox, "")?;
    let ghost = stage.sandbox("plain", "phantom", "00000000-0000-4000-8000-000000000002")?;
    stage.add(&ghost)?;
    Ok(())
}

/// A kubelet and a runtime call it by the hash of its manifest; the API server by a uid of its own.
pub(super) fn a_static_pod_is_found_by_what_its_node_calls_it(stage: &Stage, server: &str) -> Result<()> {
    let hash = "0123456789abcdef0123456789abcdef";
    let node = stage.api.kubectl(&["get", "node", "a", "-o", "jsonpath={.metadata.uid}"])?;
    let mirror = |name: &str, owner: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  \
             annotations: {{kubernetes.io/config.mirror: '{hash}', kubernetes.io/config.hash: '{hash}'}}\n  \
             ownerReferences: [{{apiVersion: v1, kind: Node, name: {owner}, uid: {node}, controller: true}}]\n\
             spec: {{nodeName: a, containers: [{{name: c, image: none}}]}}\n"
        )
    };
    stage.api.apply(&mirror("stolen-a", "b"))?;
    let stolen = stage.sandbox("shop", "stolen-a", hash)?;
    let (code, message) = stage.add_refused(&stolen)?;
    ensure!(code == 11 && message.contains("no such pod"), "{code} {message}");
    stage.runtime.del(&stolen.sandbox, "")?;
    stage.api.apply(&mirror("static-a", "a"))?;
    let pod = stage.sandbox("shop", "static-a", hash)?;
    let result = stage.add(&pod)?;
    let _pause = pod.place.spawn(pod.place.command("sleep").arg("infinity"))?;
    let served = ["wait", "-n", "shop", "pod/static-a", "--for=condition=mesh.hauberk.dev/Served", "--timeout=30s"];
    stage.api.kubectl(&served)?;
    claims::answer_is_right(&call(&pod, server)?)?;
    let peer = ("peer.id", "spiffe://mesh.test/ns/shop/sa/default");
    stage.agent.wait_access(&[("direction", "inbound"), ("outcome", "ok"), peer])?;
    stage.runtime.check(&pod.sandbox, &result)?;
    stage.runtime.del(&pod.sandbox, &result)?;
    stage.wait_workload("shop/static-a", false)?;
    stage.api.kubectl(&["delete", "pod", "-n", "shop", "static-a", "stolen-a", "--force", "--grace-period=0"])?;
    Ok(())
}

pub(super) fn only_sandboxes_that_are_gone_are_collected(stage: &Stage, client: &Pod, server: &Pod) -> Result<()> {
    let (code, message) = stage.runtime.collect(PLUGIN, None)?.error()?;
    ensure!(code == 7 && message.contains("valid-attachments"), "{code} {message}");
    let empty = stage.pod("shop", "empty")?;
    stage.add(&empty)?;
    stage.wait_workload("shop/empty", true)?;
    let collected = stage.runtime.collect(PLUGIN, Some(&[&empty.sandbox, &server.sandbox]))?;
    ensure!(collected.succeeded, "{collected:?}");
    stage.wait_workload("shop/empty", true)?;
    // Nothing runs in that one, but in the two others.
    let collected = stage.runtime.collect(PLUGIN, Some(&[]))?;
    ensure!(collected.succeeded, "{collected:?}");
    stage.wait_workload("shop/empty", false)?;
    for (pod, name) in [(client, "shop/client"), (server, "shop/server")] {
        stage.wait_workload(name, true)?;
        let says = |line: &str| line.contains("does not list a sandbox that runs") && line.contains(&pod.sandbox.name);
        stage.agent.wait_log("a sandbox is kept", says)?;
    }
    Ok(())
}

/// As when another component has just rewritten the configuration: the agent hears of the end of a pod's first sandbox, or
/// not even of that, and not of the second.
pub(super) fn a_sandbox_that_was_not_handed_over_is_found(stage: &Stage, server: &str) -> Result<()> {
    for (name, hears_of_the_end) in [("again", true), ("unheard", false)] {
        let workload = format!("shop/{name}");
        let first = stage.pod("shop", name)?;
        let result = stage.add(&first)?;
        let pause = first.place.spawn(first.place.command("sleep").arg("infinity"))?;
        stage.wait_workload(&workload, true)?;
        drop(pause);
        if hears_of_the_end {
            stage.runtime.del(&first.sandbox, &result)?;
            stage.wait_workload(&workload, false)?;
        } else {
            stage.runtime.del_without(&first.sandbox, &result, PLUGIN)?;
        }
        let netns = Netns::create(&stage.cleanup, &format!("{}-{name}2", stage.world.name()))?;
        netns.ip("link set lo up\n")?;
        let (container, path) = (format!("c-{name}2"), netns.path().to_owned());
        let sandbox = Sandbox { container, netns: path, ..first.sandbox.clone() };
        let second = Pod { sandbox, place: Place { netns, ..first.place.clone() } };
        let result = stage.runtime.add_without(&second.sandbox, PLUGIN)?;
        let own = address(&result)?;
        let status = format!(r#"{{"status":{{"podIP":"{own}","podIPs":[{{"ip":"{own}"}}]}}}}"#);
        let patch = ["patch", "pod", "-n", "shop", name, "--subresource=status", "--type=merge", "-p", &status];
        stage.api.kubectl(&patch)?;
        let _pause = second.place.spawn(second.place.command("sleep").arg("infinity"))?;
        let says = |line: &str| line.contains("was not handed over") && line.contains(&workload);
        stage.agent.wait_log("the audit log says so", says)?;
        stage.wait_workload(&workload, true)?;
        wait_until(LIMIT, "it talks to a strict server", || {
            Ok(claims::answer_is_right(&call(&second, server)?).is_ok().then_some(()))
        })?;
        stage.runtime.del(&second.sandbox, &result)?;
        stage.api.kubectl(&["delete", "pod", "-n", "shop", name, "--force", "--grace-period=0"])?;
    }
    Ok(())
}

/// A pod and what runs in it.
pub(super) struct Nested {
    pub(super) pod: Pod,
    _processes: [Process; 2],
}

/// Its oldest process, as far as the node sees, has made itself a namespace of its own.
pub(super) fn a_pod_with_a_namespace_in_it(stage: &Stage, server: &str) -> Result<Nested> {
    let pod = stage.pod("shop", "nested")?;
    stage.add(&pod)?;
    let spawn = |program: &[&str]| pod.place.spawn(pod.place.command(program[0]).args(&program[1..]));
    let mut own = spawn(&["unshare", "--net", "sh", "-c", "echo apart; exec sleep infinity"])?;
    own.wait_line("it has a namespace", |line| line.contains("apart"))?;
    let processes = [own, spawn(&["sleep", "infinity"])?];
    claims::answer_is_right(&call(&pod, server)?)?;
    Ok(Nested { pod, _processes: processes })
}

/// By a mistake or by a lie, another pod has the server's address. That takes it out of everybody's reach, and not out of the mesh.
pub(super) fn who_loses_its_address_is_closed(
    stage: &mut Stage,
    client: &Pod,
    (outsider, open): (&Pod, &str),
    server: &str,
) -> Result<()> {
    say_address(stage, "thief", server)?;
    let fenced = |stage: &Stage| {
        wait_until(LIMIT, "the server is fenced", || {
            // An agent that has just begun doesn't answer yet.
            let told = stage.workloads().unwrap_or_default();
            Ok(told.contains("another pod claims its address too").then_some(()))
        })
    };
    fenced(stage)?;
    for pod in [outsider, client] {
        claims::is_refused(&call(pod, server)?)?;
    }
    // So it goes with one that has been handed over and hasn't begun yet: what it does first is refused too.
    let _open = serve(&outsider.place)?;
    say_address(stage, "outsider", open)?;
    claims::answer_is_right(&call(client, open)?)?;
    let early = stage.pod("shop", "early")?;
    let result = stage.add(&early)?;
    say_address(stage, "thief", &address(&result)?)?;
    wait_until(LIMIT, "the pod that has not begun is fenced", || {
        let told: Vec<Value> = serde_json::from_str(&stage.workloads()?)?;
        let is_early = |one: &&Value| one["workload"] == "shop/early";
        let why = told.iter().find(is_early).and_then(|one| one["reason"].as_str());
        Ok(why.is_some_and(|why| why.contains("another pod claims")).then_some(()))
    })?;
    claims::is_refused(&call(&early, open)?)?;
    stage.runtime.del(&early.sandbox, &result)?;
    stage.wait_workload("shop/early", false)?;
    say_address(stage, "thief", server)?;
    fenced(stage)?;
    // A new agent finds it so, and leaves it so.
    stage.agent.kill9()?;
    stage.agent.start_again()?;
    fenced(stage)?;
    claims::is_refused(&call(outsider, server)?)?;
    stage.api.kubectl(&["delete", "pod", "thief", "-n", "plain", "--force", "--grace-period=0"])?;
    wait_until(LIMIT, "the server is served again", || {
        Ok(claims::answer_is_right(&call(client, server)?).is_ok().then_some(()))
    })?;
    claims::is_refused(&call(outsider, server)?)
}

/// Says as a kubelet does that a pod outside the mesh has this address.
fn say_address(stage: &Stage, name: &str, address: &str) -> Result<()> {
    stage.api.apply(&pod_document("plain", name))?;
    let status = format!(r#"{{"status":{{"phase":"Running","podIP":"{address}","podIPs":[{{"ip":"{address}"}}]}}}}"#);
    let patch = ["patch", "pod", name, "-n", "plain", "--subresource=status", "--type=merge", "-p", &status];
    stage.api.kubectl(&patch).map(drop)
}

/// `kubectl delete --force` takes the object at once, and the processes later.
pub(super) fn who_is_gone_from_the_api_is_closed_while_it_runs(
    stage: &Stage,
    serving: Process,
    outsider: &Pod,
    server: &str,
) -> Result<()> {
    stage.api.kubectl(&["delete", "pod", "server", "-n", "shop", "--force", "--grace-period=0"])?;
    wait_until(LIMIT, "the server is fenced", || {
        Ok(stage.workloads()?.contains("no address of it is known any more").then_some(()))
    })?;
    claims::is_refused(&call(outsider, server)?)?;
    drop(serving);
    stage.wait_workload("shop/server", false)
}
