//! `tollgate`: the command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use tollgate::cli::{self, Cli};
use tollgate::{commands, interrupt};
use tollgate_books::terminal::Terminal;

fn main() -> ExitCode {
    // Help shows the models that the Bochs here has; no other command line has to ask Bochs for them.
    let wants_help = std::env::args_os().any(|word| ["-h", "--help", "help"].iter().any(|help| word == *help));
    let tool = if wants_help { cli::with_models() } else { Cli::command() };
    let cli = Cli::from_arg_matches(&tool.get_matches()).unwrap_or_else(|error| error.exit());
    interrupt::watch();
    match commands::run(cli.command) {
        Ok(status) => status.into(),
        Err(failure) => {
            Terminal::of_stderr().tell(&format!("tollgate: {failure}"));
            failure.status.into()
        }
    }
}
