//! The load generator that the bench runs inside pods; see `mesh_benches::load`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_benches::load::main()
}
