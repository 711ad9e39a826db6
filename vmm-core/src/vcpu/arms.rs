//! The arms of the spine: for each exit number the function that a stub's exit goes on in, made of the tables of quick and of
//! brief exits. An arm is jumped to, so that the frequent exits need no stack frame.

use core::marker::PhantomData;

use tollgate_abi::ExitReason;
use tollgate_abi::quick::Condition;

use super::{Exit, Vcpu};
use crate::exit::{Action, Backend, ExitNumber, FIRST_NUMBERS, Quickly, VolatileRegisters};
use crate::handlers::brief::brief_exits;
use crate::handlers::{brief, control_regs, cpuid, debug_regs, event, hypercall, io, msr, power};
use crate::ledger::Account;
use crate::machine::Machine;

/// The course of step 1 for one exit number. It has the convention of the stub's call, to be jumped to.
pub(super) type Arm<E, B> = extern "win64" fn(E, &mut Vcpu<B>, u64, ExitNumber);

/// A quick form, to be compiled into its arm.
pub(super) trait Form<B> {
    /// The condition under which it may decide an exit.
    const CONDITION: Condition;
    /// Decides it, or leaves it as it is.
    fn decide(registers: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Quickly;
}

/// The course of step 2 for a reason. It has the convention of the stub's call, to be jumped to.
pub(super) type Step<E, B> = extern "win64" fn(E, &mut Vcpu<B>, u64);

/// A brief form, to be compiled into its step.
pub(super) trait BriefForm<B> {
    /// Decides an exit, or leaves it as it is.
    fn decide(registers: &mut VolatileRegisters, backend: &mut B, machine: &mut Machine) -> Option<Action>;
}

/// The arms of the spine.
pub(super) struct Arms<E, B>(PhantomData<(E, B)>);

macro_rules! arms {
    ($($reason:ident $ticks:literal $condition:ident $form:ident;)*) => {
        impl<E: Exit<B>, B: Backend> Arms<E, B> {
            /// The arm of each of the first numbers.
            pub(super) const FIRST: [Arm<E, B>; FIRST_NUMBERS] = {
                let (mut arms, mut number) = ([Self::of(B::NUMBERS.first[0]); FIRST_NUMBERS], 0);
                while number < FIRST_NUMBERS {
                    arms[number] = Self::of(B::NUMBERS.first[number]);
                    number += 1;
                }
                arms
            };

            /// The arm of a reason: one for each row of the tables of quick and brief exits, and one for all others.
            pub(super) const fn of(reason: ExitReason) -> Arm<E, B> {
                match reason {
                    $(ExitReason::$reason => {
                        extern "win64" fn arm<E: Exit<B>, B: Backend>(
                            exit: E,
                            vcpu: &mut Vcpu<B>,
                            exit_tsc: u64,
                            number: ExitNumber,
                        ) {
                            const REASON: u32 = ExitReason::$reason.0 as u32;
                            struct This;
                            impl<B: Backend> Form<B> for This {
                                const CONDITION: Condition = Condition::$condition;

                                #[inline(always)]
                                fn decide(
                                    registers: &mut VolatileRegisters,
                                    backend: &mut B,
                                    machine: &mut Machine,
                                ) -> Quickly {
                                    $form::quick(registers, backend, machine)
                                }
                            }
                            vcpu.decide::<E, This, REASON, { REASON as usize }>(exit_tsc, exit, number);
                        }
                        arm::<E, B>
                    })*
                    reason => match Self::brief(reason) {
                        Some((arm, _)) => arm,
                        None => {
                            extern "win64" fn arm<E: Exit<B>, B: Backend>(
                                exit: E,
                                vcpu: &mut Vcpu<B>,
                                exit_tsc: u64,
                                number: ExitNumber,
                            ) {
                                exit.go_on(vcpu, exit_tsc, number);
                            }
                            arm::<E, B>
                        }
                    },
                }
            }

            /// The arm of an exit whose number stands for another reason than `reason`.
            pub(super) const fn otherwise(reason: ExitReason) -> Option<Arm<E, B>> {
                match B::NUMBERS.otherwise {
                    Some((first, second)) if first.0 == reason.0 => Some(Self::of(second)),
                    _ => None,
                }
            }

            /// Step 2 of an exit that is counted for `reason`.
            pub(super) const fn step(reason: ExitReason) -> Option<Step<E, B>> {
                match Self::brief(reason) {
                    Some((_, step)) => Some(step),
                    None => None,
                }
            }
        }
    };
}
tollgate_abi::quick_exits!(arms);

macro_rules! brief_arms {
    ($($reason:ident $form:path;)*) => {
        impl<E: Exit<B>, B: Backend> Arms<E, B> {
            /// The brief form of a reason: as an arm, and as the step behind a quick form.
            const fn brief(reason: ExitReason) -> Option<(Arm<E, B>, Step<E, B>)> {
                if !E::Account::KEEPS_FIGURES_ALONE {
                    return None;
                }
                match reason {
                    $(ExitReason::$reason => {
                        const REASON: u32 = ExitReason::$reason.0 as u32;
                        const ROW: usize = ExitReason::$reason.ledger_row();
                        struct This;
                        impl<B: Backend> BriefForm<B> for This {
                            #[inline(always)]
                            fn decide(
                                registers: &mut VolatileRegisters,
                                backend: &mut B,
                                machine: &mut Machine,
                            ) -> Option<Action> {
                                $form(registers, backend, machine)
                            }
                        }
                        #[inline(never)]
                        extern "win64" fn arm<E: Exit<B>, B: Backend>(
                            mut exit: E,
                            vcpu: &mut Vcpu<B>,
                            exit_tsc: u64,
                            _: ExitNumber,
                        ) {
                            let _counted = exit.quick_parts().0.open(ExitReason::$reason);
                            vcpu.decide_briefly::<E, This, REASON, ROW>(exit_tsc, exit);
                        }
                        #[inline(never)]
                        extern "win64" fn step<E: Exit<B>, B: Backend>(exit: E, vcpu: &mut Vcpu<B>, exit_tsc: u64) {
                            vcpu.decide_briefly::<E, This, REASON, ROW>(exit_tsc, exit);
                        }
                        Some((arm::<E, B>, step::<E, B>))
                    })*
                    _ => None,
                }
            }
        }
    };
}
brief_exits!(brief_arms);
