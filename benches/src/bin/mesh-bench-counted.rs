//! The bench that runs inside a machine whose clock counts instructions; see `mesh_benches::counted`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_benches::counted::main()
}
