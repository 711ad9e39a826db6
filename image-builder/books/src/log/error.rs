//! The errors of bytes that are not the log of one run.

use std::io;

use tollgate_abi::record::PROTOCOL;

use super::packing::Packing;

/// The reason that bytes are not the log of one run.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No bytes at all.
    #[error("the log is empty: the image said nothing")]
    Empty,
    /// No record at all.
    #[error("this is not a log of Tollgate: none of its {lines} lines is a record")]
    NotOurs {
        /// Lines that it has.
        lines: u64,
    },
    /// Records, but none that is whole.
    #[error("none of its {lines} records is whole: each is damaged, as where lines are cut or rewritten")]
    Damaged {
        /// Lines with a part of a record.
        lines: u64,
    },
    /// No run of the number that was asked for.
    #[error("it has no run {run}")]
    NoSuchRun {
        /// The number.
        run: u64,
    },
    /// More runs than the one that is wanted.
    #[error("it has several runs: name one of them, as in FILE#2")]
    SeveralRuns,
    /// A second beginning, where one run is expected.
    #[error("line {line} starts another run, and one is expected")]
    AnotherRun {
        /// The line of the second beginning.
        line: u64,
    },
    /// Another version of the protocol.
    #[error(
        "the log is of protocol version {found}, and this tool reads version {PROTOCOL}; use the tool that wrote it"
    )]
    Protocol {
        /// The version that it names.
        found: u64,
    },
    /// Two records with right checksums that contradict each other.
    #[error("line {line}: the record `{kind}` {problem}; the lines of two runs are mixed")]
    Contradiction {
        /// The second record's line.
        line: u64,
        /// The records' first word.
        kind: &'static str,
        /// The contradiction.
        problem: String,
    },
    /// A record with a right checksum and wrong contents.
    #[error("line {line}: the record `{kind}` {problem}; the log comes from another build of the monitor")]
    Record {
        /// The record's line.
        line: u64,
        /// The record's first word.
        kind: &'static str,
        /// The fault.
        problem: String,
    },
    /// More than any run writes.
    #[error("line {line}: more than {most} {what}, which no run writes")]
    TooMany {
        /// The line of the first that is too much.
        line: u64,
        /// The things of which there are too many.
        what: &'static str,
        /// The most that there may be.
        most: usize,
    },
    /// Packed in a way that is not unpacked.
    #[error("it is packed as {0}, or more than once: unpack it first")]
    Packed(Packing),
    /// There is no such file, or it may not be opened.
    #[error("{0}")]
    Open(io::Error),
    /// The file can't be read.
    #[error("the log can't be read: {0}")]
    Read(#[from] io::Error),
}
