//! Links the application by its own script, position-independent and without an operating system's start files.

fn main() {
    println!("cargo:rerun-if-changed=efi.ld");
    // Without `--cfg bare` this is a host program, which is only checked.
    if std::env::var_os("CARGO_CFG_BARE").is_none() {
        return;
    }
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let script = format!("-Wl,-T,{directory}/efi.ld");
    // `-z text`: what would need another relocation than the base address is an error.
    for argument in [
        "-nostartfiles",
        "-nostdlib",
        "-static-pie",
        &script,
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,text",
        "-Wl,-z,max-page-size=4096",
        "-Wl,--no-eh-frame-hdr",
        "-Wl,-e,efi_main",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
