//! The figures of exits of one kind, as the monitor reads them from its account and the host tool from a log; and the one place
//! where two of them are added and where one is found to contradict itself.

use core::fmt;

/// Exits of one kind, and the TSC ticks that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Figures {
    /// Exits.
    pub count: u64,
    /// TSC ticks of all of them.
    pub cycles: u64,
    /// Ticks of the shortest; 0 where there is none, or it is not told.
    pub min: u64,
    /// Ticks of the longest; 0 where there is none, or it is not told.
    pub max: u64,
}

impl Figures {
    /// Adds more exits. If there are none, there is no shortest and no longest.
    pub fn add(&mut self, more: Figures) {
        if more.count > 0 {
            self.min = if self.count == 0 { more.min } else { self.min.min(more.min) };
            self.max = if self.count == 0 { more.max } else { self.max.max(more.max) };
        }
        self.count = self.count.saturating_add(more.count);
        self.cycles = self.cycles.saturating_add(more.cycles);
    }

    /// The sum of several.
    pub fn sum(all: impl Iterator<Item = Figures>) -> Self {
        all.fold(Self::default(), |mut sum, more| {
            sum.add(more);
            sum
        })
    }

    /// The fault in these figures, if no exits can have them. Every exit takes at least the minimum and at most the maximum.
    pub fn contradiction(self) -> Option<Contradiction> {
        let Figures { count, cycles, min, max } = self;
        if count == 0 {
            return (cycles > 0).then_some(Contradiction::TicksOfNoExit { cycles });
        }
        let all = |ticks: u64| u128::from(ticks) * u128::from(count);
        let is_possible = (all(min)..=all(max)).contains(&u128::from(cycles));
        (!is_possible).then_some(Contradiction::OutsideExtremes(self))
    }
}

/// A fault in figures that no exits can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// There are ticks and no exits.
    TicksOfNoExit {
        /// The ticks.
        cycles: u64,
    },
    /// So many exits between the minimum and the maximum can't have taken so many ticks.
    OutsideExtremes(Figures),
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contradiction::TicksOfNoExit { cycles } => write!(f, "no exit took {cycles} cycles"),
            Contradiction::OutsideExtremes(Figures { count, cycles, min, max }) => {
                write!(f, "{cycles} cycles are not {count} exits of {min} to {max} each")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn of(count: u64, cycles: u64, min: u64, max: u64) -> Figures {
        Figures { count, cycles, min, max }
    }

    #[test]
    fn extremes_are_those_of_exits_that_there_are() {
        assert_eq!(Figures::sum([of(0, 0, 0, 0), of(2, 150, 70, 80)].into_iter()), of(2, 150, 70, 80));
        assert_eq!(Figures::sum([of(2, 150, 70, 80), of(0, 0, 9, 99)].into_iter()), of(2, 150, 70, 80));
        assert_eq!(Figures::sum([of(2, 150, 70, 80), of(1, 60, 60, 60)].into_iter()), of(3, 210, 60, 80));
        assert_eq!(
            Figures::sum([of(u64::MAX, u64::MAX, 1, 1), of(2, 2, 1, 1)].into_iter()),
            of(u64::MAX, u64::MAX, 1, 1)
        );
    }

    #[test]
    fn ticks_lie_between_so_many_of_the_shortest_and_so_many_of_the_longest() {
        for figures in [of(0, 0, 0, 0), of(2, 140, 70, 80), of(2, 160, 70, 80), of(u64::MAX, u64::MAX, 1, u64::MAX)] {
            assert_eq!(figures.contradiction(), None, "{figures:?}");
        }
        for figures in [of(2, 139, 70, 80), of(2, 161, 70, 80), of(2, 150, 80, 70)] {
            assert_eq!(figures.contradiction(), Some(Contradiction::OutsideExtremes(figures)));
        }
        let sentence = |figures: Figures| figures.contradiction().unwrap().to_string();
        assert_eq!(sentence(of(2, 161, 70, 80)), "161 cycles are not 2 exits of 70 to 80 each");
        assert_eq!(sentence(of(0, 7, 0, 0)), "no exit took 7 cycles");
    }
}
