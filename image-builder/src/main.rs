//! `tollgate`: the command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use image_builder::cli::Cli;
use image_builder::{commands, interrupt};

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::watch();
    match commands::run(cli.command) {
        Ok(status) => status.into(),
        Err(failure) => {
            eprintln!("tollgate: {failure}");
            failure.status.into()
        }
    }
}
