//! The end of a monitor that can't go on at one of its processors.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use tollgate_abi::ending::Ending;
use tollgate_abi::judgement::Judgement;
use vmm_core::host::local_apic::LocalApic;
use vmm_core::session::Session;

use crate::board::{self, BOARD};
use crate::firmware::firmware;
use crate::serial::Serial;
use crate::stopping::{ByApic, LastWords, stop_after_fault};

/// Ends a monitor that can't go on at this processor. Every guest is stopped, and the verdict says why. If vCPU 0's processor can
/// still write an account, it does, and the verdict stands below that.
pub(crate) fn fault(detail: fmt::Arguments<'_>) -> ! {
    let local_apic = LocalApic::find();
    let Some((local_apic, vcpu)) = local_apic.ok().and_then(|apic| Some((apic, BOARD.seat_of(apic.id())?))) else {
        write_fault(detail)
    };
    match stop_after_fault(&BOARD, &ByApic::new(&local_apic), vcpu, detail, board::leaves) {
        LastWords::OfTheFirstFault => write_fault(format_args!("{}", BOARD.fault())),
        LastWords::Own => write_fault(detail),
        LastWords::OfAnother => (firmware().leave)(),
    }
}

/// Ends the run by a verdict and nothing else.
fn write_fault(detail: fmt::Arguments<'_>) -> ! {
    /// Whether a processor says so already: the last record is one.
    static SAYS_SO: AtomicBool = AtomicBool::new(false);
    if SAYS_SO.swap(true, Ordering::AcqRel) {
        (firmware().leave)()
    }
    let mut session = Session::at_end(Serial::new());
    let _ = fmt::Write::write_str(session.sink(), "\n");
    let _lost = (firmware().keep_end)();
    session.write_verdict(Judgement::Fault, detail, None);
    session.sink().drain();
    (firmware().end)(Ending::Fail)
}
