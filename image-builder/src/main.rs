//! `tollgate`: the command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use tollgate::cli::Cli;
use tollgate::{commands, interrupt};
use tollgate_books::terminal::Terminal;

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
