//! The figures of exits of one kind, as the monitor reads them from its account and the host tool from a log; and the one place
//! where two of them are added.

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
