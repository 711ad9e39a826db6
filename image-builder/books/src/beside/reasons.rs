//! The explanations: the reason for each difference between the two counts, and the conditions of the comparison.

use tollgate_abi::ExitReason;

/// The hypervisor that has more exits of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Kvm,
    Tollgate,
}

/// A reason, the hypervisor that has more exits of it, and the cause, as a sentence.
struct Cause(ExitReason, More, &'static str);

const CAUSES: &[Cause] = &[
    Cause(
        ExitReason::EPT_VIOLATION,
        More::Kvm,
        "KVM allocates, clears and maps a page of 4 KiB when the guest touches it first; Tollgate has mapped the guest's memory \
         in pages of 2 MiB before it starts. Its own are accesses to the IOAPIC.",
    ),
    Cause(
        ExitReason::EPT_MISCONFIGURATION,
        More::Kvm,
        "These are accesses to the IOAPIC: KVM maps a device's page so that each access is a misconfiguration, Tollgate does not \
         map it, so that each is an EPT violation.",
    ),
    Cause(
        ExitReason::IO_INSTRUCTION,
        More::Kvm,
        "Nearly all are the console's, two for each character, so that half of the difference is characters of the kernel's \
         messages; their texts are not compared.",
    ),
    Cause(
        ExitReason::WRMSR,
        More::Kvm,
        "The guest's clock ticks 250 times in a billion ticks of the TSC, and writes EOI and the next deadline each time; with \
         KVM's own ticks the boot takes longer, and more of its clock's fall into it.",
    ),
    Cause(
        ExitReason::EXTERNAL_INTERRUPT,
        More::Kvm,
        "Each tick of the guest's clock that comes while the guest runs is one; the Linux around KVM has timers of its own besides.",
    ),
    Cause(
        ExitReason::INTERRUPT_WINDOW,
        More::Kvm,
        "A tick of the guest's clock that comes while the hypervisor is at work, for a guest with interrupts off, waits for the \
         window; KVM is at work for longer.",
    ),
    Cause(
        ExitReason::CR_ACCESS,
        More::Kvm,
        "KVM keeps CR0, and of CR4 the bits that its view of the guest's paging depends on; Tollgate keeps OSXSAVE, which CPUID \
         shows, and leaves such bits to the guest.",
    ),
    Cause(
        ExitReason::MOV_DR,
        More::Kvm,
        "KVM gives the debug registers to the guest at the first access, which exits; Tollgate gives them from the start.",
    ),
];

/// The cause of a difference, if it is known.
pub(super) fn why(reason: ExitReason, ours_are_more: bool) -> Option<&'static str> {
    let more = if ours_are_more { More::Tollgate } else { More::Kvm };
    CAUSES.iter().find(|cause| cause.0 == reason && cause.1 == more).map(|cause| cause.2)
}

/// The last section.
pub(super) const MACHINES: &str = "## The two machines\n\n\
    The guest finds the same under both: memory of 256 MiB, boot_params, ACPI tables and command line, the state at the first\n\
    instruction with the local APIC in x2APIC mode, the ports, the IOAPIC, and the CPUID leaves as far as KVM supports them. The\n\
    client of KVM has ports, IOAPIC and the table of leaves from Tollgate's own code. These differences remain:\n\n\
    - Under KVM ports and IOAPIC are in user space, as in any small client, so that each access goes there and back.\n\
    - KVM's client keeps the console's text in memory. Tollgate writes each line to the emulated serial port before it enters\n\
      the guest again, and the wait for that port is in the ticks of I/O instructions here.\n\
    - Tollgate's own account begins and ends within its exit path, and has fewer ticks for an exit: those that save and restore\n\
      registers are outside, and so is the console's log.\n\
    - KVM's memory is in pages of 4 KiB, which Linux allocates on the first touch. The kernel is entered unpacked under both, so\n\
      that its unpacking touches none.\n\
    - KVM has a Linux around it, with a timer of its own, and its guests' timers are that kernel's.\n\
    - The MSRs are each hypervisor's own: what Tollgate refuses KVM may have.\n\
    - The leaves of Tollgate's account answer under Tollgate alone; the guest does not ask for them here.\n\
    - Without a hypervisor the kernel sees the emulator's own processor, and local APIC in xAPIC mode. It has the words\n\
      `noxsaves clearcpuid=xsavec` besides, since Bochs' XSAVE has a form that Linux does not accept.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_a_sentence_and_stands_once() {
        for (at, Cause(reason, more, text)) in CAUSES.iter().enumerate() {
            assert!(text.ends_with('.') && !text.contains("  "), "{text}");
            assert_eq!(why(*reason, *more == More::Tollgate), Some(*text));
            assert!(CAUSES[..at].iter().all(|other| (other.0, other.1) != (*reason, *more)), "{text}");
        }
        assert_eq!(why(ExitReason::EPT_VIOLATION, true), None);
    }
}
