//! The command line: every command, option and example.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use tollgate_abi::emulated::Release;
use tollgate_abi::machine::MOST_VCPUS;
use tollgate_books::report::{Format, Order, SheetFormat};

use crate::emulator::models::MODELS;
use crate::emulator::{Choice, Engine, release};

const STATUSES: &str = "Exit statuses:
  0  the books balance
  1  the books differ, or the guest failed or had to be stopped
  2  wrong usage, or a file that can't be used
  3  the platform can't run it (the reason and the remedy are printed)
  4  no verdict in time, or none that the log allows: it is unfinished, or records are damaged or missing";

const RUN_EXAMPLES: &str = "Examples:
  tollgate run                                   every workload, on the best platform that is here
  tollgate run --audit                           compare with the emulator's own log of VM exits, too
  tollgate run --workload cpuid:100000,memory    two workloads, one of them longer
  tollgate run --workload atlas                  every exit of VT-x that Bochs can produce, each with its cost
  tollgate run --workload atlas --on qemu-tcg    every exit of SVM that QEMU and Bochs can produce
  tollgate run --workload cr0,rdmsr --keys       within a reason: which registers, MSRs, ports, leaves, vectors, pages
  tollgate run --json --out results              JSON on standard output, all files in results/
  tollgate run --html exits.html                 a page with tables and charts, besides
  tollgate run --cpus 4 --audit                  a guest of four vCPUs, each with an account of its own
  tollgate run --workload triple-fault           a guest that breaks, and the verdict on it
  tollgate run --workload random:7 --audit       a guest of random instructions, which can't harm the monitor
  tollgate run --on qemu-tcg --audit             SVM on QEMU's own emulation
  tollgate run --guest own --no-book --audit     a guest of your own, held against the emulator's log
  tollgate run --guest debian --audit            Debian's Linux, which reads its own account with cpuid
  tollgate run --guest debian --exec nproc --console    commands of your own in it
  tollgate run --guest vmlinuz --initrd FILE --console   a Linux that others built, until it powers off
  tollgate run --guest kernel.elf --module FILE --append verbose   a kernel of multiboot or PVH, with a module

Environment:
  TOLLGATE_BOCHS    the Bochs to use instead of the one in PATH
  TOLLGATE_QEMU     the QEMU to use instead of the one in PATH
  TOLLGATE_OVMF     the UEFI firmware for QEMU to use instead of the one that tollgate has in itself";

const IMAGE_EXAMPLES: &str = "Examples:
  tollgate image --uefi tollgate.img             then copy it to a whole USB stick: dd if=tollgate.img of=/dev/sdX
  tollgate image --uefi linux.img --guest debian --exec nproc    a stick with Debian's Linux under the monitor
  tollgate image --uefi linux.img --guest vmlinuz --initrd FILE --append quiet --memory 512
  tollgate image --rom tollgate.rom
  qemu-system-x86_64 -bios tollgate.rom -serial stdio -display none -no-reboot";

const REPORT_EXAMPLES: &str = "Examples:
  tollgate report results/serial.log
  tollgate report --sort avg --histogram results/serial.log
  tollgate report --format html --out exits.html results/serial.log
  tollgate report --format html monday.log tuesday.log > compared.html
  tollgate report --format csv monday.log tuesday.log > exits.csv
  tollgate report --format csv --decimal-comma results > exits.csv     for a spreadsheet in German or French
  tollgate report --format json results | jq '.[] | {source, verdict}'
  tollgate report --format prometheus --out tollgate.prom results/serial.log
  tollgate report --format leaves results/serial.log | grep '0x4ffffffd 0x0a'    as `cpuid -1 -l 0x4ffffffd -s 10` prints it
  tollgate report --format parquet --out runs fleet    a data set, for DuckDB, Polars or Spark
  tollgate report --merge fleet                  thousands of logs, by platform, build and options
  ssh bench cat /dev/ttyS0 | tollgate report -
  ipmitool sol activate | tollgate report --follow   progress while a machine runs, and the account at the end
  tollgate report minicom.cap console.log.gz     captures as other tools keep them

A record is found behind the stamps of any tool and in front of any line end. Logs may be in UTF-16, and packed by gzip, xz, zstd or \
zip. A file may hold several runs: the second is FILE#2. Of a directory, and those in it, every file is reported that is named like a \
capture. A log that can't be used is named on standard error, and the exit status is 2 or above; the others are reported all the same.

A table is as wide as its terminal, with colours unless NO_COLOR is set; in a pipe it has 120 columns and none.

A page has everything in itself. Several logs are set side by side, at most 100 of them.

CSV has a line for each reason of each log: over all vCPUs (`all` in the column vcpu) and, where there are several, for \
each. An empty cell is a book that the log does not have. Verdict, keys, variants, workloads and scenarios are in the table, \
in the page and in JSON. JSON of several logs, or of a directory, is an array whose elements tell their source.

Metrics count in ticks of the time-stamp counter: `prometheus` for the node exporter's text files, Telegraf and promtool, `openmetrics` \
for scrapers. Each series has the labels log, platform and virtualization, and where \
they apply vcpu, number and reason; only the guest's book has no vCPU. At most 1000 logs, or any number merged.";

const BENCH_EXAMPLES: &str = "Examples:
  tollgate bench                                 VT-x, on Bochs' tigerlake
  tollgate bench --cpu zambezi                   the same operations under SVM, against the same budgets
  tollgate bench --cpu ryzen --format csv > ryzen.csv
  tollgate bench --on qemu-tcg --filter cpuid,vmcall --runs 3
  tollgate bench --save before.json              then change something, and
  tollgate bench --against before.json           tells which operation changed, and which part of it
  tollgate image --uefi stick.img --workload bench   for a real machine; the logs on its stick
  tollgate bench --log /mnt --save machine.json      have its figures

An operation over its budget is marked in the table, and the exit status is 1. It is 1, too, where runs that should repeat differ, \
and where figures differ from the baseline: by a tick on an emulator; elsewhere, if medians are more than 5% apart and their 95% \
intervals have nothing in common. A baseline of another platform or version is refused with status 2.";

const PEER_EXAMPLES: &str = "Examples:
  tollgate peer                                  the document on standard output; takes some ten minutes
  tollgate peer --out LINUX.md
  tollgate peer --runs 1                         wall times of one boot each
  tollgate peer --save figures.json              the figures, too, and
  tollgate peer --figures figures.json           the document of them, without a boot

The same kernel and initramfs boot in the same Bochs: under Tollgate, under the KVM of Debian's kernel with a small client in \
user space, and without a hypervisor. Bochs' own log tells every exit and the ticks up to the entry behind it. Exit status 1 if a \
difference in a count has no explanation.";

const TRACE_EXAMPLES: &str = "Examples:
  tollgate trace results/serial.log --out trace.json       for ui.perfetto.dev, a track for each vCPU
  tollgate trace results/serial.log --out trace.parquet    for data frames and databases
  tollgate trace mine.log --guest mine.elf --out trace.csv

A log has a trace if its run had one: `tollgate run --trace FILE`, or an image made with --trace-exits.";

const FUZZ_EXAMPLES: &str = "Examples:
  tollgate fuzz 0 1000                           seeds 0 to 999, over VT-x and SVM, Bochs and QEMU, one to four vCPUs
  tollgate fuzz 0 200 --platform zambezi,qemu-tcg --repeat-each 10

Every failing seed is a line with the command that repeats it. A guest may end however it likes; a run fails where the monitor \
faults or gives no verdict, where ledger and emulator's log differ, or where a second run has another log. Under SVM Bochs ends itself \
at a guest's triple fault, and makes no exit for the interrupt that would stop a guest that loops with RFLAGS.IF clear; QEMU ends itself \
at a null task register. Those runs have no account, and are counted by themselves.";

const REASONS_EXAMPLES: &str = "Examples:
  tollgate reasons                               both tables: the SDM's reasons, and SVM's own exits
  tollgate reasons --format csv | grep MSR
  tollgate reasons --format markdown > reasons.md";

const WORKLOADS_EXAMPLES: &str = "Examples:
  tollgate workloads                             the names that `run --workload` takes, scenarios included
  tollgate workloads --format json";

const PLATFORMS_EXAMPLES: &str = "Examples:
  tollgate platforms                             the ways to run on this machine, and the remedies
  tollgate platforms --versions                  differences between versions of the emulators
  tollgate platforms --exits --format markdown   every exit on every processor model; takes minutes";

const COMPLETIONS_EXAMPLES: &str = "Examples:
  tollgate completions bash > ~/.local/share/bash-completion/completions/tollgate
  tollgate completions zsh > ~/.zfunc/_tollgate
  tollgate completions fish > ~/.config/fish/completions/tollgate.fish";

const MAN_EXAMPLES: &str = "Examples:
  tollgate man | man -l -                        read it
  tollgate man --out ~/.local/share/man/man1     tollgate.1 and a page for each command";

/// Boots a bare-metal monitor and its guest, counts every VM exit and the cycles it cost, and proves that the account
/// balances.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, after_help = STATUSES)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot the image, audit the run and print the account
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArguments),
    /// Write the bootable image
    #[command(after_help = IMAGE_EXAMPLES)]
    Image(ImageArguments),
    /// Write the exits of a traced run one by one, for other programs
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(TraceArguments),
    /// Inspect serial logs
    #[command(after_help = REPORT_EXAMPLES)]
    Report(ReportArguments),
    /// Measure the cost of each kind of exit, and the ledger's part of it
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(BenchArguments),
    /// Boot Debian's kernel under Tollgate and under Linux' KVM, and set their exits side by side
    #[command(after_help = PEER_EXAMPLES)]
    Peer(PeerArguments),
    /// Run random guests, one seed after the other on all processors, each audited
    #[command(after_help = FUZZ_EXAMPLES)]
    Fuzz(FuzzArguments),
    /// List the exit reasons: the action that provokes each, and the platforms that can produce it
    #[command(after_help = REASONS_EXAMPLES)]
    Reasons(SheetArguments),
    /// List the workloads and the exits that each predicts
    #[command(after_help = WORKLOADS_EXAMPLES)]
    Workloads(SheetArguments),
    /// List the platforms: each way to run, whether it works here, and the remedy if not
    #[command(after_help = PLATFORMS_EXAMPLES)]
    Platforms(PlatformsArguments),
    /// Write a shell's completions to standard output
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArguments),
    /// Write the man page, or the pages of all commands
    #[command(after_help = MAN_EXAMPLES)]
    Man(ManArguments),
}

/// `platforms`.
#[derive(Clone, Copy, Debug, Args)]
pub struct PlatformsArguments {
    /// Run the atlas on every processor model of Bochs and show which exits each produces
    #[arg(long)]
    pub exits: bool,
    /// Show the differences between versions of the emulators, with their treatment and the evidence
    #[arg(long, conflicts_with = "exits")]
    pub versions: bool,
    /// The table's form.
    #[command(flatten)]
    pub sheet: SheetArguments,
}

/// The treatment of a run some of whose processors don't come up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum MissingCpus {
    /// It is refused, and the verdict names those that are missing
    #[default]
    Stop,
    /// It has fewer vCPUs
    GoOn,
}

/// The passing of time in which no vCPU has anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Idle {
    /// It passes as it is
    Real,
    /// The guest's clock is moved on to the next timer, and the account has the ticks that were skipped
    Skipped,
}

/// The way in which a kernel gets its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pages {
    /// All of it before it starts, by large pages
    Large,
    /// Page by page of 4 KiB, each on its first touch, which is an exit
    #[value(name = "4k")]
    FourKib,
}

/// The numbers of processors that may be asked for.
fn cpus() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MOST_VCPUS as i64)
}

/// The contents of an image.
#[derive(Clone, Debug, Args)]
pub struct ImageOptions {
    /// A workload, `NAME` or `NAME:ITERATIONS`; several by commas or by repeating it; `bench` for every microbenchmark,
    /// `random:SEED` for a guest of random instructions [default: all that return]
    #[arg(long = "workload", value_name = "NAME[:ITERATIONS]")]
    pub workloads: Vec<String>,
    /// The term whose CPUID leaves to provide: spring2021, autumn2021, autumn2022
    #[arg(long, value_name = "TERM", default_value = "autumn2021")]
    pub leaf_map: String,
    /// Tell the exits of each reason apart: by CPUID leaf, MSR, port, control register, page, ...
    #[arg(long)]
    pub keys: bool,
    /// Sample the ledger over time, in steps of so many TSC ticks; they double where a run outlasts 256 of them
    #[arg(long, value_name = "TICKS", default_value_t = 0, hide_default_value = true)]
    pub rate_step: u64,
    /// Trace every exit: the number that each vCPU holds until they are written between workloads; an exit that finds no room is
    /// counted as dropped [default: 65536 with --trace, else none]
    #[arg(long, value_name = "EXITS")]
    pub trace_exits: Option<u64>,
    /// Number of vCPUs, each on a processor of its own: 1 to 16
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = cpus())]
    pub cpus: u32,
    /// Stop, or go on with fewer vCPUs, where the machine has fewer processors than vCPUs are asked for
    #[arg(long, value_enum, default_value_t)]
    pub missing_cpus: MissingCpus,
    /// TSC ticks without an exit after which the guest is stopped; 0 for never [default: 200000000, for a random guest 2000000]
    #[arg(long, value_name = "TICKS")]
    pub watchdog: Option<u64>,
    /// TSC ticks from the first entry on after which the guest is stopped, whatever it does; 0 for never [default: as many as an
    /// emulator does in most of --timeout; in an image, ten minutes; for a random guest 20000000]
    #[arg(long, value_name = "TICKS")]
    pub limit: Option<u64>,
    /// A guest instead of the built-in one: an ELF file that is made for Tollgate, or a kernel, which ends when it powers off: of
    /// Linux (bzImage), multiboot, PVH or Hermit; `debian` for Debian's kernel, out of the packages of this system's release
    #[arg(long, value_name = "FILE")]
    pub guest: Option<PathBuf>,
    /// The kernel's initial RAM disk; for a kernel of multiboot, PVH or Hermit it is the first module
    #[arg(long, value_name = "FILE", requires = "guest")]
    pub initrd: Option<PathBuf>,
    /// A file that a kernel of multiboot or PVH is given as a module, with a text for it, else the file's name; several by repeating it
    #[arg(long = "module", value_name = "FILE[=TEXT]", requires = "guest")]
    pub modules: Vec<String>,
    /// More words for the kernel's command line
    #[arg(long, value_name = "TEXT", requires = "guest", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Commands for a shell in a user space of Debian's busybox and cpuid, behind which the kernel powers off [default with
    /// --guest debian: read the account by every leaf]
    #[arg(long, value_name = "COMMANDS", requires = "guest", conflicts_with = "initrd")]
    pub exec: Option<String>,
    /// The time in which no vCPU of the guest has anything to do [default: real; skipped with a kernel on an emulator that repeats
    /// to the byte]
    #[arg(long, value_enum, requires = "guest")]
    pub idle: Option<Idle>,
    /// A kernel's memory: mapped before it starts, or by pages on their first touch, to count these [default: large]
    #[arg(long, value_enum, requires = "guest")]
    pub pages: Option<Pages>,
    /// Cut the account where the guest's console shows TEXT for the first time, and call that NAME; several by repeating it. A
    /// kernel has marks of its own, of which one of the same name is replaced
    #[arg(long = "mark", value_name = "NAME=TEXT")]
    pub marks: Vec<String>,
    /// End the run once the console of a guest without a book shows TEXT, with a full account; without it the run has failed
    #[arg(long, value_name = "TEXT", requires = "guest", allow_hyphen_values = true)]
    pub until: Option<String>,
    /// Take it that the guest of --guest keeps no book: compare the ledger with the emulator's log alone, however the guest ends
    #[arg(long, requires = "guest")]
    pub no_book: bool,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// The platform to run on
    #[arg(long, value_parser = Choice::parser(), default_value = Choice::AUTO)]
    pub on: Choice,
    /// The contents of the image.
    #[command(flatten)]
    pub image: ImageOptions,
    /// Boot the UEFI image, under OVMF, and compare the log on its stick with the serial log
    #[arg(long)]
    pub uefi: bool,
    /// Trace the exits, and write each with its time, place and cycles: FILE.json for ui.perfetto.dev, FILE.csv or FILE.parquet
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Compare with the emulator's own log of VM exits, too (not with KVM, which keeps none)
    #[arg(long)]
    pub audit: bool,
    /// Write one JSON document to standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
    /// Show the guest's console on standard error while it runs
    #[arg(long)]
    pub console: bool,
    /// Write the account as a page to this file, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Keep every file of the run in this directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The kernel's System.map: the function in which it ended is named, and with --trace each function
    #[arg(long, value_name = "FILE", requires = "guest")]
    pub system_map: Option<PathBuf>,
    /// The processor model of Bochs; `tollgate platforms` lists them
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// Memory of the emulated machine in MiB [default: 32, with --uefi 256]; with a kernel that of its own machine [default: 256]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u16).range(4..=2048))]
    pub memory: Option<u16>,
    /// Processors of the emulated machine, 1 to 16 [default: as many as the run needs]
    #[arg(long, value_name = "M", value_parser = cpus())]
    pub machine_cpus: Option<u32>,
    /// Wall time in seconds until the run is given up [default: 60, with --audit or --uefi 180, with a kernel 300]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// `fuzz`.
#[derive(Clone, Debug, Args)]
pub struct FuzzArguments {
    /// The first seed
    #[arg(value_name = "FROM")]
    pub from: u64,
    /// The seed behind the last
    #[arg(value_name = "TO")]
    pub to: u64,
    /// A processor model of Bochs, or qemu-tcg; several by commas [default: a rotation over all kinds]
    #[arg(long = "platform", value_name = "PLATFORM", value_delimiter = ',')]
    pub platforms: Vec<String>,
    /// Number of vCPUs, with --platform [default: 1 and 2 in turn]
    #[arg(long, value_name = "N", value_parser = cpus(), requires = "platforms")]
    pub cpus: Option<u32>,
    /// Run every Nth seed twice, and compare the serial logs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat_each: Option<u64>,
    /// Wall time in seconds until a run is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// Runs at once [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub jobs: Option<u16>,
}

/// `image`.
#[derive(Clone, Debug, Args)]
pub struct ImageArguments {
    /// The file for the ROM
    #[arg(long, value_name = "FILE", required_unless_present = "uefi")]
    pub rom: Option<PathBuf>,
    /// The file for the disk image for a machine with UEFI
    #[arg(long, value_name = "FILE")]
    pub uefi: Option<PathBuf>,
    /// Memory in MiB of the machine of a kernel [default: 256]
    #[arg(long, value_name = "MIB", requires = "guest", value_parser = clap::value_parser!(u16).range(4..=2048))]
    pub memory: Option<u16>,
    /// Show the last lines of the guest's console on the screen, above the account; the log has all of them
    #[arg(long, requires = "uefi")]
    pub console: bool,
    /// The contents of the image.
    #[command(flatten)]
    pub image: ImageOptions,
}

/// `trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArguments {
    /// The serial log of a run with a trace, or one run of several (FILE#2); `-` for standard input
    #[arg(value_name = "LOG")]
    pub log: PathBuf,
    /// The file to write: FILE.json for ui.perfetto.dev, FILE.csv or FILE.parquet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The ELF file that the run had as its guest, if not the built-in one: its functions are named
    #[arg(long, value_name = "ELF")]
    pub guest: Option<PathBuf>,
    /// The System.map of the kernel that the run had as its guest: its functions are named
    #[arg(long, value_name = "FILE", conflicts_with = "guest")]
    pub system_map: Option<PathBuf>,
}

/// The sign between the cells of CSV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Delimiter {
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// A tabulator
    Tab,
}

impl Delimiter {
    /// Its character.
    pub fn sign(self) -> u8 {
        match self {
            Delimiter::Comma => b',',
            Delimiter::Semicolon => b';',
            Delimiter::Tab => b'\t',
        }
    }
}

/// The form of a report: that of a file, or a directory of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportFormat {
    /// One file.
    File(Format),
    /// A data set of Parquet files.
    Parquet,
}

impl Default for ReportFormat {
    fn default() -> Self {
        ReportFormat::File(Format::default())
    }
}

impl ValueEnum for ReportFormat {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: LazyLock<Vec<ReportFormat>> = LazyLock::new(|| {
            let files = Format::value_variants().iter().map(|&format| ReportFormat::File(format));
            files.chain([ReportFormat::Parquet]).collect()
        });
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            ReportFormat::File(format) => format.to_possible_value(),
            ReportFormat::Parquet => {
                Some(PossibleValue::new("parquet").help("A directory of columns, for DuckDB, Polars or Spark"))
            }
        }
    }
}

/// `report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArguments {
    /// Serial logs, a run of one (FILE#2), and directories to look for logs in; `-` or none for standard input
    #[arg(value_name = "LOG")]
    pub logs: Vec<PathBuf>,
    /// The form of the report
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,
    /// The column by which the reasons of a table or page are sorted
    #[arg(long = "sort", value_name = "COLUMN", value_enum, default_value_t)]
    pub order: Order,
    /// Show below a table how long the exits of each reason took
    #[arg(long)]
    pub histogram: bool,
    /// The sign between the cells of CSV, for spreadsheets of other locales [default: comma; semicolon with --decimal-comma]
    #[arg(long, value_name = "SIGN", value_enum)]
    pub csv_delimiter: Option<Delimiter>,
    /// Write the decimals of CSV behind a comma
    #[arg(long)]
    pub decimal_comma: bool,
    /// Merge runs of the same platform, build and options, with how far they lie apart
    #[arg(long)]
    pub merge: bool,
    /// Follow one log while it is written, a file or a pipe: show its progress, and report it once its verdict has come
    #[arg(long, conflicts_with = "merge")]
    pub follow: bool,
    /// Write to this file instead of standard output, or, with --format parquet, to this directory; it is there whole or not at all
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The System.map of the kernel that the logs are of: the function in which it ended is named
    #[arg(long, value_name = "FILE", conflicts_with_all = ["merge", "follow"])]
    pub system_map: Option<PathBuf>,
}

/// `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArguments {
    /// The platform to run on
    #[arg(long, value_parser = Choice::parser(), default_value = Choice::AUTO)]
    pub on: Choice,
    /// Measure nothing, but read figures from elsewhere: serial logs, or directories of them, of one machine
    #[arg(
        long = "log",
        value_name = "LOG",
        num_args = 1..,
        conflicts_with_all = ["on", "cpu", "audit", "runs", "timeout"]
    )]
    pub logs: Vec<PathBuf>,
    /// Measure only these operations; several by commas or by repeating it [default: all]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    pub filter: Vec<String>,
    /// Boots of each; on an emulator they must be the same to the tick, elsewhere their samples are pooled
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Write the figures to this file, a baseline
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Compare with a baseline; exit status 1 if something differs
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// Compare with the emulator's own log of VM exits, too (not with KVM, which keeps none)
    #[arg(long)]
    pub audit: bool,
    /// The processor model of Bochs, and by it VT-x or SVM; `tollgate platforms` lists them [default: tigerlake]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// The form of the result
    #[arg(long, value_enum, default_value_t)]
    pub format: SheetFormat,
    /// Wall time in seconds until a run is given up [default: 60, with --audit 180]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// `peer`.
#[derive(Clone, Debug, Args)]
pub struct PeerArguments {
    /// The processor model of Bochs; `tollgate platforms` lists them
    #[arg(long, value_name = "MODEL", default_value = "corei7_skylake_x")]
    pub cpu: String,
    /// Boots whose wall time is taken, of each kind; the shortest counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// Write the document to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the figures to this file, too
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Measure nothing, but make the document of the figures in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cpu", "runs", "timeout", "save"])]
    pub figures: Option<PathBuf>,
    /// Wall time in seconds until a boot is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub timeout: u64,
}

/// `completions`.
#[derive(Clone, Copy, Debug, Args)]
pub struct CompletionsArguments {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `man`.
#[derive(Clone, Debug, Args)]
pub struct ManArguments {
    /// Write a page for the tool and one for each command into this directory
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `reasons`, `workloads`, `platforms`.
#[derive(Clone, Copy, Debug, Args)]
pub struct SheetArguments {
    /// The form of the table
    #[arg(long, value_enum, default_value_t)]
    pub format: SheetFormat,
}

/// The options whose value is a processor model of Bochs: command, option, and what they take besides.
const MODEL_OPTIONS: [(&str, &str, &[&str]); 3] =
    [("run", "cpu", &[]), ("bench", "cpu", &[]), ("fuzz", "platforms", &["qemu-tcg"])];

/// The command line for help and shells, which show the values to choose from, with the models of the Bochs that is here.
pub fn with_models() -> clap::Command {
    with_models_of(release(Engine::Bochs))
}

/// The command line for help and shells with the models of a version, or of every version if it is unknown.
fn with_models_of(version: Option<Release>) -> clap::Command {
    let names: Vec<_> = MODELS.iter().filter(|model| model.versions.by(version)).map(|model| model.name).collect();
    MODEL_OPTIONS.into_iter().fold(Cli::command(), |tool, (command, option, others)| {
        let values = PossibleValuesParser::new([&names[..], others].concat());
        tool.mut_subcommand(command, |command| command.mut_arg(option, |argument| argument.value_parser(values)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_shells_are_told_the_models_of_a_version() {
        let models = |version, command: &str, option: &str| {
            let tool = with_models_of(version);
            let argument =
                tool.find_subcommand(command).unwrap().get_arguments().find(|a| a.get_id() == option).unwrap();
            argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect::<Vec<_>>()
        };
        for (command, option, others) in MODEL_OPTIONS {
            let old = models(Some((2, 7)), command, option);
            assert!(old.contains(&"bx_generic".to_owned()) && !old.contains(&"arrow_lake".to_owned()), "{command}");
            let new = models(Some((3, 1)), command, option);
            assert!(new.contains(&"arrow_lake".to_owned()) && !new.contains(&"bx_generic".to_owned()), "{command}");
            assert!(others.iter().all(|other| new.contains(&(*other).to_owned())), "{command}");
            assert!(models(None, command, option).contains(&"tigerlake".to_owned()), "{command}");
        }
        with_models_of(None).debug_assert();
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The command lines in a text: the words behind `tollgate` or `cargo run --release --` at the beginning of a line, up to two
    /// spaces, a pipe, a redirection or a comment; and the words behind `tollgate` in a table, between backticks.
    fn examples(text: &str) -> Vec<Vec<String>> {
        let begins = ["tollgate ", "cargo run --release -- "];
        let command = |line: &str| {
            let line = line.trim_start();
            let rest = begins.iter().find_map(|begin| line.strip_prefix(begin))?;
            let end = ["  ", " |", " >", " #"].iter().filter_map(|end| rest.find(end)).min().unwrap_or(rest.len());
            // A blank between quotes separates no words.
            let parts = rest[..end].split('\'').enumerate();
            let joined =
                parts.map(|(at, part)| if at % 2 == 1 { part.replace(' ', "\u{a0}") } else { part.to_owned() });
            let words = joined.collect::<String>();
            Some(words.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace('\u{a0}', " ")).collect())
        };
        let tables = text.lines().filter(|line| line.starts_with('|'));
        let cells = tables.flat_map(|line| line.split('`').skip(1).step_by(2));
        text.lines().chain(cells).filter_map(command).collect()
    }

    fn check(example: Vec<String>) {
        let parsed = Cli::try_parse_from(std::iter::once("tollgate".to_owned()).chain(example.iter().cloned()));
        assert!(parsed.is_ok(), "`tollgate {}`: {}", example.join(" "), parsed.unwrap_err());
    }

    #[test]
    fn every_command_has_examples_and_all_of_them_parse() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (name, examples) = (command.get_name(), examples(&help));
            assert!(examples.iter().any(|example| example[0] == name), "{name}: {help}");
            examples.into_iter().for_each(check);
        }
    }

    /// The texts of a command's help: about itself, its options, and below them.
    fn texts(command: &clap::Command) -> Vec<String> {
        let of_arguments =
            command.get_arguments().filter_map(|argument| argument.get_long_help().or(argument.get_help()));
        let of_command = [command.get_about(), command.get_long_about(), command.get_after_help()];
        of_arguments.chain(of_command.into_iter().flatten()).map(ToString::to_string).collect()
    }

    #[test]
    fn helps_are_short_sentences_that_name_their_thing() {
        let cli = Cli::command();
        for text in std::iter::once(&cli).chain(cli.get_subcommands()).flat_map(texts) {
            let prose = text.lines().filter(|line| !line.starts_with("  ")).collect::<Vec<_>>().join(" ");
            for sentence in prose.split(['.', ';']).map(str::trim) {
                assert!(sentence.split_whitespace().count() <= 40, "too long: {sentence}");
                let free = ["What ", "Where ", "Which ", "How "].iter().any(|word| sentence.starts_with(word));
                assert!(!free, "it names no thing: {sentence}");
            }
        }
    }

    #[test]
    fn every_command_line_in_the_documents_parses() {
        for text in [include_str!("../../README.md"), include_str!("../MANUAL.md")] {
            let examples = examples(text);
            assert!(examples.len() > 5, "{examples:?}");
            examples.into_iter().filter(|example| example[0] != "COMMAND").for_each(check);
        }
    }
}
