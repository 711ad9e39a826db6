//! `tollgate`: the command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use image_builder::cli::Cli;
use image_builder::terminal::Terminal;
use image_builder::{commands, interrupt};

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::watch();
    match commands::run(cli.command) {
        Ok(status) => status.into(),
        Err(failure) => {
            Terminal::of_stderr().tell(&format!("tollgate: {failure}"));
            failure.status.into()
        }
    }
}
