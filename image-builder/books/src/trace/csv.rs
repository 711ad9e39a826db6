//! A trace as CSV.

use std::io::{self, Write};

use super::block::Block;
use super::text::{BLOCK_EXITS, Phrases, Text, Texts};
use super::{Sink, row_name};

pub(super) struct Csv<W>(Texts<W>);

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        Texts::new(out, "vcpu,tsc,reason,name,qualification,rip,symbol,cycles\n", encode).map(Self)
    }
}

impl<W: Write> Sink for Csv<W> {
    fn block_exits(&self) -> usize {
        BLOCK_EXITS
    }

    fn push(&mut self, block: Block) -> io::Result<()> {
        self.0.push(block)
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.0.write_behind(&Text::default())
    }
}

fn encode(block: &Block, text: &mut Text) {
    let (mut reasons, mut places) = (Phrases::new(), Phrases::new());
    block.unpack(|exits| {
        let vcpu = exits.vcpu;
        for event in exits {
            let reason = reasons.of(event.reason.into(), |text| {
                text.text(",").number(event.reason.into()).text(",").quoted(row_name(event.reason), escape).text(",");
            });
            let place = places.of(event.rip, |text| {
                let symbol = block.symbols.find(event.rip);
                text.text(",").hex(event.rip).text(",");
                if !symbol.is_empty() {
                    text.quoted(symbol, escape);
                }
                text.text(",");
            });
            text.number(vcpu).text(",").number(event.tsc).bytes(reason).hex(event.qualification).bytes(place);
            text.number(event.cycles).text("\n");
        }
    });
}

/// A field with quotes in it (RFC 4180).
fn escape(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
