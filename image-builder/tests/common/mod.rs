//! The tool as a process, and the logs that the tests of the books build.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test binary uses a part of this module")]

#[path = "../../books/tests/common/mod.rs"]
mod logs;
mod script;
pub mod sticks;

use std::path::Path;
use std::process::{Command, Output};

pub use logs::*;
pub use script::write_script;

/// Runs the tool.
pub fn tollgate(arguments: &[&str]) -> Output {
    tollgate_in(Path::new("."), arguments, &[])
}

/// Runs the tool in a directory, with these variables.
pub fn tollgate_in(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.current_dir(directory).args(arguments).envs(variables.iter().copied());
    command.output().expect("the tool starts")
}
