//! A trace in Chrome's trace event format, which ui.perfetto.dev shows: a track for each vCPU, an event for each exit. If the
//! log has samples over time, there is a counter track for each vCPU and reason. The format counts in microseconds; one TSC tick
//! is shown as one. Processes and threads count from 1: importers give 0 a meaning of its own.

use std::io::{self, Write};

use super::block::Block;
use super::text::{BLOCK_EXITS, Phrases, Text, Texts};
use super::{Rate, Sink, row_name};

/// The process whose threads are the vCPUs. Those of counters have the numbers behind it.
const EXITS: u64 = 1;

/// The thread of a vCPU.
fn thread(vcpu: u64) -> u64 {
    vcpu.saturating_add(1)
}

pub(super) struct Chrome<W> {
    texts: Texts<W>,
    /// The end of the file, which has the counters.
    rest: Text,
    /// Lengths of steps that have a process of counters.
    steps: Vec<u64>,
}

const BEGINNING: &str = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n\
                         {\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"VM exits, a TSC tick as 1 us\"}}";

impl<W: Write> Chrome<W> {
    pub(super) fn new(out: W) -> io::Result<Self> {
        Ok(Self { texts: Texts::new(out, BEGINNING, encode)?, rest: Text::default(), steps: Vec::new() })
    }
}

fn encode(block: &Block, text: &mut Text) {
    let (mut reasons, mut places) = (Phrases::new(), Phrases::new());
    block.unpack(|exits| {
        let (vcpu, mut event_of) = (exits.vcpu, Text::default());
        if exits.is_first {
            text.text(",\n{\"ph\":\"M\",\"pid\":1,\"tid\":").number(thread(vcpu));
            text.text(",\"name\":\"thread_name\",\"args\":{\"name\":\"vCPU ").number(vcpu).text("\"}}");
        }
        event_of.text(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":").number(thread(vcpu)).text(",\"ts\":");
        for event in exits {
            let reason = reasons.of(event.reason.into(), |text| {
                text.text(",\"name\":").quoted(row_name(event.reason), escape).text(",\"args\":{\"reason\":");
                text.number(event.reason.into()).text(",\"qualification\":\"");
            });
            let place = places.of(event.rip, |text| {
                let symbol = block.symbols.find(event.rip);
                text.text("\",\"rip\":\"").hex(event.rip).text("\"");
                if !symbol.is_empty() {
                    text.text(",\"symbol\":").quoted(symbol, escape);
                }
                text.text("}}");
            });
            text.append(&event_of).number(event.tsc).text(",\"dur\":").number(event.cycles);
            text.bytes(reason).hex(event.qualification).bytes(place);
        }
    });
}

impl<W: Write> Sink for Chrome<W> {
    fn block_exits(&self) -> usize {
        BLOCK_EXITS
    }

    fn push(&mut self, block: Block) -> io::Result<()> {
        self.texts.push(block)
    }

    fn rate(&mut self, Rate { vcpu, name, start, step, counts }: &Rate<'_>) -> io::Result<()> {
        // Steps may be longer on one vCPU than on another: counters of one length are together.
        let known = self.steps.iter().position(|known| known == step);
        let process = EXITS + 1 + known.unwrap_or(self.steps.len()) as u64;
        if known.is_none() {
            self.steps.push(*step);
            self.rest.text(",\n{\"ph\":\"M\",\"pid\":").number(process);
            self.rest
                .text(",\"name\":\"process_name\",\"args\":{\"name\":\"Exits in ")
                .number(*step)
                .text(" ticks\"}}");
        }
        // A counter keeps its value until another comes: behind the last step it is set to 0.
        let mut last = None;
        for (at, &count) in counts.iter().chain([&0]).enumerate() {
            if last.replace(count) == Some(count) {
                continue;
            }
            let from_tsc = start.saturating_add(step.saturating_mul(at as u64));
            let text = &mut self.rest;
            text.text(",\n{\"ph\":\"C\",\"pid\":")
                .number(process)
                .text(",\"ts\":")
                .number(from_tsc)
                .text(",\"name\":\"vCPU ")
                .number(*vcpu);
            text.text(":\",\"args\":{").quoted(name, escape);
            text.text(":").number(count).text("}}");
        }
        Ok(())
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.rest.text("\n]}\n");
        self.texts.write_behind(&self.rest)
    }
}

fn escape(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
