//! The destination of a report: standard output as it comes, or a file that is there only once it is whole.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::Path;

use tollgate_books::failure::Failure;
use tollgate_books::output_file::Pending;

/// The destination of a report.
pub(super) enum Destination {
    Standard(BufWriter<StdoutLock<'static>>),
    File(BufWriter<Pending>),
}

impl Destination {
    /// A file, or standard output.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, Failure> {
        Ok(match path {
            Some(path) => Destination::File(BufWriter::new(Pending::create(path)?)),
            None => Destination::Standard(BufWriter::new(io::stdout().lock())),
        })
    }

    /// Ends the report, given the result of writing to it. A reader that went away, as `head` does, is no failure.
    pub(super) fn close(self, result: io::Result<()>) -> Result<(), Failure> {
        match self {
            Destination::Standard(mut out) => match result.and_then(|()| out.flush()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    Err(Failure::usage(format_args!("standard output can't be written: {error}")))
                }
                _ => Ok(()),
            },
            Destination::File(out) => {
                let (pending, rest) = out.into_parts();
                let rest = rest.unwrap_or_default();
                pending.finish(result, &rest)
            }
        }
    }
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Destination::Standard(out) => out.write(bytes),
            Destination::File(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Destination::Standard(out) => out.flush(),
            Destination::File(out) => out.flush(),
        }
    }
}
