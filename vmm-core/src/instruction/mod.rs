//! The guest's instructions, decoded from their bytes, for whichever extension does not tell what the instruction that exited was.

pub mod decode;
pub mod operand;
pub mod prefixes;
