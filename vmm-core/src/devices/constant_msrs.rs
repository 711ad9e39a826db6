//! The MSRs that read the same value: IA32_APIC_BASE, which differs between vCPUs, and those of the machine's row, of which one may
//! keep what is written.

use tollgate_abi::apic::IA32_APIC_BASE;
use tollgate_abi::machine::{ConstantMsr, Model, Writes};

/// A write that raises #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The constant MSRs of one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct ConstantMsrs {
    apic_base: u64,
    /// For the quick form: the first two MSRs of the row whose values have 32 bits. A missing one is IA32_APIC_BASE, which is
    /// looked for before them.
    short: [Short; 2],
    row: &'static [ConstantMsr],
    /// The value of the MSR that keeps what is written.
    kept: u64,
}

/// An MSR of the quick form.
#[derive(Clone, Copy, Debug)]
struct Short {
    msr: u32,
    value: u32,
}

impl ConstantMsrs {
    /// The constant MSRs of a machine, with `apic_base` in IA32_APIC_BASE.
    pub fn new(model: &'static Model, apic_base: u64) -> Self {
        let mut short = [Short { msr: IA32_APIC_BASE, value: 0 }; 2];
        let of_row = model
            .msrs
            .iter()
            .filter(|constant| constant.writes != Writes::Kept)
            .filter_map(|constant| Some(Short { msr: constant.msr, value: u32::try_from(constant.value).ok()? }));
        short.iter_mut().zip(of_row).for_each(|(into, constant)| *into = constant);
        let kept = model.msrs.iter().find(|constant| constant.writes == Writes::Kept).map_or(0, |kept| kept.value);
        Self { apic_base, short, row: model.msrs, kept }
    }

    /// The value of IA32_APIC_BASE.
    pub fn apic_base(&self) -> u64 {
        self.apic_base
    }

    /// Changes the value of IA32_APIC_BASE.
    pub fn set_apic_base(&mut self, value: u64) {
        self.apic_base = value;
    }

    /// The value of an MSR of the quick form.
    #[inline(always)]
    pub fn quick(&self, msr: u32) -> Option<u64> {
        if msr == IA32_APIC_BASE {
            return Some(self.apic_base);
        }
        core::hint::cold_path();
        let [second, third] = self.short;
        match msr {
            _ if msr == second.msr => Some(second.value.into()),
            _ if msr == third.msr => Some(third.value.into()),
            _ => None,
        }
    }

    fn find(&self, msr: u32) -> Option<ConstantMsr> {
        if msr == IA32_APIC_BASE {
            // A write that changes the APIC's mode does not come here.
            return Some(ConstantMsr { msr, value: self.apic_base, writes: Writes::Refused });
        }
        let found = self.row.iter().find(|constant| constant.msr == msr).copied()?;
        Some(if found.writes == Writes::Kept { ConstantMsr { value: self.kept, ..found } } else { found })
    }

    /// RDMSR; `None` if the MSR is none of these.
    pub fn read(&self, msr: u32) -> Option<u64> {
        self.find(msr).map(|constant| constant.value)
    }

    /// WRMSR; `None` if the MSR is none of these.
    pub fn write(&mut self, msr: u32, value: u64) -> Option<Result<(), Refused>> {
        let found = self.find(msr)?;
        match found.writes {
            Writes::Refused if value != found.value => return Some(Err(Refused)),
            Writes::Refused | Writes::Ignored => {}
            Writes::Kept => self.kept = value,
        }
        Some(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::machine::{LEGACY_PC, UNIKERNEL};
    use tollgate_abi::x86::msr::{IA32_MISC_ENABLE, PERF_CTL0};

    #[test]
    fn a_row_of_any_length_is_read_whole() {
        const fn row(msr: u32, value: u64) -> ConstantMsr {
            ConstantMsr { msr, value, writes: if msr % 2 == 1 { Writes::Ignored } else { Writes::Refused } }
        }
        const ROWS: [ConstantMsr; 5] = [row(10, 1), row(11, 2), row(12, 3), row(13, 4), row(14, 5)];
        const MODELS: [Model; 4] = [
            Model { msrs: &[], ..UNIKERNEL },
            Model { msrs: &[ROWS[0]], ..UNIKERNEL },
            Model { msrs: &[ROWS[0], ROWS[1]], ..UNIKERNEL },
            Model { msrs: &ROWS, ..UNIKERNEL },
        ];
        for model in &MODELS {
            let mut msrs = ConstantMsrs::new(model, 0x900);
            assert_eq!((msrs.quick(IA32_APIC_BASE), msrs.read(IA32_APIC_BASE)), (Some(0x900), Some(0x900)));
            assert_eq!(
                (msrs.write(IA32_APIC_BASE, 0x900), msrs.write(IA32_APIC_BASE, 0)),
                (Some(Ok(())), Some(Err(Refused)))
            );
            for row in &ROWS {
                let expected = model.msrs.contains(row).then_some(row.value);
                assert_eq!(msrs.read(row.msr), expected, "{row:?}");
                assert!(msrs.quick(row.msr).is_none_or(|value| Some(value) == expected), "{row:?}");
                let write = expected.map(|_| if row.writes == Writes::Ignored { Ok(()) } else { Err(Refused) });
                assert_eq!(msrs.write(row.msr, 99), write, "{row:?}");
                assert_eq!(msrs.write(row.msr, row.value), expected.map(|_| Ok(())), "{row:?}");
            }
            assert_eq!((msrs.read(0), msrs.quick(0)), (None, None));
        }
    }
    #[test]
    fn one_may_keep_what_is_written() {
        let mut msrs = ConstantMsrs::new(&LEGACY_PC, 0x900);
        assert_eq!((msrs.read(IA32_MISC_ENABLE), msrs.quick(IA32_MISC_ENABLE)), (Some(1), None));
        assert_eq!(msrs.write(IA32_MISC_ENABLE, 0x4_00c5_0889), Some(Ok(())));
        assert_eq!(msrs.read(IA32_MISC_ENABLE), Some(0x4_00c5_0889));
        assert_eq!((msrs.write(PERF_CTL0, 7), msrs.read(PERF_CTL0)), (Some(Ok(())), Some(0)));
    }
}
