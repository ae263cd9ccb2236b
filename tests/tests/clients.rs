//! A reset, a half-close and a refused port, as clients in three languages see them: like a network's own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::mesh::{Mesh, Mode};
use mesh_tests::process::{Place, Process};
use mesh_tests::world::{Family, World};

/// Answers what it has read once the client has ended its half.
const HALF_CLOSE: u16 = 7400;
/// Resets after the first bytes.
const RESETS: u16 = 7401;
/// Nobody listens.
const REFUSED: u16 = 7402;

const PYTHON: &str = r#"
import socket, sys
def talk(port, half_close):
    try:
        with socket.create_connection((sys.argv[1], port), timeout=20) as s:
            s.sendall(b"0123456789")
            if half_close:
                s.shutdown(socket.SHUT_WR)
            n = 0
            while data := s.recv(65536):
                n += len(data)
            return str(n)
    except OSError as error:
        return type(error).__name__
half_close, resets, refused = map(int, sys.argv[2:])
print(talk(half_close, True), talk(resets, False), talk(refused, False))
"#;

const GO: &str = r#"package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

func talk(port string, halfClose bool) string {
	c, err := net.Dial("tcp", net.JoinHostPort(os.Args[1], port))
	if err == nil {
		defer c.Close()
		_, err = c.Write([]byte("0123456789"))
	}
	var n int64
	if err == nil && halfClose {
		err = c.(*net.TCPConn).CloseWrite()
	}
	if err == nil {
		n, err = io.Copy(io.Discard, c)
	}
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNREFUSED):
		return "ConnectionResetError"
	case err != nil:
		return err.Error()
	}
	return fmt.Sprint(n)
}

func main() {
	ports := os.Args[2:]
	fmt.Println(talk(ports[0], true), talk(ports[1], false), talk(ports[2], false))
}
"#;

/// The half-closed connection is answered whole, the two others are resets.
const SEEN: &str = "5000 ConnectionResetError ConnectionResetError";

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn python_sees_what_a_network_would_show() -> Result<()> {
    sees_what_a_network_would_show(|client, _| {
        let mut python = client.command("python3");
        python.args(["-c", PYTHON]);
        Ok(python)
    })
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn go_sees_what_a_network_would_show() -> Result<()> {
    sees_what_a_network_would_show(|client, directory| Ok(client.command(build_go(directory)?)))
}

/// `program` makes the client, which takes the server's address and the three ports.
fn sees_what_a_network_would_show(program: impl Fn(&Place, &Path) -> Result<Command>) -> Result<()> {
    let world = World::standard()?;
    let _half = world.pod("server").act_serve(HALF_CLOSE, &["drain", "send:5000", "close"])?;
    let _resets = world.pod("server").act_serve(RESETS, &["receive:10", "reset"])?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let client = world.pod("client");
    for family in Family::BOTH {
        let host = world.pod("server").address(family).to_string();
        let ports = [HALF_CLOSE, RESETS, REFUSED].map(|port| port.to_string());
        seen(client, program(client, world.directory())?.arg(&host).args(&ports))?;
    }
    Ok(())
}

fn seen(client: &Place, command: &mut Command) -> Result<()> {
    let printed = client.run(command)?.success()?;
    ensure!(printed.trim() == SEEN, "{command:?} printed {printed}");
    Ok(())
}

fn build_go(directory: &Path) -> Result<std::path::PathBuf> {
    let (source, binary) = (directory.join("client.go"), directory.join("client"));
    std::fs::write(&source, GO)?;
    let mut build = Command::new("go");
    // No toolchain, module or cache of the user's is touched.
    build.env("GO111MODULE", "off").env("GOTOOLCHAIN", "local").env("GOCACHE", directory.join("go-cache"));
    build.env("CGO_ENABLED", "0").args(["build", "-o"]).arg(&binary).arg(&source);
    let output = build.output().context("run `go` (Debian package golang-go)")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(binary)
}

#[test]
#[cfg_attr(not(feature = "native"), ignore = "needs root: cargo xtask test native")]
fn a_redis_client_sees_its_server_die_and_stay_away() -> Result<()> {
    let world = World::standard()?;
    let mut redis = start_redis(&world)?;
    let _mesh = Mesh::start(&world, Mode::Strict)?;
    let client = world.pod("client");
    for family in Family::BOTH {
        let host = world.pod("server").address(family).to_string();
        let cli = |arguments: &[&str]| {
            let mut command = client.command("redis-cli");
            client.run(command.args(["-h", &host]).args(arguments))
        };
        ensure!(cli(&["ping"])?.success()?.trim() == "PONG");
        // The server closes in the middle of a client's session.
        let quit = cli(&["client", "kill", "type", "normal", "skipme", "no"])?;
        ensure!(quit.stdout.contains('1') || quit.stderr.contains("closed"), "{quit:?}");
    }
    redis.kill9()?;
    for family in Family::BOTH {
        let host = world.pod("server").address(family).to_string();
        let mut command = client.command("redis-cli");
        let dead = client.run(command.args(["-h", &host, "ping"]))?;
        let said = dead.stdout.clone() + &dead.stderr;
        ensure!(said.contains("reset") || said.contains("closed") || said.contains("refused"), "{dead:?}");
    }
    Ok(())
}

fn start_redis(world: &World) -> Result<Process> {
    let server = world.pod("server");
    let mut command = server.command("redis-server");
    command.args(["--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", ""]);
    let mut process = server.spawn(command.arg("--dir").arg(world.directory()))?;
    process.wait_line("redis listens", |line| line.contains("Ready to accept connections"))?;
    Ok(process)
}
