//! `tollgate completions` and `tollgate man`: the command line for shells and for `man`.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use tollgate_books::failure::{Failure, Status};
use tollgate_books::output_file;

use super::print;
use crate::cli::{self, Cli, ManArguments};

pub(super) fn completions(shell: Shell) -> Result<Status, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut cli::with_models(), "tollgate", &mut text);
    print(&String::from_utf8_lossy(&text)).map(|()| Status::Balanced)
}

pub(super) fn man(arguments: &ManArguments) -> Result<Status, Failure> {
    let mut tool = Cli::command().disable_help_subcommand(true);
    // Gives the commands their full names.
    tool.build();
    let Some(directory) = &arguments.out else {
        return print(&page(tool)).map(|()| Status::Balanced);
    };
    output_file::create_directory(directory)?;
    let commands: Vec<_> = tool.get_subcommands().cloned().collect();
    for command in std::iter::once(tool).chain(commands) {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        output_file::write(&directory.join(format!("{name}.1")), page(command).as_bytes())?;
    }
    Ok(Status::Balanced)
}

fn page(command: clap::Command) -> String {
    let mut text = Vec::new();
    // Writing to memory can't fail.
    let _ = Man::new(command).render(&mut text);
    // The text below a command's help begins with a heading of its own.
    let text = String::from_utf8_lossy(&text);
    text.replace(".SH EXTRA\nExamples:", ".SH EXAMPLES").replace(".SH EXTRA\nExit statuses:", ".SH \"EXIT STATUS\"")
}
