//! The errors of bytes that are not the log of one run.

use std::io;

use tollgate_abi::record::PROTOCOL;

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
    /// Records, but not the first one.
    #[error("the log has no beginning: {records} records, and none of them is the first, `tollgate`")]
    NoBeginning {
        /// Records that it has.
        records: u64,
    },
    /// A second beginning.
    #[error("line {line} starts another run: the file holds more than one; split it and report each part")]
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
    /// The file can't be read.
    #[error("the log can't be read: {0}")]
    Read(#[from] io::Error),
}
