//! A report in the making: whatever can be written as an account comes is written then.

use std::io::{self, Write};

use super::{Form, Format, Look, Titled};

/// Writes accounts, one after the other, in one form.
#[derive(Debug)]
pub struct Report<W: Write> {
    out: W,
    form: Box<dyn Form>,
    written: u64,
}

impl<W: Write> Report<W> {
    /// A report without an account yet. `several` says that the accounts are told apart by their titles, however many come.
    pub fn new(out: W, format: Format, several: bool, look: Look) -> Self {
        Self { out, form: format.form(several, look), written: 0 }
    }

    /// Takes the next account.
    ///
    /// # Errors
    /// It can't be written.
    pub fn add(&mut self, titled: Titled) -> io::Result<()> {
        self.written += 1;
        self.form.add(titled, &mut self.out)
    }

    /// The most accounts that the form has room for.
    pub fn most(&self) -> u64 {
        self.form.most()
    }

    /// Whether there is no room for another account.
    pub fn is_full(&self) -> bool {
        self.written >= self.most()
    }

    /// The output, after an error.
    pub fn abandon(self) -> W {
        self.out
    }

    /// Writes what has to wait for the last account, and hands back the output.
    pub fn finish(mut self) -> (W, io::Result<()>) {
        let result = self.form.finish(&mut self.out).and_then(|()| self.out.flush());
        (self.out, result)
    }
}
