//! The guest's instructions, decoded from their bytes, for extensions that do not tell which instruction exited.

pub mod decode;
pub mod mov;
pub mod operand;
pub mod prefixes;
