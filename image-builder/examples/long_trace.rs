//! Writes the log of a run with so many traced exits to standard output, to measure the costs of a long trace:
//!
//! ```sh
//! cargo run --release --example long_trace 10000000 > long.log
//! /usr/bin/time -v target/release/tollgate trace long.log --out long.csv
//! ```

use std::error::Error;
use std::io::{self, Write};

use tollgate_abi::record::{Kind, PROTOCOL, Writer};
use tollgate_abi::trace::{Batch, Event};

fn main() -> Result<(), Box<dyn Error>> {
    let exits: u64 = std::env::args().nth(1).unwrap_or_default().parse().map_err(|_| "name a number of exits")?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut line = String::new();
    Writer::new(&mut line, Kind::Tollgate)
        .number("protocol", PROTOCOL)
        .number("vcpus", 1)
        .text("options", "trace=1")
        .finish()?;
    let (mut batch, mut records) = (Batch::new(), 0);
    for at in 0..exits {
        let reason = [10, 18, 28, 30, 31, 32, 48][at as usize % 7];
        batch.push(Event {
            tsc: 5_000_000 + 180 * at,
            reason,
            cycles: 50 + at % 300,
            rip: 0x10_2000 + at % 50 * 64,
            qualification: at % 3 * 0x3f8_0000,
        });
        if batch.is_full() || at + 1 == exits {
            let record = Writer::new(&mut line, Kind::Trace).number("vcpu", 0).number("seq", records);
            record.number("exits", batch.exits).number("tsc", batch.tsc).packed("data", &batch).finish()?;
            out.write_all(line.as_bytes())?;
            line.clear();
            batch.clear();
            records += 1;
        }
    }
    let record = Writer::new(&mut line, Kind::Traced).number("vcpu", 0).number("seq", records).number("exits", exits);
    record.number("dropped", 0).number("ring", exits).finish()?;
    out.write_all(line.as_bytes())?;
    out.flush()?;
    Ok(())
}
