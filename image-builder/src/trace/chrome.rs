//! A trace in Chrome's trace event format, which ui.perfetto.dev shows: a track for each vCPU, an event for each exit. The format
//! counts in microseconds; one TSC tick is shown as one.

use std::collections::BTreeSet;
use std::io::{self, Write};

use super::text::Text;
use super::{Exit, Sink};

pub(super) struct Chrome<W> {
    text: Text<W>,
    /// Those that have a track.
    vcpus: BTreeSet<u64>,
    last: Option<u64>,
}

impl<W: Write> Chrome<W> {
    pub(super) fn new(out: W) -> Self {
        let mut text = Text::new(out);
        text.text("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
        text.text("{\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",");
        text.text("\"args\":{\"name\":\"VM exits, a TSC tick as 1 us\"}}");
        Self { text, vcpus: BTreeSet::new(), last: None }
    }

    fn track(&mut self, vcpu: u64) {
        if self.vcpus.insert(vcpu) {
            self.text.text(",\n{\"ph\":\"M\",\"pid\":0,\"tid\":").number(vcpu);
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
        text.text(",\n{\"ph\":\"X\",\"pid\":0,\"tid\":").number(*vcpu).text(",\"ts\":").number(event.tsc);
        text.text(",\"dur\":").number(event.cycles).text(",\"name\":").quoted(name, escape);
        text.text(",\"args\":{\"reason\":").number(event.reason.into()).text(",\"qualification\":\"");
        text.hex(event.qualification).text("\",\"rip\":\"").hex(event.rip).text("\"");
        if !symbol.is_empty() {
            text.text(",\"symbol\":").quoted(symbol, escape);
        }
        text.text("}}").settle()
    }

    fn end(mut self: Box<Self>) -> io::Result<()> {
        self.text.text("\n]}\n").flush()
    }
}

fn escape(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
