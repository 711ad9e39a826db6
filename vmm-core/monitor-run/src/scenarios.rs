//! Runs scenarios after the unikernel has ended: through the same stub, spine and ledger.

use alloc::vec::Vec;
use core::fmt;

use tollgate_abi::command_line::Options;
use tollgate_abi::exit_reason::Controls;
use tollgate_abi::scenario::Scenario;
use vmm_core::board::Board;
use vmm_core::exit::GuestRegisters;
use vmm_core::host::registers::NEVER;
use vmm_core::ledger::Book;
use vmm_core::memory::GuestMemory;
use vmm_core::session::{Session, TimedScenario};
use vmm_core::stack::{AnyOwner, Enter};
use vmm_core::vcpu::Vcpu;

use crate::processors;
use crate::serial::Serial;

/// An extension that stages scenarios.
pub(crate) trait Stage: Enter {
    /// Pages of the monitor for the processor to read.
    type Pages;
    /// The controls that the processor allows, as far as scenarios need to know.
    fn allowed(&self, board: &Board) -> Controls;
    /// The exits that the controls in force can produce.
    fn controls_now(&self) -> Controls;
    /// Stages a scenario: afterwards it only remains to enter the guest with these registers.
    fn stage(
        &mut self,
        scenario: &Scenario,
        memory: &mut GuestMemory,
        pages: &mut Self::Pages,
        board: &Board,
    ) -> GuestRegisters;
    /// Undoes those changes that the next scenario would not overwrite.
    fn strike(&mut self, scenario: &Scenario, memory: &mut GuestMemory, pages: &mut Self::Pages, board: &Board);
}

/// Runs each scenario as often as the options say, and compares its exits with its prediction. Records its samples, if scenarios
/// are to be timed.
pub(crate) fn run<B: Stage>(
    vcpu: &mut Vcpu<B>,
    owner: &mut dyn AnyOwner<B>,
    books: &[&'static dyn Book],
    session: &mut Session<Serial>,
    options: &Options<'_>,
    mut pages: B::Pages,
) where
    B::Failure: fmt::Display,
{
    let extension = vcpu.machine.config.facts.extension;
    let scenarios: Vec<_> = options.scenarios().filter(|scenario| scenario.is_under(extension)).collect();
    let board = vcpu.machine.shared.board;
    processors::wait_for_service();
    let allowed = vcpu.backend.allowed(board);
    let book = owner.book();
    vcpu.set_limit(NEVER, 0);
    vcpu.machine.begin_scenarios();
    for scenario in scenarios {
        if let Some(need) = scenario.missing(&allowed) {
            session.scenario_denied(scenario, need);
            continue;
        }
        let runs = options.scenario_runs();
        let before = session.before_scenario(books, scenario, runs);
        let of_reason = || {
            let ledger = book.ledger();
            scenario
                .reasons()
                .fold((0, 0), |sum, reason| (sum.0 + ledger.count(reason), sum.1 + ledger.cycles_of(reason)))
        };
        let (exits_before, cycles_before) = of_reason();
        let (mut failure, mut ticks) = (None, Vec::new());
        for _ in 0..runs {
            owner.set_registers(vcpu.backend.stage(scenario, &mut vcpu.machine.memory, &mut pages, board));
            let end = vcpu.run_scenario(book, scenario, |vcpu| owner.run(vcpu));
            let controls = vcpu.backend.controls_now().union(scenario.features());
            vcpu.machine.config.enabled_in_any_profile = vcpu.machine.config.enabled_in_any_profile.union(controls);
            vcpu.backend.strike(scenario, &mut vcpu.machine.memory, &mut pages, board);
            if options.scenario_samples > 0 {
                ticks.push(u32::try_from(end.elapsed_tsc).unwrap_or(u32::MAX));
            }
            failure = failure.or(end.failure);
        }
        session.scenario(books, scenario, &before, failure.as_ref().map(|failure| failure as _));
        if options.scenario_samples > 0 {
            let (exits, cycles) = of_reason();
            let cost = (exits - exits_before, cycles - cycles_before);
            session.timed_scenario(scenario, &TimedScenario { ticks: &ticks, cost });
        }
    }
}
