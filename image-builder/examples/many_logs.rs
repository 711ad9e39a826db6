//! Writes logs to measure how fast reports are: so many runs of four vCPUs, each in a file of its own, and one run with a trace that
//! makes its log so many MiB long.
//!
//! ```sh
//! cargo run --release --example many_logs many 2000 1024
//! hyperfine 'target/release/tollgate report --merge many/fleet' 'target/release/tollgate report many/long.log'
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use tollgate_abi::exit_reason::TABLE;
use tollgate_abi::record::{Kind, PROTOCOL, Writer};
use tollgate_abi::trace::{Batch, Event};

const VCPUS: u64 = 4;
/// Keys of each row that has any: as many as make a log 68 KiB long.
const KEYS: u64 = 26;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [place, runs, mib] = &arguments[..] else { return Err("name a directory, a number of runs, and MiB".into()) };
    let place = Path::new(place);
    fs::create_dir_all(place.join("fleet"))?;
    for run in 0..runs.parse()? {
        fs::write(place.join(format!("fleet/{run:06}.log")), log(run))?;
    }
    long(File::create(place.join("long.log"))?, mib.parse::<usize>()? << 20)
}

fn header(log: &mut String, vcpus: u64, options: &str) {
    let record = Writer::new(log, Kind::Tollgate).number("protocol", PROTOCOL).text("build", "0.1.0");
    let record = record.word("platform", "rom").word("virtualization", "VT-x").text("cpu", "A processor");
    let record = record.word("sdm", "2025-06").word("leaf_map", "autumn2021").number("vcpus", vcpus);
    // Writing to memory can't fail.
    let _ = record.text("options", options).finish();
}

/// The log of a run whose figures differ from those of the next.
fn log(run: u64) -> String {
    let mut log = String::new();
    header(&mut log, VCPUS, "workloads=none book=none cpus=4");
    for vcpu in 0..VCPUS {
        let (mut exits, mut all) = (0, 0);
        for row in TABLE {
            let number = u64::from(row.reason.0);
            let count = if number % 3 == 1 { KEYS * (100 + (run * 7 + number) % 50) } else { 0 };
            let each = 64 + (run + number) % 60;
            let mut histogram = [0; 64];
            histogram[6] = count;
            let extreme = if count > 0 { each } else { 0 };
            let record = Writer::new(&mut log, Kind::Exit).number("vcpu", vcpu).number("reason", number);
            let record = record.text("name", row.reason.name()).word("status", "enabled").number("count", count);
            let record = record.number("cycles", count * each).number("min", extreme).number("max", extreme);
            let _ = if count > 0 { record.histogram("histogram", &histogram).finish() } else { record.finish() };
            (exits, all) = (exits + count, all + count * each);
            if [10, 28, 31].contains(&number) {
                for key in 0..KEYS {
                    let record = Writer::new(&mut log, Kind::Key).number("vcpu", vcpu).number("reason", number);
                    let record = record.hex("key", key).text("name", format_args!("leaf {key:#x}"));
                    let record = record.number("count", count / KEYS).number("cycles", count / KEYS * each);
                    let _ = record.number("min", each).number("max", each).finish();
                }
            }
        }
        let record = Writer::new(&mut log, Kind::Total).number("vcpu", vcpu).number("exits", exits);
        let record = record.number("entries", exits).number("cycles", all).number("elapsed", 2 * all);
        let _ = record.finish();
    }
    let _ = Writer::new(&mut log, Kind::Stop).word("outcome", "powered-off").finish();
    let _ = Writer::new(&mut log, Kind::Verdict).word("result", "balanced").finish();
    log
}

/// The log of a run with a trace, at least so many bytes long.
fn long(file: File, bytes: usize) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::new(file);
    let mut line = String::new();
    header(&mut line, 1, "workloads=none book=none trace=1");
    let (mut batch, mut records, mut exits, mut written) = (Batch::new(), 0, 0, 0);
    while written < bytes {
        batch.push(Event {
            tsc: 5_000_000 + 180 * exits,
            reason: [10, 18, 28, 30, 31, 32, 48][exits as usize % 7],
            cycles: 50 + exits % 300,
            rip: 0x10_2000 + exits % 50 * 64,
            qualification: exits % 3 * 0x3f8_0000,
        });
        exits += 1;
        if batch.is_full() {
            let record = Writer::new(&mut line, Kind::Trace).number("vcpu", 0).number("seq", records);
            record.number("exits", batch.exits).number("tsc", batch.tsc).packed("data", &batch).finish()?;
            out.write_all(line.as_bytes())?;
            written += line.len();
            line.clear();
            batch.clear();
            records += 1;
        }
    }
    let exits = exits - batch.exits;
    let record = Writer::new(&mut line, Kind::Traced).number("vcpu", 0).number("seq", records).number("exits", exits);
    record.number("dropped", 0).number("ring", exits).finish()?;
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}
