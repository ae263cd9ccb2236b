//! The program that tests run inside pods; see `mesh_tests::app`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_tests::app::main()
}
