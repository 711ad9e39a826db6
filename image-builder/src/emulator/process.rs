//! An emulator as a process that cannot outlive its run: a process group of its own, killed whole when dropped.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its working directory, which also receives `stdout.log` and `stderr.log`.
    pub directory: PathBuf,
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
    /// Starts it without input or terminal; `setpriv` makes the kernel end it even if this process is killed.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(invocation: &Invocation) -> io::Result<Self> {
        let mut command = match find_program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&invocation.program);
                command
            }
            None => Command::new(&invocation.program),
        };
        command.args(&invocation.arguments).current_dir(&invocation.directory).process_group(0);
        // A known terminal type is all that Bochs' text display wants; GUEST is what Debian's wrapper sets.
        command.env("TERM", "vt100").env("GUEST", "guest");
        command.stdin(Stdio::null());
        command.stdout(File::create(invocation.directory.join(STDOUT))?);
        command.stderr(File::create(invocation.directory.join(STDERR))?);
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid })
    }

    /// Whether it has ended. It is not reaped yet, so its number can't have gone to another process.
    pub fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(waitid(WaitId::Pid(self.pid), options), Ok(None))
    }

    /// Kills what is left of the group, and says how its leader ended.
    ///
    /// # Errors
    /// The leader can't be waited for.
    pub fn end(mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.child.wait()
    }

    fn kill(&self) {
        // An error means that nothing of it is left.
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
