//! The needs of an exit reason, for people.

use tollgate_abi::exit_reason::{EnabledBy, Need};
use tollgate_abi::x86::controls::Word;

/// The controls that make a reason possible, for people.
pub fn enabled_by(by: EnabledBy) -> String {
    match by {
        EnabledBy::Always => "always".to_owned(),
        EnabledBy::AnyOf(ways) => ways.iter().map(|needs| need_names(needs)).collect::<Vec<_>>().join(" or "),
    }
}

/// Needs that have to be met together.
pub fn need_names(needs: &[Need]) -> String {
    needs.iter().map(|&need| need_name(need)).collect::<Vec<_>>().join(" and ")
}

fn control_name(word: Word, bit: u8) -> String {
    word.name(bit).unwrap_or("a control without a name").to_owned()
}

fn need_name(need: Need) -> String {
    match need {
        Need::Pin(bit) => control_name(Word::Pin, bit),
        Need::Proc(bit) => control_name(Word::Proc, bit),
        Need::Proc2(bit) => control_name(Word::Proc2, bit),
        Need::Proc3(bit) => control_name(Word::Proc3, bit),
        Need::ExceptionBitmap => "exception bitmap".to_owned(),
        Need::CrMasks => "CR0 or CR4 mask".to_owned(),
        Need::IoBitmaps => "I/O bitmaps".to_owned(),
        Need::MsrReads | Need::MsrWrites => "MSR bitmaps".to_owned(),
        Need::Has(feature) => format!("processor: {}", feature.name()),
    }
}
