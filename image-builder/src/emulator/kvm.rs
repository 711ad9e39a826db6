//! Whether KVM gives a guest a virtualization extension of its own here: the processor has it, /dev/kvm opens, and the module for
//! that processor nests.

use std::fs;

use tollgate_abi::virtualization::Extension;

use tollgate_books::failure::Failure;

const ELSEWHERE: &str = "use --on bochs or --on qemu-tcg, which run on every machine";

/// The signs of an extension on Linux.
struct Signs {
    extension: Extension,
    /// The extension's flag in /proc/cpuinfo.
    flag: &'static str,
    /// KVM's module for the extension.
    module: &'static str,
}

const SIGNS: [Signs; 2] = [
    Signs { extension: Extension::VtX, flag: "vmx", module: "kvm_intel" },
    Signs { extension: Extension::Svm, flag: "svm", module: "kvm_amd" },
];

/// The facts that Linux tells about this machine.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// The text of /proc/cpuinfo.
    cpuinfo: String,
    /// The reason that /dev/kvm can't be opened, if it can't.
    device: Option<String>,
    /// The parameter `nested` of each extension's module, in the order of [`SIGNS`]; `None` if the module is not loaded.
    nested: [Option<String>; 2],
}

/// The extension that this machine's processor has.
pub fn processor() -> Option<Extension> {
    Facts::here().processor()
}

/// Checks that KVM nests `extension` here.
///
/// # Errors
/// It does not; the failure has the reason and the remedy.
pub fn nests(extension: Extension) -> Result<(), Failure> {
    Facts::here().nests(extension)
}

impl Facts {
    fn here() -> Self {
        let nested = |signs: &Signs| fs::read_to_string(format!("/sys/module/{}/parameters/nested", signs.module)).ok();
        let device = fs::File::options().read(true).write(true).open("/dev/kvm");
        Self {
            cpuinfo: fs::read_to_string("/proc/cpuinfo").unwrap_or_default(),
            device: device.err().map(|error| error.to_string()),
            nested: SIGNS.each_ref().map(nested),
        }
    }

    fn has_flag(&self, flag: &str) -> bool {
        let mut flags = self.cpuinfo.lines().filter(|line| line.starts_with("flags"));
        flags.any(|line| line.split_whitespace().any(|word| word == flag))
    }

    fn processor(&self) -> Option<Extension> {
        SIGNS.iter().find(|signs| self.has_flag(signs.flag)).map(|signs| signs.extension)
    }

    fn nests(&self, extension: Extension) -> Result<(), Failure> {
        let signs = SIGNS.iter().zip(&self.nested).find(|(signs, _)| signs.extension == extension);
        let Some((&Signs { flag, module, .. }, nested)) = signs else {
            return Err(Failure::platform(format_args!("KVM has no {extension}")).remedy(ELSEWHERE));
        };
        if self.processor().is_none() {
            let sentence = "this machine's processor offers neither VT-x nor SVM (no vmx and no svm in /proc/cpuinfo)";
            return Err(Failure::platform(sentence).remedy(ELSEWHERE));
        }
        if !self.has_flag(flag) {
            let sentence = format_args!("this machine's processor offers no {extension} (no {flag} in /proc/cpuinfo)");
            return Err(Failure::platform(sentence).remedy(ELSEWHERE));
        }
        if let Some(error) = &self.device {
            return Err(Failure::platform(format_args!("/dev/kvm can't be opened: {error}"))
                .remedy(format_args!("load the module {module} and join the group kvm; or {ELSEWHERE}")));
        }
        match nested.as_deref().map(str::trim) {
            Some("Y" | "1") => Ok(()),
            Some(_) => Err(Failure::platform(format_args!(
                "KVM does not offer nested {extension} here ({module}.nested is off)"
            ))
            .remedy(format_args!("modprobe -r {module} && modprobe {module} nested=1; or {ELSEWHERE}"))),
            None => Err(Failure::platform(format_args!(
                "KVM's module for {extension} is not loaded (no /sys/module/{module})"
            ))
            .remedy(format_args!("modprobe {module} nested=1; or {ELSEWHERE}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(flag: &str, device: Option<&str>, vtx: Option<&str>, svm: Option<&str>) -> Facts {
        Facts {
            cpuinfo: format!("model name\t: vmx svm\nflags\t\t: fpu {flag} sse\n"),
            device: device.map(str::to_owned),
            nested: [vtx, svm].map(|text| text.map(str::to_owned)),
        }
    }

    #[test]
    fn nesting_is_offered_where_all_of_it_is_there() {
        for (flag, extension, other, vtx, svm) in [
            ("vmx", Extension::VtX, Extension::Svm, Some("Y\n"), None),
            ("svm", Extension::Svm, Extension::VtX, None, Some("1\n")),
        ] {
            let facts = facts(flag, None, vtx, svm);
            assert_eq!((facts.processor(), facts.nests(extension)), (Some(extension), Ok(())));
            assert!(facts.nests(other).is_err());
        }
        assert_eq!(Facts::default().processor(), None);
    }

    #[test]
    fn what_is_missing_is_named_with_a_remedy() {
        let check = |facts: Facts, extension, sentence: &str, remedy: &str| {
            let failure = facts.nests(extension).unwrap_err().to_string();
            assert!(failure.contains(sentence) && failure.contains(&format!("remedy: {remedy}")), "{failure}");
        };
        let (vtx, svm) = (Extension::VtX, Extension::Svm);
        for extension in [vtx, svm] {
            check(facts("mmx", None, None, None), extension, "offers neither VT-x nor SVM", "use --on bochs");
        }
        check(facts("svm", None, None, Some("1")), vtx, "offers no VT-x (no vmx in /proc/cpuinfo)", "use --on bochs");
        check(facts("vmx", None, Some("Y"), None), svm, "offers no SVM (no svm in", "use --on bochs");
        let denied = Some("Permission denied (os error 13)");
        check(facts("svm", denied, None, Some("1")), svm, "Permission denied", "load the module kvm_amd and join");
        let off = "nested VT-x here (kvm_intel.nested is off)";
        check(facts("vmx", None, Some("N\n"), None), vtx, off, "modprobe -r kvm_intel && modprobe kvm_intel nested=1");
        check(facts("svm", None, None, Some("0\n")), svm, "(kvm_amd.nested is off)", "modprobe -r kvm_amd");
        check(facts("svm", None, Some("1"), None), svm, "no /sys/module/kvm_amd", "modprobe kvm_amd nested=1");
    }
}
