//! An emulator as a process that cannot outlive its run: a process group of its own, killed whole when dropped.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// The program to start, and its directory.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The program.
    pub program: PathBuf,
    /// The program's arguments.
    pub arguments: Vec<OsString>,
    /// Its working directory, which also receives `stdout.log` and `stderr.log`.
    pub directory: PathBuf,
    /// Whether it says where its processors are, and ends, when it is interrupted.
    pub tells_when_interrupted: bool,
}

/// The emulator's standard output, in the run's directory.
pub const STDOUT: &str = "stdout.log";
/// The emulator's standard error, in the run's directory.
pub const STDERR: &str = "stderr.log";

/// A running process group.
#[derive(Debug)]
pub struct Group {
    child: Child,
    pid: Pid,
}

impl Group {
    /// Starts it; `setpriv` makes the kernel end it even if this process is killed.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(invocation: &Invocation) -> io::Result<Self> {
        let mut command = command(&invocation.program);
        command.args(&invocation.arguments).current_dir(&invocation.directory);
        command.stdout(File::create(invocation.directory.join(STDOUT))?);
        command.stderr(File::create(invocation.directory.join(STDERR))?);
        Self::start(command)
    }

    fn start(mut command: Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    /// Whether it has ended. It is not reaped yet, so its number can't have gone to another process.
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// The processor's time that the leader has taken so far (proc_pid_stat(5): `utime`, `stime`).
    pub fn processor_time(&self) -> Option<Duration> {
        const FIELDS_BEHIND_THE_NAME: usize = 11;
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_pid())).ok()?;
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ').skip(FIELDS_BEHIND_THE_NAME);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        let ticks = ticks()? + ticks()?;
        Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Interrupts the group, and gives it a moment to say where it was and to end.
    pub fn interrupt(&self) {
        // An error means that no process of the group is left.
        let _ = kill_process_group(self.pid, Signal::INT);
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < LAST_WORDS {
            std::thread::sleep(POLL);
        }
    }

    /// Kills the rest of the group, and returns the exit status of its leader.
    ///
    /// # Errors
    /// The leader can't be waited for.
    pub fn end(mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.child.wait()
    }

    fn kill(&self) {
        // An error means that no process of the group is left.
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// A command that starts `program` without input or terminal, in a process group of its own.
fn command(program: &Path) -> Command {
    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    // Bochs' text display needs nothing but a known terminal type; GUEST is a variable that Debian's wrapper sets.
    command.process_group(0).env("TERM", "vt100").env("GUEST", "guest").stdin(Stdio::null());
    command
}

/// The time that an interrupted program may take to end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The time that a program may take to answer, the time between two looks at it, and the most bytes of its answer.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
const MOST_BYTES: u64 = 64 << 10;

/// The text that a program prints, on either output, when it is started with these arguments: empty if it can't be started, and
/// the text so far if it does not end in time.
pub fn ask(program: &Path, arguments: &[&str]) -> String {
    let started = io::pipe().and_then(|(reader, writer)| {
        let mut command = command(program);
        command.args(arguments).current_dir("/").stdout(writer.try_clone()?).stderr(writer);
        // The command's ends of the pipe go with it, so that the reader sees the program's end.
        Ok((Group::start(command)?, reader))
    });
    let Ok((group, said)) = started else { return String::new() };
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // If the pipe breaks off, the text so far counts.
        let _ = said.take(MOST_BYTES).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let start = Instant::now();
    while !group.has_ended() && start.elapsed() < PATIENCE {
        std::thread::sleep(POLL);
    }
    // It was killed in any case; if waiting for it fails, its text still counts.
    let _ = group.end();
    reader.join().unwrap_or_default()
}

/// Finds a program in PATH. A name with a slash is a path already.
pub fn find_program(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let is_program =
        |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let candidates = if name.contains('/') {
        vec![PathBuf::from(name)]
    } else {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).collect()
    };
    let found = candidates.into_iter().find(|path| is_program(path))?;
    std::path::absolute(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_asked_and_heard_on_both_outputs() {
        assert_eq!(ask(Path::new("/bin/sh"), &["-c", "echo a b; echo c >&2"]), "a b\nc\n");
        let missing = ask(Path::new("/nonexistent"), &[]);
        assert!(missing.is_empty() || missing.starts_with("setpriv: "), "{missing}");
    }
}
