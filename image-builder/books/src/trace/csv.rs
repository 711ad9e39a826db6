//! A trace as CSV.

use std::io::{self, Write};

use super::text::Text;
use super::{Exit, Sink};

pub(super) struct Csv<W>(Text<W>);

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W) -> Self {
        let mut text = Text::new(out);
        text.text("vcpu,tsc,reason,name,qualification,rip,symbol,cycles\n");
        Self(text)
    }
}

impl<W: Write> Sink for Csv<W> {
    fn exit(&mut self, Exit { vcpu, event, name, symbol }: &Exit<'_>) -> io::Result<()> {
        let text = &mut self.0;
        text.number(*vcpu).text(",").number(event.tsc).text(",").number(event.reason.into()).text(",");
        text.quoted(name, escape).text(",").hex(event.qualification).text(",").hex(event.rip).text(",");
        if !symbol.is_empty() {
            text.quoted(symbol, escape);
        }
        text.text(",").number(event.cycles).text("\n").settle()
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}

/// A field with quotes in it (RFC 4180).
fn escape(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
