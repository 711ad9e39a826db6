//! The same sources make the same image anywhere: no image names the folders that it was built in.

use tollgate::image::{APPLICATION_ELF, GUEST_ELF, MONITOR_ELF};

fn names(image: &[u8], place: &str) -> bool {
    image.windows(place.len()).any(|bytes| bytes == place.as_bytes())
}

#[test]
fn no_image_names_the_folders_of_its_sources() {
    let package = env!("CARGO_MANIFEST_DIR");
    let workspace = package.strip_suffix("/image-builder").expect("the package's folder has this name");
    for (program, image) in [("monitor", MONITOR_ELF), ("application", APPLICATION_ELF), ("guest", GUEST_ELF)] {
        for place in [workspace, "registry/src/"] {
            assert!(!names(image, place), "the {program} names {place}: see `without_places` in build.rs");
        }
        assert!(
            names(image, "/library/core/src/"),
            "the {program} has no place of a panic: this test looks for nothing"
        );
    }
}
