//! `--guest debian`: the files of a Linux that Debian built, out of the packages of this system's release. The package manager
//! fetches and checks the packages, which takes no root; the files that a guest needs are kept in a cache, by the packages'
//! versions. A folder of the cache is there whole or not at all.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tollgate_abi::virtualization::Extension;
use tollgate_books::failure::Failure;
use tollgate_books::terminal::Terminal;

use crate::user_space::UserSpace;

/// The package that depends on the newest kernel for virtual machines.
const NEWEST_KERNEL: &str = "linux-image-cloud-amd64";
/// The beginnings of a kernel's package, in front of its version. In newer releases the first is all that the second depends on.
const KERNELS: [&str; 2] = ["linux-binary-", "linux-image-"];
/// The packages of the user space.
const USER_SPACE: &[&str] = &["busybox-static", "cpuid", "libc6"];
const ARCHITECTURE: &str = "amd64";

/// The places of a module.
macro_rules! module {
    ($path:literal) => {
        [concat!("lib/modules/VERSION/kernel/", $path), concat!("usr/lib/modules/VERSION/kernel/", $path)]
    };
}

/// A file's name in the cache, and its places in the packages of one release or another, with [`VERSION`] for the kernel's.
type Kept = (&'static str, [&'static str; 2]);

/// The files of a guest.
const FILES: [Kept; 5] = [
    ("vmlinuz", ["boot/vmlinuz-VERSION", "usr/lib/modules/VERSION/vmlinuz"]),
    ("busybox", ["bin/busybox", "usr/bin/busybox"]),
    ("cpuid", ["usr/bin/cpuid", "bin/cpuid"]),
    (
        "ld-linux-x86-64.so.2",
        ["lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"],
    ),
    ("libc.so.6", ["lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"]),
];

/// The modules of KVM, in the order in which they are loaded; of the last two a processor takes one.
const MODULES: [Kept; 4] = [
    ("irqbypass.ko", module!("virt/lib/irqbypass.ko")),
    ("kvm.ko", module!("arch/x86/kvm/kvm.ko")),
    ("kvm-intel.ko", module!("arch/x86/kvm/kvm-intel.ko")),
    ("kvm-amd.ko", module!("arch/x86/kvm/kvm-amd.ko")),
];

/// A part of Debian that has a folder of its own in the cache: the kernel's package and others, and the files that are kept of them.
#[derive(Debug)]
struct Part {
    folder: &'static str,
    packages: &'static [&'static str],
    files: &'static [Kept],
    megabytes: u32,
}

const GUEST: Part = Part { folder: "debian", packages: USER_SPACE, files: &FILES, megabytes: 30 };
const KVM: Part = Part { folder: "debian-kvm", packages: &[], files: &MODULES, megabytes: 25 };

const VERSION: &str = "VERSION";

const OWN_KERNEL: &str = "--guest FILE takes a kernel of one's own";

/// Debian's kernel, and the programs beside it.
#[derive(Debug)]
pub struct Debian {
    /// The bzImage.
    pub kernel: Vec<u8>,
    /// The programs.
    pub user_space: UserSpace,
    /// The kernel's package and its version.
    pub version: String,
}

/// The guest's files, from the cache or the network. Their version is told on standard error.
///
/// # Errors
/// This is no Debian, or the packages can't be had: the failure says which, and the remedy.
pub fn debian() -> Result<Debian, Failure> {
    let (version, [kernel, busybox, cpuid, loader, libc]) = read(&GUEST, FILES)?;
    Ok(Debian { kernel, user_space: UserSpace { busybox, cpuid, loader, libc }, version })
}

/// The modules by which the same kernel is a hypervisor on such a processor, in the order in which they are loaded.
///
/// # Errors
/// As for [`debian`].
pub fn kvm(extension: Extension) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
    let other = match extension {
        Extension::VtX => "kvm-amd.ko",
        Extension::Svm => "kvm-intel.ko",
    };
    let modules = MODULES.map(|(name, _)| name).into_iter().zip(read(&KVM, MODULES)?.1);
    Ok(modules.filter(|(name, _)| *name != other).collect())
}

/// The kernel's package, and files of a part, each whole.
fn read<const N: usize>(part: &'static Part, files: [Kept; N]) -> Result<(String, [Vec<u8>; N]), Failure> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let cache = cache.ok_or_else(|| {
        Failure::platform("there is no place for Debian's packages: neither XDG_CACHE_HOME nor HOME is set")
            .remedy("set XDG_CACHE_HOME to a folder")
    })?;
    let search = std::env::var_os("PATH").unwrap_or_default();
    let store = Store { folder: cache.join("tollgate").join(part.folder), search: &search, part };
    let (folder, said) = store.files()?;
    Terminal::of_stderr().tell(&said);
    let mut failure = None;
    let read = files.map(|(name, _)| {
        let path = folder.join(name);
        fs::read(&path).unwrap_or_else(|error| {
            let unreadable = Failure::platform(format_args!("{} can't be read: {error}", path.display()))
                .remedy(format_args!("remove {}; it is then made again", folder.display()));
            failure.get_or_insert(unreadable);
            Vec::new()
        })
    });
    failure.map_or(Ok((kernel_of(&folder), read)), Err)
}

/// The cache, and the folders in which the package manager's programs are looked for.
struct Store<'a> {
    folder: PathBuf,
    search: &'a OsStr,
    part: &'static Part,
}

/// The packages of a release: the kernel's name, and the names of all files, by which their versions are told.
struct Packages {
    kernel: String,
    files: Vec<String>,
}

impl Packages {
    /// The name of their folder in the cache.
    fn folder(&self) -> String {
        self.files.join(",")
    }
}

impl Store<'_> {
    /// A folder with all files, and a sentence about it for the person.
    fn files(&self) -> Result<(PathBuf, String), Failure> {
        if !std::env::split_paths(self.search).any(|folder| folder.join("apt-get").is_file()) {
            return Err(Failure::platform("--guest debian needs a Debian system, and this one has no apt-get")
                .remedy(OWN_KERNEL));
        }
        let got = self.packages().and_then(|packages| {
            let folder = self.folder.join(packages.folder());
            if self.is_whole(&folder) {
                return Ok((folder, "out of the cache"));
            }
            let (files, megabytes) = (packages.files.join(", "), self.part.megabytes);
            let tell = format!("fetching Debian's {files} (about {megabytes} MB)");
            Terminal::of_stderr().tell(&tell);
            self.fetch(&packages, &folder)?;
            Ok((folder, "fetched"))
        });
        match got {
            Ok((folder, how)) => {
                let said = format!("Debian's {}: {how}, {}", kernel_of(&folder), folder.display());
                Ok((folder, said))
            }
            Err(failure) => {
                let folder = self.newest().ok_or_else(|| failure.clone())?;
                let said = format!(
                    "{}; an earlier {} is used, out of the cache: {}",
                    failure.sentence(),
                    kernel_of(&folder),
                    folder.display()
                );
                Ok((folder, said))
            }
        }
    }

    /// The packages by the lists that the package manager has.
    fn packages(&self) -> Result<Packages, Failure> {
        let unknown = |cause: String| {
            Failure::platform(format_args!("apt does not know Debian's packages: {cause}"))
                .remedy(format_args!("run `apt-get update` as root on a Debian system; or {OWN_KERNEL}"))
        };
        let of_architecture = |package: &str| format!("{package}:{ARCHITECTURE}");
        let depends = |package: &str, prefix: &str| {
            let text = self.call("apt-cache", &["depends", "--no-recommends", &of_architecture(package)], None)?;
            let mut names = text.lines().filter_map(|line| Some(line.trim().strip_prefix("Depends: ")?.trim()));
            Ok(names.find(|name| name.starts_with(prefix)).map(str::to_owned))
        };
        let image = depends(NEWEST_KERNEL, KERNELS[1]).map_err(unknown)?;
        let image = image.ok_or_else(|| unknown(format!("{NEWEST_KERNEL} depends on no kernel")))?;
        let kernel = depends(&image, KERNELS[0]).map_err(unknown)?.unwrap_or(image);
        let wanted: Vec<String> =
            [kernel.as_str()].iter().chain(self.part.packages).map(|&package| of_architecture(package)).collect();
        let arguments: Vec<&str> =
            ["download", "--print-uris"].into_iter().chain(wanted.iter().map(String::as_str)).collect();
        let uris = self.call("apt-get", &arguments, None).map_err(unknown)?;
        // 'URI' FILE BYTES CHECKSUM; no character of a file's name leads elsewhere.
        let file =
            |line: &str| line.strip_prefix('\'')?.split_whitespace().nth(1)?.strip_suffix(".deb").map(str::to_owned);
        let mut files: Vec<String> = uris.lines().filter_map(file).filter(|name| !name.contains('/')).collect();
        files.sort_by_key(|name| version(name).is_none());
        match files.len() == wanted.len() {
            true => Ok(Packages { kernel, files }),
            false => Err(unknown(format!("it names {} files for {} packages", files.len(), wanted.len()))),
        }
    }

    /// Fetches the packages, and makes the folder.
    fn fetch(&self, packages: &Packages, folder: &Path) -> Result<(), Failure> {
        let unwritable = |error: io::Error| {
            Failure::platform(format_args!("{} can't be written: {error}", self.folder.display()))
                .remedy("make room there, or set XDG_CACHE_HOME to another folder")
        };
        fs::create_dir_all(&self.folder).map_err(unwritable)?;
        let place: TempDir = tempfile::Builder::new().prefix(".new-").tempdir_in(&self.folder).map_err(unwritable)?;
        let wanted = [packages.kernel.as_str()];
        let wanted = wanted.iter().chain(self.part.packages);
        let wanted: Vec<String> = wanted.map(|package| format!("{package}:{ARCHITECTURE}")).collect();
        let arguments: Vec<&str> =
            ["download", "--quiet"].into_iter().chain(wanted.iter().map(String::as_str)).collect();
        self.call("apt-get", &arguments, Some(place.path())).map_err(|cause| {
            Failure::platform(format_args!("Debian's packages can't be fetched: {cause}")).remedy(format_args!(
                "connect this machine to the network, run `apt-get update` as root if its lists are old, and try again; or {OWN_KERNEL}"
            ))
        })?;
        let (root, kept) = (place.path().join("root"), place.path().join("kept"));
        fs::create_dir(&kept).map_err(unwritable)?;
        let damaged = |what: String| {
            Failure::platform(format_args!("Debian's packages can't be used: {what}")).remedy(OWN_KERNEL)
        };
        for file in &packages.files {
            let (package, root) = (format!("{file}.deb"), root.display().to_string());
            self.call("dpkg-deb", &["--extract", &package, &root], Some(place.path())).map_err(damaged)?;
        }
        for (name, places) in self.part.files {
            let version = version(&packages.kernel).unwrap_or_default();
            let mut found = places.iter().map(|path| root.join(path.replace(VERSION, version)));
            let found = found.find(|path| path.is_file()).ok_or_else(|| damaged(format!("none has {}", places[0])))?;
            fs::rename(found, kept.join(name)).map_err(unwritable)?;
        }
        // One that lacks files was not made here, or was damaged since.
        if folder.exists() && !self.is_whole(folder) {
            fs::remove_dir_all(folder).map_err(unwritable)?;
        }
        match fs::rename(&kept, folder) {
            // Another run was faster.
            Err(_) if self.is_whole(folder) => Ok(()),
            made => made.map_err(unwritable),
        }
    }

    /// The folder that was made last.
    fn newest(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(&self.folder).ok()?.filter_map(Result::ok);
        let whole = entries.map(|entry| entry.path()).filter(|path| self.is_whole(path));
        whole.max_by_key(|path| (fs::metadata(path).and_then(|about| about.modified()).ok(), path.clone()))
    }

    /// Whether a folder has every file.
    fn is_whole(&self, folder: &Path) -> bool {
        let is_there = |name: &str| fs::metadata(folder.join(name)).is_ok_and(|file| file.is_file() && file.len() > 0);
        self.part.files.iter().all(|(name, _)| is_there(name))
            && folder.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'))
    }

    /// Runs a program of the package manager, and returns its output, or its own words for the failure.
    fn call(&self, program: &str, arguments: &[&str], directory: Option<&Path>) -> Result<String, String> {
        let path = std::env::split_paths(self.search).map(|folder| folder.join(program)).find(|path| path.is_file());
        let mut command = Command::new(path.ok_or_else(|| format!("there is no {program}"))?);
        command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(directory) = directory {
            command.current_dir(directory);
        }
        let output = command.output().map_err(|error| format!("{program} can't be run: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
        let last = lines().find(|line| line.starts_with("E:")).or_else(|| lines().next_back());
        Err(match last {
            Some(line) => format!("{program} says `{line}`"),
            None => format!("{program} ended with {}", output.status),
        })
    }
}

/// The version behind the beginning of a kernel's package.
fn version(package: &str) -> Option<&str> {
    KERNELS.iter().find_map(|prefix| package.strip_prefix(prefix))
}

/// The kernel's package in a folder's name.
fn kernel_of(folder: &Path) -> String {
    let name = folder.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    name.split(',').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::write_script;
    use tollgate_books::failure::Status;

    /// A package manager of shell scripts. `release` is the kernel's version, and `network` the script's line that downloads.
    fn system(release: &str, network: &str) -> TempDir {
        let place = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            write_script(&place.path().join(name), &format!("#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n"));
        };
        let image = format!("linux-image-{release}");
        // From the second release on the kernel is in a package of its own.
        let of_image = if release.starts_with('1') { "linux-base" } else { KERNELS[0] };
        let binary = format!("{of_image}{release}");
        script(
            "apt-cache",
            &format!("case $3 in *cloud*) echo '  Depends: {image}';; *) echo '  Depends: {binary}';; esac"),
        );
        script(
            "apt-get",
            &format!(
                "shift\nif [ $1 = --print-uris ]; then shift; for p; do p=${{p%:amd64}}\n\
                 echo \"'http://nowhere/$p' ${{p}}_{release}_amd64.deb 7 SHA256:0\"; done; exit; fi; shift\n\
                 for p; do p=${{p%:amd64}}; {network}; done"
            ),
        );
        script(
            "dpkg-deb",
            "mkdir -p $3/boot $3/bin $3/usr/bin $3/usr/lib/x86_64-linux-gnu; case $2 in \
             linux-image*) f=${2#linux-image-}; cp $2 $3/boot/vmlinuz-${f%%_*};; \
             linux-binary*) f=${2#linux-binary-}; mkdir -p $3/usr/lib/modules/${f%%_*}; \
             cp $2 $3/usr/lib/modules/${f%%_*}/vmlinuz;; \
             busybox*) cp $2 $3/bin/busybox;; cpuid*) cp $2 $3/usr/bin/cpuid;; \
             libc6*) cd $3/usr/lib/x86_64-linux-gnu && echo l > libc.so.6 && echo l > ld-linux-x86-64.so.2;; esac",
        );
        place
    }

    fn whole(release: &str) -> String {
        format!("echo $p > ${{p}}_{release}_amd64.deb")
    }

    /// The result on such a system, and the names in the cache afterwards.
    fn on(system: &TempDir, cache: &TempDir) -> (Result<(PathBuf, String), Failure>, Vec<String>) {
        let folder = cache.path().join(GUEST.folder);
        let store = Store { folder, search: system.path().as_os_str(), part: &GUEST };
        let got = store.files();
        let entries = fs::read_dir(&store.folder).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        (got, names)
    }

    const BROKEN: &str = "echo half > $p.deb; echo \"E: Failed to fetch $p  Hash Sum mismatch\" >&2; exit 100";

    #[test]
    fn packages_are_fetched_once_and_again_when_there_are_newer_ones() {
        let cache = tempfile::tempdir().unwrap();
        let (got, names) = on(&system("1.0", &whole("1.0")), &cache);
        let (folder, said) = got.unwrap();
        assert!(said.starts_with("Debian's linux-image-1.0_1.0_amd64: fetched, "), "{said}");
        assert_eq!(fs::read_to_string(folder.join("vmlinuz")).unwrap(), "linux-image-1.0\n");
        assert_eq!(names, ["linux-image-1.0_1.0_amd64,busybox-static_1.0_amd64,cpuid_1.0_amd64,libc6_1.0_amd64"]);
        let (got, _) = on(&system("1.0", BROKEN), &cache);
        assert!(got.unwrap().1.contains(": out of the cache, "));
        let (got, names) = on(&system("2.0", &whole("2.0")), &cache);
        assert!(
            got.unwrap().1.contains("linux-binary-2.0_2.0_amd64: fetched, "),
            "a newer release has another package"
        );
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn packages_that_cannot_be_fetched_leave_nothing_behind() {
        let cache = tempfile::tempdir().unwrap();
        let (got, names) = on(&system("1.0", BROKEN), &cache);
        let failure = got.unwrap_err();
        assert_eq!((failure.status, names), (Status::Platform, Vec::<String>::new()));
        let text = failure.to_string();
        assert!(text.contains("`E: Failed to fetch linux-image-1.0  Hash Sum mismatch`"), "{text}");
        assert!(text.contains("remedy: connect this machine"), "{text}");
        // A package without its file.
        let (got, names) = on(&system("1.0", "[ $p = cpuid ] || echo $p > ${p}_1.0_amd64.deb"), &cache);
        assert!(got.unwrap_err().to_string().contains("Debian's packages can't be used: "));
        assert!(names.is_empty());
    }

    #[test]
    fn an_earlier_version_is_used_where_the_newest_cannot_be_fetched() {
        let cache = tempfile::tempdir().unwrap();
        on(&system("1.0", &whole("1.0")), &cache).0.unwrap();
        let (got, names) = on(&system("2.0", BROKEN), &cache);
        let said = got.unwrap().1;
        assert!(said.contains("Hash Sum mismatch`; an earlier linux-image-1.0_1.0_amd64 is used"), "{said}");
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn a_folder_that_lacks_a_file_is_made_again() {
        let cache = tempfile::tempdir().unwrap();
        let (folder, _) = on(&system("1.0", &whole("1.0")), &cache).0.unwrap();
        let removals: [fn(&Path); 2] = [|file| fs::remove_file(file).unwrap(), |file| fs::write(file, b"").unwrap()];
        for remove in removals {
            remove(&folder.join("cpuid"));
            assert!(on(&system("1.0", &whole("1.0")), &cache).0.unwrap().1.contains(": fetched, "));
            assert_eq!(fs::read_dir(&folder).unwrap().count(), FILES.len());
        }
    }

    #[test]
    fn another_system_is_told_so() {
        let (nothing, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let text = on(&nothing, &cache).0.unwrap_err().to_string();
        assert!(text.contains("needs a Debian system") && text.contains("--guest FILE takes a kernel"), "{text}");
        let ubuntu = system("1.0", &whole("1.0"));
        write_script(&ubuntu.path().join("apt-cache"), "#!/bin/sh\necho 'E: No packages found' >&2; exit 100\n");
        let text = on(&ubuntu, &cache).0.unwrap_err().to_string();
        assert!(text.contains("apt-cache says `E: No packages found`") && text.contains("apt-get update"), "{text}");
    }
}
