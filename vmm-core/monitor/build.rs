//! Links the monitor by its own script, without an operating system's start files.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rerun-if-changed=link.ld");
    let script = format!("-Wl,-T,{directory}/link.ld");
    for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", &script, "-Wl,--build-id=none", "-Wl,-z,norelro"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
