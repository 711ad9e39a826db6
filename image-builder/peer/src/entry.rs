//! The words of the command line: the machine's memory, and the state at the guest's first instruction.

/// The state at the first instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The first instruction's address.
    pub(crate) rip: u64,
    /// The stack.
    pub(crate) rsp: u64,
    /// The address of `boot_params`.
    pub(crate) rsi: u64,
    /// The address of the page tables.
    pub(crate) cr3: u64,
}

impl Entry {
    /// Reads words of `name=number`; the numbers are decimal, or hexadecimal behind `0x`.
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut entry = Self::default();
        for word in words {
            let wrong = || format!("`{word}` is no word of the command line");
            let (name, number) = word.split_once('=').ok_or_else(wrong)?;
            let field = match name {
                "memory-mib" => &mut entry.memory_mib,
                "rip" => &mut entry.rip,
                "rsp" => &mut entry.rsp,
                "rsi" => &mut entry.rsi,
                "cr3" => &mut entry.cr3,
                _ => return Err(wrong()),
            };
            let parsed = match number.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => number.parse(),
            };
            *field = parsed.map_err(|_| wrong())?;
        }
        if entry.memory_mib == 0 || entry.rip == 0 || entry.cr3 == 0 {
            return Err("memory-mib, rip and cr3 have to be named".to_owned());
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Entry, String> {
        Entry::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_word_is_a_field_and_a_number() {
        let entry = parse("memory-mib=256 rip=0x1000000 rsp=0x11000 rsi=17 cr3=0x13000").unwrap();
        assert_eq!(entry, Entry { memory_mib: 256, rip: 1 << 24, rsp: 0x1_1000, rsi: 17, cr3: 0x1_3000 });
        for (line, wrong) in [("rip=1 cr3=1", "memory-mib"), ("rip=x", "`rip=x`"), ("r=1", "`r=1`"), ("rip", "`rip`")] {
            assert!(parse(line).unwrap_err().contains(wrong), "{line}");
        }
    }
}
