//! Every kind of record and its fields, once: the writer, the reader, the document and the test of the round trip are made from
//! it.
//!
//! A field that is renamed here is renamed at both ends, or neither compiles. A record has its fields in the order of the table.

use core::fmt::{self, Write};

use super::form::{Form, Hex, Histogram, Number, Numbers, Optional, Packed, Quoted, Reason, Runs, Word};
use super::{Record, Writer};

/// A field as the document shows it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The field's key.
    pub key: &'static str,
    /// The field's form in words.
    pub form: &'static str,
    /// Whether a record may lack the field.
    pub may_lack: bool,
    /// The field's meaning.
    pub about: &'static str,
}

macro_rules! form {
    ($form:ident) => { $form };
    ($form:ident optional) => { Optional<$form> };
}

macro_rules! records {
    ($($(#[doc = $about:literal])+ $kind:ident $word:literal {
        $($(#[doc = $field_about:literal])+ $field:ident: $form:ident $($optional:ident)?,)*
    })*) => {
        /// The kind of a record, which is its first word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[doc = $about])+ $kind),* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// The word that a record of this kind starts with.
            pub const fn word(self) -> &'static str {
                match self { $(Kind::$kind => $word),* }
            }

            /// The kind whose records start with this word.
            pub fn of_word(word: &[u8]) -> Option<Self> {
                $(
                    if word == $word.as_bytes() {
                        return Some(Kind::$kind);
                    }
                )*
                None
            }

            /// The kind's meaning, for the document.
            pub const fn about(self) -> &'static str {
                match self { $(Kind::$kind => concat!($($about),+)),* }
            }

            /// The fields, in their order.
            pub const fn fields(self) -> &'static [Field] {
                match self {
                    $(Kind::$kind => &[$(Field {
                        key: stringify!($field),
                        form: <form!($form $($optional)?) as Form>::WORDS,
                        may_lack: <form!($form $($optional)?) as Form>::MAY_LACK,
                        about: concat!($($field_about),+),
                    }),*]),*
                }
            }
        }

        $(
            $(#[doc = $about])+
            #[allow(missing_debug_implementations, reason = "a field may be anything that displays")]
            pub struct $kind<'a> {
                $($(#[doc = $field_about])+ pub $field: <form!($form $($optional)?) as Form>::Written<'a>,)*
            }

            impl $kind<'_> {
                /// Writes the record on a line of its own.
                ///
                /// # Errors
                /// The sink's.
                #[inline(never)]
                pub fn write<W: Write + ?Sized>(&self, out: &mut W) -> fmt::Result {
                    let writer = Writer::new(out, Kind::$kind);
                    $(let writer = <form!($form $($optional)?) as Form>::write(writer, stringify!($field), &self.$field);)*
                    writer.finish()
                }
            }
        )*

        /// The records as they are read.
        pub mod read {
            use super::super::{Index, Written};
            use super::{
                Form, Hex, Histogram, Number, Numbers, Optional, Packed, Quoted, Reason, Record, Runs, Word,
            };

            $(
                $(#[doc = $about])+
                #[derive(Clone, Copy, Debug)]
                pub struct $kind<'a> {
                    $($(#[doc = $field_about])+ pub $field: <form!($form $($optional)?) as Form>::Read<'a>,)*
                }

                impl<'a> $kind<'a> {
                    /// Reads fields as a writer writes them; `None` if anything differs, and [`Self::of`] may read the record.
                    #[inline]
                    pub fn written(fields: &'a str) -> Option<Self> {
                        let mut fields = Written::of(fields);
                        $(let $field = <form!($form $($optional)?) as Form>::next(&mut fields, stringify!($field))?;)*
                        fields.is_done().then_some(Self { $($field),* })
                    }

                    /// Reads the fields of a record of this kind.
                    ///
                    /// # Errors
                    /// The key of the first field that is absent though it must be there, or malformed.
                    pub fn of(record: &Record<'a>) -> core::result::Result<Self, &'static str> {
                        let record = Index::of(record);
                        Ok(Self {
                            $($field: <form!($form $($optional)?) as Form>::read(&record, stringify!($field))
                                .ok_or(stringify!($field))?,)*
                        })
                    }
                }
            )*
        }

        #[cfg(test)]
        pub(super) mod round_trip {
            use super::*;
            use crate::record::form::tests::Sample;
            use crate::record::parse;

            /// Writes each kind with samples in all of its fields and reads them back.
            pub(in crate::record) fn every_kind() {
                $({
                    let mut line = std::string::String::new();
                    let record: $kind<'_> =
                        $kind { $($field: <form!($form $($optional)?) as Sample>::written()),* };
                    record.write(&mut line).unwrap();
                    let parsed = parse(line.as_bytes()).unwrap();
                    assert_eq!(parsed.kind, Kind::$kind);
                    let keys: std::vec::Vec<_> = parsed.fields().map(|(key, _)| key).collect();
                    assert_eq!(keys, [$(stringify!($field)),*]);
                    let fields = line.split_once(' ').unwrap().1.rsplit_once(" ~").unwrap().0;
                    let at_once = read::$kind::written(fields).unwrap();
                    for read in [read::$kind::of(&parsed).unwrap(), at_once] {
                        $(assert!(
                            <form!($form $($optional)?) as Sample>::is_read_as_written(&read.$field),
                            "{}: {line}", stringify!($field)
                        );)*
                    }
                })*
            }
        }
    };
}

records! {
    /// The first record: the build, the machine and the options of the run.
    Tollgate "tollgate" {
        /// Version of the protocol.
        protocol: Number,
        /// The monitor's build.
        build: Word optional,
        /// The machine that the monitor was started by: `rom` or `uefi`.
        platform: Word optional,
        /// The extension: `VT-x`, `SVM`, or `none`.
        virtualization: Word optional,
        /// The processor's name.
        cpu: Quoted optional,
        /// Edition of the manual that the table of exit reasons is of.
        sdm: Word optional,
        /// The term by which the course's leaves are numbered.
        leaf_map: Word optional,
        /// Number of vCPUs; 1 in logs that do not tell.
        vcpus: Number optional,
        /// Facts of the processor that predictions depend on, as bits.
        facts: Number optional,
        /// The run's options, as a line.
        options: Quoted optional,
    }
    /// The memory that the monitor found, and the part that it gave the guest, in bytes.
    Memory "memory" {
        /// All memory of the machine.
        total: Number,
        /// The guest's memory.
        guest: Number,
        /// The guest's memory that is mapped page by page, on first touch.
        fresh: Number,
    }
    /// Properties of the processor that vCPU 0 runs on: those that decide the cost of an exit on silicon, besides its model. A field
    /// that the processor does not tell is absent.
    Processor "processor" {
        /// Revision of its microcode.
        microcode: Hex optional,
        /// Threads of one core, by CPUID: 1 without hyper-threading.
        threads: Number optional,
        /// IA32_SPEC_CTRL: bit 0 is IBRS, bit 1 STIBP, bit 2 SSBD.
        spec_ctrl: Hex optional,
        /// System-management interrupts that it had taken before the run.
        smis: Number optional,
        /// Ticks of the time-stamp counter in a second, by CPUID. Absent on an emulator, whose ticks are no time.
        tsc_hz: Number optional,
    }
    /// A probe before the guest ran: an instruction of the monitor's own was run like a guest on vCPU 0's processor, to find out
    /// whether it makes its exit. None of these exits is in a ledger.
    Probe "probe" {
        /// The instruction.
        instruction: Quoted,
        /// The exit that came: VMCALL's if the instruction made none.
        reason: Reason,
    }
    /// The controls in force in one profile, by their fields in the VMCS or VMCB.
    Controls "controls" {
        /// The profile.
        profile: Word,
        /// VT-x: pin-based controls.
        pin: Hex optional,
        /// VT-x: primary processor-based controls.
        proc: Hex optional,
        /// VT-x: secondary processor-based controls.
        proc2: Hex optional,
        /// VT-x: VM-exit controls.
        exit: Hex optional,
        /// VT-x: VM-entry controls.
        entry: Hex optional,
        /// SVM: intercepts of reads of control registers, and above bit 15 of writes.
        cr: Hex optional,
        /// SVM: intercepts of reads of debug registers, and above bit 15 of writes.
        dr: Hex optional,
        /// The exceptions that exit, as bits by their vectors.
        exceptions: Hex optional,
        /// SVM: the first word of other intercepts.
        others0: Hex optional,
        /// SVM: the second word of other intercepts.
        others1: Hex optional,
        /// SVM: the third word of other intercepts.
        others2: Hex optional,
        /// The reasons that the profile enables, as bits by their numbers: 0 to 63.
        enabled: Hex optional,
        /// The reasons that the profile enables: 64 to 127.
        enabled_high: Hex optional,
    }
    /// A workload starts.
    Begin "begin" {
        /// Its name.
        workload: Word,
        /// The profile that it runs in.
        profile: Word optional,
        /// Its iterations.
        iterations: Number,
    }
    /// A line for people: the guest's, or a remark of the monitor's.
    Console "console" {
        /// `monitor` in the monitor's own; a line of the guest's has none, whatever its text is.
        by: Word optional,
        /// The line.
        text: Quoted,
    }
    /// A mark in the guest's console, behind the line that has its text; or, among the last records, one that was never reached.
    /// The figures are those behind the exit that sent the text's last character. An exit that is open on another vCPU then
    /// is counted, and its ticks are not in yet.
    Mark "mark" {
        /// The mark's name.
        name: Word,
        /// The mark's text.
        text: Quoted,
        /// The vCPU that sent it; absent, as all figures are, if the mark was never reached.
        vcpu: Number optional,
        /// TSC ticks from vCPU 0's first entry on.
        at: Number optional,
        /// Exits so far, of all vCPUs.
        exits: Number optional,
        /// TSC ticks of all of them.
        cycles: Number optional,
        /// TSC ticks that the monitor has worked for the guest outside of exits so far, on all vCPUs.
        paused: Number optional,
        /// TSC ticks of idle time that were skipped so far, if any were: the guest's clock shows `at` and these.
        skipped: Number optional,
    }
    /// One reason that has exits at a mark.
    AtMark "atmark" {
        /// The mark's name.
        name: Word,
        /// The reason.
        reason: Reason,
        /// Exits so far, of all vCPUs.
        count: Number,
        /// TSC ticks of all of them.
        cycles: Number,
    }
    /// A workload ended.
    Result "result" {
        /// Its name.
        workload: Word,
        /// Its iterations.
        iterations: Number,
        /// `balanced`, `differs`, `failed`, or `unaccounted` where no account is kept.
        verdict: Word,
        /// Exits in its window.
        exits: Number,
        /// TSC ticks of its window.
        cycles: Number,
        /// System-management interrupts in its window, where vCPU 0's processor counts them.
        smis: Number optional,
        /// The failure, if there was one.
        message: Quoted optional,
    }
    /// One reason in a workload's window.
    Count "count" {
        /// The workload.
        workload: Word,
        /// The reason.
        reason: Reason,
        /// Exits by the workload's row in the table.
        predicted: Number optional,
        /// Exits by the guest's own book.
        guest: Number optional,
        /// Exits by the ledger.
        observed: Number,
        /// Exits of the ledger that were the monitor's own looks at a guest that ran long, if any were.
        looks: Number optional,
    }
    /// Ticks of several loops of so many turns, measured in root operation before microbenchmarks.
    Calibration "calibration" {
        /// The number of turns.
        turns: Number,
        /// Ticks of the loop itself.
        empty: Number,
        /// Ticks of the loop with the guest's registers saved and restored.
        frame: Number,
        /// Ticks of the loop with that and with the account of an exit that nobody handles.
        whole: Number,
        /// The part of these ticks that the account itself measured.
        inside: Number,
    }
    /// Samples in the order in which they were taken: of a microbenchmark, or of a scenario, from before the VM entry to the
    /// exit's time stamp.
    Samples "samples" {
        /// The microbenchmark.
        workload: Word optional,
        /// The scenario.
        scenario: Word optional,
        /// The number of the first sample here.
        first: Number,
        /// Runs of equal samples.
        ticks: Runs,
    }
    /// The ledger's figures of one reason, in a microbenchmark's window or in a scenario that is timed.
    Cost "cost" {
        /// The microbenchmark.
        workload: Word optional,
        /// The scenario.
        scenario: Word optional,
        /// The reason.
        reason: Reason,
        /// Exits.
        exits: Number,
        /// TSC ticks of all of them.
        cycles: Number,
    }
    /// One key that a workload predicts, where keys are kept.
    KeyCount "keycount" {
        /// The workload.
        workload: Word,
        /// The reason that the key divides.
        reason: Reason,
        /// The key.
        key: Hex,
        /// The key as people write it.
        name: Quoted,
        /// Exits by the workload's row in the table.
        predicted: Number,
        /// Exits by the ledger.
        observed: Number,
    }
    /// A scenario was run, or denied.
    Scenario "scenario" {
        /// Its name.
        scenario: Word,
        /// The reason that it is about; if it may have either of two, the one that came.
        reason: Reason,
        /// `balanced`, `differs` or `denied`.
        verdict: Word,
        /// Exits that it predicts.
        predicted: Number,
        /// Exits by the ledger. If it is about a variant and variants are kept, the exits of that variant.
        observed: Number,
        /// The difference, or the feature that the processor lacks.
        detail: Quoted optional,
    }
    /// One row of a vCPU's ledger.
    Exit "exit" {
        /// The vCPU.
        vcpu: Number,
        /// The reason.
        reason: Reason,
        /// The reason's name.
        name: Quoted,
        /// `enabled`, `not-enabled` or `undefined`.
        status: Word,
        /// Exits.
        count: Number,
        /// TSC ticks of all of them.
        cycles: Number,
        /// Ticks of the shortest.
        min: Number,
        /// Ticks of the longest.
        max: Number,
        /// Exits by power of two of their ticks; absent if there are none.
        histogram: Histogram optional,
        /// Exits that were the monitor's own looks at a guest that ran long, to see whether it still exits (`watchdog=`), if any
        /// were.
        looks: Number optional,
    }
    /// One key of a ledger's row.
    Key "key" {
        /// The vCPU.
        vcpu: Number,
        /// The reason.
        reason: Reason,
        /// The key; absent for the exits that were not kept apart.
        key: Hex optional,
        /// The key as people write it, or `others`.
        name: Quoted,
        /// Exits.
        count: Number,
        /// TSC ticks of all of them.
        cycles: Number,
        /// Ticks of the shortest.
        min: Number optional,
        /// Ticks of the longest.
        max: Number optional,
    }
    /// One variant of a reason, whatever its keys.
    Variant "variant" {
        /// The vCPU.
        vcpu: Number,
        /// The reason.
        reason: Reason,
        /// The variant's name.
        name: Quoted,
        /// Exits.
        count: Number,
        /// TSC ticks of all of them.
        cycles: Number,
        /// Ticks of the shortest.
        min: Number,
        /// Ticks of the longest.
        max: Number,
    }
    /// Exits for one reason in equal steps of time, where they are sampled (`rate-step=`).
    Rate "rate" {
        /// The vCPU.
        vcpu: Number,
        /// The reason.
        reason: Reason,
        /// The TSC at which the first step begins.
        start: Number,
        /// TSC ticks of a step.
        step: Number,
        /// The number of the step that comes first here.
        from: Number,
        /// Exits in each step.
        counts: Numbers,
    }
    /// Exits of one vCPU in their order, where they are traced (`trace=`).
    Trace "trace" {
        /// The vCPU.
        vcpu: Number,
        /// The record's number on its vCPU: 0, 1, 2, …
        seq: Number,
        /// The number of exits in this record.
        exits: Number,
        /// The TSC at the first of these exits.
        tsc: Number,
        /// The exits; `abi/src/trace.rs` has the coding.
        data: Packed,
    }
    /// Exits that found the trace's ring full.
    Dropped "dropped" {
        /// The vCPU.
        vcpu: Number,
        /// The reason.
        reason: Reason,
        /// Exits.
        count: Number,
        /// TSC ticks of all of them.
        cycles: Number,
    }
    /// The end of one vCPU's trace.
    Traced "traced" {
        /// The vCPU.
        vcpu: Number,
        /// The number of `trace` records.
        seq: Number,
        /// Exits in them.
        exits: Number,
        /// Exits that found the ring full.
        dropped: Number,
        /// The most exits that the ring holds.
        ring: Number,
    }
    /// One reason in the guest's own book.
    Tally "tally" {
        /// The reason.
        reason: Reason,
        /// Exits that the guest has booked.
        guest: Number,
    }
    /// One vCPU's sums.
    Total "total" {
        /// The vCPU.
        vcpu: Number,
        /// Exits.
        exits: Number,
        /// VM entries.
        entries: Number,
        /// TSC ticks of all exits.
        cycles: Number,
        /// TSC ticks from the first entry to the last exit.
        elapsed: Number,
        /// TSC ticks of idle time that were skipped: they passed on the guest's clock alone, and are not among those of `elapsed`.
        skipped: Number optional,
        /// System-management interrupts in the run, on vCPU 0's processor, where that counts them.
        smis: Number optional,
        /// TSC ticks that the monitor worked for the guest outside of exits, above all to write the log; if any.
        paused: Number optional,
    }
    /// The guest's end.
    Stop "stop" {
        /// The vCPU that ended it, where there are several.
        vcpu: Number optional,
        /// The outcome.
        outcome: Word,
        /// The guest's RIP.
        rip: Hex optional,
        /// The exit-reason field of its last exit.
        reason: Hex optional,
        /// The exit qualification of its last exit.
        qualification: Hex optional,
        /// The code that the guest ended itself with by a port, if it did.
        code: Hex optional,
        /// More detail for a person.
        detail: Quoted optional,
    }
    /// The last record: the monitor's verdict.
    Verdict "verdict" {
        /// `balanced`, `differs`, `failed`, `stopped`, `refused` or `fault`.
        result: Word,
        /// The reason for it.
        detail: Quoted optional,
        /// The remedy, for a person.
        remedy: Quoted optional,
        /// The records that the monitor wrote before this one. If fewer arrived, the others are lost without a trace.
        records: Number optional,
    }
}

impl<'a> Controls<'a> {
    /// A record of a profile's controls without any field of an extension, which the extension fills in.
    pub fn of(profile: &'a str) -> Self {
        let (pin, proc, proc2, exit, entry, cr, dr) = (None, None, None, None, None, None, None);
        let (exceptions, others0, others1, others2) = (None, None, None, None);
        let (enabled, enabled_high) = (None, None);
        Self {
            profile,
            pin,
            proc,
            proc2,
            exit,
            entry,
            cr,
            dr,
            exceptions,
            others0,
            others1,
            others2,
            enabled,
            enabled_high,
        }
    }
}
