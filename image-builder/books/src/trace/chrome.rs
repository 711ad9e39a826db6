//! A trace in Chrome's trace event format, which ui.perfetto.dev shows: a track for each vCPU, an event for each exit. If the
//! log has samples over time, there is a counter track for each vCPU and reason. The format counts in microseconds; one TSC tick
//! is shown as one. Processes and threads count from 1: importers give 0 a meaning of its own.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::text::Text;
use super::{Exit, Rate, Sink};

/// The process whose threads are the vCPUs. Those of counters have the numbers behind it.
const EXITS: u64 = 1;

/// The thread of a vCPU.
fn thread(vcpu: u64) -> u64 {
    vcpu.saturating_add(1)
}

pub(super) struct Chrome<W> {
    text: Text<W>,
    /// vCPUs that have a track.
    vcpus: BTreeSet<u64>,
    last: Option<u64>,
    /// Lengths of steps that have a process of counters.
    steps: Vec<u64>,
}

impl<W: Write> Chrome<W> {
    pub(super) fn new(out: W) -> Self {
        let mut text = Text::new(out);
        text.text("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
        text.text("{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",");
        text.text("\"args\":{\"name\":\"VM exits, a TSC tick as 1 us\"}}");
        Self { text, vcpus: BTreeSet::new(), last: None, steps: Vec::new() }
    }

    fn track(&mut self, vcpu: u64) {
        if self.vcpus.insert(vcpu) {
            self.text.text(",\n{\"ph\":\"M\",\"pid\":1,\"tid\":").number(thread(vcpu));
            self.text.text(",\"name\":\"thread_name\",\"args\":{\"name\":\"vCPU ").number(vcpu).text("\"}}");
        }
        self.last = Some(vcpu);
    }
}

impl<W: Write> Sink for Chrome<W> {
    fn exit(&mut self, Exit { vcpu, event, name, symbol }: &Exit<'_>) -> io::Result<()> {
        if self.last != Some(*vcpu) {
            self.track(*vcpu);
        }
        let text = &mut self.text;
        text.text(",\n{\"ph\":\"X\",\"pid\":1,\"tid\":").number(thread(*vcpu)).text(",\"ts\":").number(event.tsc);
        text.text(",\"dur\":").number(event.cycles).text(",\"name\":").quoted(name, escape);
        text.text(",\"args\":{\"reason\":").number(event.reason.into()).text(",\"qualification\":\"");
        text.hex(event.qualification).text("\",\"rip\":\"").hex(event.rip).text("\"");
        if !symbol.is_empty() {
            text.text(",\"symbol\":").quoted(symbol, escape);
        }
        text.text("}}").settle()
    }

    fn rate(&mut self, Rate { vcpu, name, start, step, counts }: &Rate<'_>) -> io::Result<()> {
        // Steps may be longer on one vCPU than on another: counters of one length are together.
        let known = self.steps.iter().position(|known| known == step);
        let process = EXITS + 1 + known.unwrap_or(self.steps.len()) as u64;
        if known.is_none() {
            self.steps.push(*step);
            self.text.text(",\n{\"ph\":\"M\",\"pid\":").number(process);
            self.text
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
            let text = &mut self.text;
            text.text(",\n{\"ph\":\"C\",\"pid\":")
                .number(process)
                .text(",\"ts\":")
                .number(from_tsc)
                .text(",\"name\":\"vCPU ")
                .number(*vcpu);
            text.text(":\",\"args\":{").quoted(name, escape);
            text.text(":").number(count).text("}}").settle()?;
        }
        Ok(())
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.text.text("\n]}\n").flush()
    }
}

fn escape(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
