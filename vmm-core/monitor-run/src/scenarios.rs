//! Runs scenarios after the unikernel has ended: through the same stub, spine and ledger.

use alloc::vec::Vec;
use core::fmt;

use tollgate_abi::command_line::Options;
use vmm_core::host::registers::NEVER;
use vmm_core::ledger::Book;
use vmm_core::session::{Session, TimedScenario};
use vmm_core::stack::AnyOwner;
use vmm_core::staging;
use vmm_core::vcpu::Vcpu;

use crate::extension::Extension;
use crate::processors;
use crate::serial::Serial;

/// Runs each scenario as often as the options say, and compares its exits with its prediction. Records its samples, if scenarios
/// are to be timed.
pub(crate) fn run<B: Extension>(
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
            owner.set_registers(staging::stage(
                scenario,
                &mut vcpu.backend,
                &mut vcpu.machine.memory,
                &mut pages,
                board,
            ));
            let end = vcpu.run_scenario(book, scenario, |vcpu| owner.run(vcpu));
            let controls = vcpu.backend.controls_now().union(scenario.features());
            vcpu.machine.config.enabled_in_any_profile = vcpu.machine.config.enabled_in_any_profile.union(controls);
            staging::strike(scenario, &mut vcpu.backend, &mut vcpu.machine.memory, &mut pages, board);
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
