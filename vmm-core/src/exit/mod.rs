//! The contract with a virtualization extension ([`Backend`] and its parts), and the values that pass between it, the spine and
//! the handlers: the decoded exit, the guest's registers and state, events, and the decisions of handlers.

mod access;
mod action;
mod backend;
mod event;
mod registers;
mod state;

pub use access::{
    CrAccess, DrAccess, ExitNumber, FIRST_NUMBERS, IoAccess, Numbers, Operand, PhysicalFault, RawReason,
    TableInstruction,
};
pub use action::{Action, Pause, Quickly};
pub use backend::{Backend, ExitFacts, GuestState, Interrupts, Processor, Timers};
pub use event::{Event, EventKind, vector};
pub use registers::{GuestRegisters, VolatileRegisters};
pub use state::{State, VirtualizedApic};
