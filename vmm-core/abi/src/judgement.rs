//! The words by which records judge a workload, a scenario or a run.

/// The monitor's judgement of a workload, a scenario or a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// All books agree.
    Balanced,
    /// Nothing was compared, since the monitor kept no ledger.
    Unaccounted,
    /// The books differ.
    Differs,
    /// An assertion failed.
    Failed,
    /// A scenario was not run: the processor lacks a feature that it needs.
    Denied,
    /// The guest had to be stopped.
    Stopped,
    /// The machine can't run the image.
    Refused,
    /// The monitor itself could not go on.
    Fault,
}

impl Judgement {
    /// Every judgement.
    pub const ALL: [Self; 8] = [
        Self::Balanced,
        Self::Unaccounted,
        Self::Differs,
        Self::Failed,
        Self::Denied,
        Self::Stopped,
        Self::Refused,
        Self::Fault,
    ];

    /// The word in records.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::Unaccounted => "unaccounted",
            Self::Differs => "differs",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Stopped => "stopped",
            Self::Refused => "refused",
            Self::Fault => "fault",
        }
    }

    /// The judgement with this word; `None` if there is none.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|judgement| judgement.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judgement_is_found_by_its_word() {
        assert!(Judgement::ALL.iter().all(|&judgement| Judgement::of(judgement.word()) == Some(judgement)));
        assert_eq!(Judgement::of("balance"), None);
    }
}
