//! Runs scenarios after the unikernel has ended: through the same stub, spine and ledger.

use alloc::vec::Vec;

use tollgate_abi::exit_reason::Feature;
use tollgate_abi::scenario::{RUNS, Scenario};
use vmm_core::ledger::Book;
use vmm_core::session::Session;
use vmm_core::stack::{ExitPath, Owner};
use vmm_core::vcpu::Vcpu;
use vmm_core::vmx::Vmx;
use vmm_core::vmx::scenario_frame::Pages;

use crate::processor;
use crate::serial::Serial;

/// CPUID.1:ECX.SMX.
const SMX: u32 = 1 << 6;
/// CPUID.7:EDX.CET_IBT.
const CET_IBT: u32 = 1 << 20;

/// Runs each of them a few times and compares what it provoked with what it predicts.
pub(crate) fn run<A: ExitPath<Vmx>>(
    vcpu: &mut Vcpu<Vmx>,
    owner: &mut Owner<A>,
    books: &[&'static dyn Book],
    session: &mut Session<Serial>,
    scenarios: impl Iterator<Item = &'static Scenario>,
) {
    let mut pages = Pages {
        virtual_apic: processor::page(),
        msr_load: processor::page(),
        pml: processor::page(),
        eptp_list: processor::page(),
        spp: processor::page(),
        virtualization_exception: processor::page(),
    };
    let scenarios: Vec<_> = scenarios.collect();
    let board = vcpu.machine.board;
    let allowed = vcpu.backend.allowed(|feature| match feature {
        Feature::Smx => processor::cpuid(1, 0).ecx & SMX != 0,
        Feature::Cet => processor::cpuid(7, 0).edx & CET_IBT != 0,
        Feature::OtherCpu => board.is_served(),
        _ => false,
    });
    let account = owner.account();
    vcpu.machine.in_scenario = true;
    for scenario in scenarios {
        if let Some(need) = scenario.missing(&allowed) {
            session.scenario_denied(scenario, need);
            continue;
        }
        let before = session.before_scenario(books, scenario);
        let mut failure = None;
        for _ in 0..RUNS {
            owner.set_registers(vcpu.backend.stage(scenario, &mut vcpu.machine.memory, &mut pages, board));
            let end = vcpu.run(account, |vcpu| owner.run(vcpu), |_, _| None);
            vcpu.machine.enabled_in_any_profile =
                vcpu.machine.enabled_in_any_profile.union(vcpu.backend.controls_now());
            vcpu.backend.strike(scenario, &mut vcpu.machine.memory, &mut pages, board);
            board.add_elapsed(0, end.elapsed_tsc);
            failure = failure.or(end.failure);
        }
        session.scenario(books, scenario, &before, failure.as_ref().map(|failure| failure as _));
    }
    vcpu.machine.in_scenario = false;
}
