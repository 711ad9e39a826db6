//! The end of a command before its time: a sentence for the person, and the exit status that a script reads.

use std::fmt;
use std::process::ExitCode;

/// The exit statuses of every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// The books balance; the command did what it was asked.
    Balanced = 0,
    /// The books differ, or the guest failed or had to be stopped.
    Differs = 1,
    /// Wrong usage: options, or files that cannot be used.
    Usage = 2,
    /// The platform cannot run the image.
    Platform = 3,
    /// No verdict in time.
    NoVerdict = 4,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(status as u8)
    }
}

/// Why a command ended early. Displays as a sentence, with the remedy on a line of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit status of the process.
    pub status: Status,
    sentence: String,
    remedy: Option<String>,
}

impl Failure {
    /// A failure that ends the process with `status`.
    pub fn new(status: Status, sentence: impl fmt::Display) -> Self {
        Self { status, sentence: sentence.to_string(), remedy: None }
    }

    /// Wrong usage.
    pub fn usage(sentence: impl fmt::Display) -> Self {
        Self::new(Status::Usage, sentence)
    }

    /// Something that this machine lacks.
    pub fn platform(sentence: impl fmt::Display) -> Self {
        Self::new(Status::Platform, sentence)
    }

    /// A run that ended without a verdict.
    pub fn no_verdict(sentence: impl fmt::Display) -> Self {
        Self::new(Status::NoVerdict, sentence)
    }

    /// Adds the name of the run, of several, in which it came up.
    #[must_use]
    pub fn during(mut self, run: impl fmt::Display) -> Self {
        self.sentence += &format!(" ({run})");
        self
    }

    /// The event, without its remedy.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }

    /// Adds what the person can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.sentence)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  remedy: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}
