//! Programs that run anywhere are relocated for their place.

mod checks;
mod elf;
mod program;

use checks::number;
use elf::Image;
use program::{DT_RELA, ENTRY, MEMORY_BYTES, RELOCATIONS, WORDS, image};
use proptest::prelude::*;
use tollgate_guests::{Program, place_program};

const BASE: u64 = 0x10_0000;

fn placed(image: &Image) -> Result<Program, String> {
    place_program(&image.bytes(), BASE).map_err(|error| error.to_string())
}

fn word(program: &Program, at: usize) -> u64 {
    number(&program.segments[0].bytes, at, 8)
}

#[test]
fn a_program_is_relocated_for_its_place() {
    let program = placed(&image(&[], &RELOCATIONS)).unwrap();
    assert_eq!((program.segments.len(), program.segments[0].gpa, program.entry_gpa), (1, BASE, BASE + ENTRY));
    let words = [0, 8, 16, 24].map(|at| word(&program, WORDS + at));
    assert_eq!(words, [BASE + 0x123, BASE + 0x48, BASE + 0x50, 0]);
    // The file ends before this word.
    assert_eq!(word(&program, MEMORY_BYTES as usize - 8), BASE + 0x20);
    let relative = [0x40, 0x48, 0x50, 0x58].map(|at| word(&program, WORDS + at));
    assert_eq!(relative, [BASE + 1, BASE + 2, 3, BASE + 4]);
    assert_eq!([0x238, 0x240, 0x248].map(|at| word(&program, WORDS + at)), [0, BASE, 0]);
}

#[test]
fn a_program_at_fixed_addresses_stays_as_it_is() {
    let mut fixed = image(&[], &[]);
    fixed.kind = 2;
    fixed.entry += BASE;
    (fixed.loaded[0].virtual_address, fixed.loaded[0].gpa) = (BASE, 0);
    fixed.parts.clear();
    let program = place_program(&fixed.bytes(), 0x80_0000).unwrap();
    assert_eq!((program.segments[0].gpa, program.entry_gpa), (BASE, BASE + ENTRY));
    assert_eq!(program.segments[0].bytes, fixed.loaded[0].bytes);
}

#[test]
fn a_place_has_the_programs_alignment() {
    let mut file = image(&[], &RELOCATIONS).bytes();
    // The first program header's p_align.
    file[64 + 48..64 + 56].copy_from_slice(&0x20_0000u64.to_le_bytes());
    let program = place_program(&file, BASE).unwrap();
    assert_eq!((program.segments[0].gpa, word(&program, WORDS)), (0x20_0000, 0x20_0123));
    let mut high = image(&[], &[]);
    (high.loaded[0].virtual_address, high.entry) = (0x3000, 0x3010);
    high.parts.clear();
    assert_eq!(placed(&high).unwrap().entry_gpa, BASE + 0x3010);
    high.loaded[0].virtual_address = u64::MAX - 0x1000;
    assert!(placed(&high).unwrap_err().contains("in none of its segments"));
}

#[test]
fn what_only_a_dynamic_loader_could_do_is_refused() {
    let refused = |image: &Image, cause: &str| {
        assert_eq!(placed(image).unwrap_err(), format!("the kernel's ELF file {cause}"));
    };
    refused(&image(&[[1, 5]], &[]), "wants a library, and there is no dynamic loader");
    let without = "has relocations without addends, as no 64-bit program of x86 has";
    refused(&image(&[[17, 0x200]], &[]), without);
    refused(&image(&[[20, 17]], &[]), without);
    assert!(placed(&image(&[[20, DT_RELA]], &[])).is_ok());
    let kind = |kind| image(&[], &[(WORDS as u64, kind, 0, 0)]);
    refused(&kind(37), "has a relocation of type 37, which only a dynamic loader could make");
    let of = |place, symbol| image(&[], &[(place, program::R_64, symbol, 0)]);
    refused(&of(WORDS as u64, 3), "wants its symbol 3 from a library, and there is no dynamic loader");
    let outside = |bytes, at| format!("has relocations of {bytes} bytes at {at:#x}, which is in none of its segments");
    refused(&of(0xff9, 1), &outside(8, 0xff9));
    refused(&of(u64::MAX, 1), &outside(8, u64::MAX));
    refused(&of(WORDS as u64, 0x1000), &outside(24, 0x1_8340));
    let mut behind = image(&[], &[]);
    behind.entry = MEMORY_BYTES;
    refused(&behind, "has its entry point, 0x1000, in none of its segments");
    let narrow = Image { is_wide: false, machine: elf::EM_386, ..image(&[], &[]) };
    assert!(placed(&Image { parts: Vec::new(), ..narrow }).unwrap_err().contains("32-bit"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_program_is_placed_or_refused(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(0usize..0x700),
        base in 0u64..0x1_0000_0000,
    ) {
        let mut file = image(&[], &RELOCATIONS).bytes();
        for (at, value) in changes {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(cut.unwrap_or(usize::MAX));
        if let Ok(program) = place_program(&file, base) {
            let holds = |segment: &tollgate_guests::Segment| (segment.gpa..segment.end()).contains(&program.entry_gpa);
            prop_assert!(program.segments.iter().any(holds));
            prop_assert!(program.segments.iter().all(|segment| segment.bytes.len() as u64 <= segment.memory_bytes));
            prop_assert!(program.segments.windows(2).all(|pair| pair[0].end() <= pair[1].gpa));
        }
    }
}
