//! Runs scenarios after the unikernel has ended: through the same stub, spine and ledger.

use alloc::boxed::Box;
use alloc::vec::Vec;

use tollgate_abi::exit_reason::{Feature, Need};
use tollgate_abi::scenario::{RUNS, Scenario};
use vmm_core::ledger::Account;
use vmm_core::session::Session;
use vmm_core::vcpu::{End, Vcpu};
use vmm_core::vmx::Vmx;
use vmm_core::vmx::entry::Stack;
use vmm_core::vmx::instructions::VmFail;
use vmm_core::vmx::scenario::Pages;

use crate::processor;
use crate::serial::Serial;

/// CPUID.1:ECX.SMX.
const SMX: u32 = 1 << 6;

/// Runs each of them a few times and compares what it provoked with what it predicts. Returns the TSC ticks that guests ran.
pub(crate) fn run<A: Account>(
    vcpu: &mut Vcpu<Vmx, A>,
    mut stack: &'static mut Stack,
    session: &mut Session<Serial>,
    scenarios: impl Iterator<Item = &'static Scenario>,
) -> u64 {
    let mut pages = Pages {
        virtual_apic: processor::page(),
        msr_load: processor::page(),
        pml: processor::page(),
        eptp_list: processor::page(),
        spp: processor::page(),
    };
    let scenarios: Vec<_> = scenarios.collect();
    let wants_other_cpu = scenarios.iter().any(|scenario| scenario.needs.contains(&Need::Has(Feature::OtherCpu)));
    let has_other_cpu = wants_other_cpu && start_other_cpu();
    let allowed = vcpu.backend.allowed(processor::cpuid(1, 0).ecx & SMX != 0, has_other_cpu);
    let mut elapsed_tsc = 0;
    vcpu.machine.in_scenario = true;
    for scenario in scenarios {
        if let Some(need) = scenario.missing(&allowed) {
            session.scenario_denied(scenario, need);
            continue;
        }
        let before = session.before_scenario(vcpu);
        let mut failure = None;
        for _ in 0..RUNS {
            let registers = vcpu.backend.stage(scenario, &mut vcpu.machine.memory, &mut pages);
            stack.set_registers(registers);
            let mut next = Some(stack);
            let end: Box<End<VmFail>> = Box::new(vcpu.run(
                |vcpu| {
                    let entered = next.take().expect("an exit of a scenario ends its run");
                    next = Some(entered.run(vcpu)?);
                    Ok(())
                },
                |_, _| {},
            ));
            vcpu.machine.enabled_in_any_profile =
                vcpu.machine.enabled_in_any_profile.union(vcpu.backend.controls_now());
            vcpu.backend.strike(scenario, &mut vcpu.machine.memory, &mut pages);
            elapsed_tsc += end.elapsed_tsc;
            failure = failure.or(end.failure);
            match next {
                Some(entered) => stack = entered,
                None => {
                    session.scenario(vcpu, scenario, &before, failure);
                    vcpu.machine.in_scenario = false;
                    return elapsed_tsc;
                }
            }
        }
        session.scenario(vcpu, scenario, &before, failure);
    }
    vcpu.machine.in_scenario = false;
    elapsed_tsc
}

/// Brings up a CPU that can send this one INIT and SIPI; false where there is none.
fn start_other_cpu() -> bool {
    #[cfg(bare)]
    let vector = crate::boot::SIPI_VECTOR;
    #[cfg(not(bare))]
    let vector = 0;
    vmm_core::vmx::other_cpu::start(vector)
}
