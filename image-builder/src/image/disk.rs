//! A disk image with a GUID partition table and one EFI system partition, FAT32 (UEFI 2.10, 5.3 and 13.3).
//!
//! The same files make the same bytes: identifiers and times are fixed.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::{GptConfig, partition_types};

const SECTOR_BYTES: usize = 512;
/// The first sector of the partition: 1 MiB, a multiple of every block that a medium may have.
const FIRST_SECTOR: usize = 2048;
/// The least size of the partition. FAT32 has at least 65525 clusters (Microsoft's specification), of a sector each: 32 MiB.
const LEAST_MIB: usize = 40;
/// Room beside the files, for logs and the tables of the file system.
const FREE_MIB: usize = 36;
const SECTORS_OF_A_MIB: usize = (1 << 20) / SECTOR_BYTES;
/// The most bytes of files on an image: it is made in memory.
const MOST_BYTES: usize = 3 << 30;

const DISK_GUID: u128 = 0x546f_6c6c_6761_7465_8000_0000_0000_0001;
const PARTITION_GUID: u128 = 0x546f_6c6c_6761_7465_8000_0000_0000_0002;
const VOLUME_ID: u32 = 0x546f_6c6c;
const VOLUME_LABEL: [u8; 11] = *b"TOLLGATE   ";

/// The most bytes of a file that are read back.
const MOST_FILE_BYTES: u64 = MOST_BYTES as u64;

/// A file on the partition: its path, with backslashes as UEFI has them, and its bytes.
pub type Entry<'a> = (&'a str, &'a [u8]);

/// Makes a disk image that holds these files, with room for logs.
///
/// # Errors
/// They are too large.
pub fn build(files: &[Entry<'_>]) -> io::Result<Vec<u8>> {
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len().next_multiple_of(SECTOR_BYTES)).sum();
    if bytes > MOST_BYTES {
        return Err(io::Error::other(format!("the files have {bytes} bytes, and it takes {MOST_BYTES} at most")));
    }
    // The tables have four bytes for each cluster, twice.
    let mib = (bytes + bytes / (SECTOR_BYTES / 8)).div_ceil(1 << 20) + FREE_MIB;
    build_of(mib.max(LEAST_MIB), files)
}

/// Makes a disk image whose partition has so many MiB.
///
/// # Errors
/// The files do not fit.
pub fn build_of(partition_mib: usize, files: &[Entry<'_>]) -> io::Result<Vec<u8>> {
    let sectors = partition_mib * SECTORS_OF_A_MIB;
    // As many behind the partition as before it, for the second table.
    let mut disk = vec![0; (sectors + 2 * FIRST_SECTOR) * SECTOR_BYTES];
    let start = FIRST_SECTOR * SECTOR_BYTES;
    format(&mut disk[start..start + sectors * SECTOR_BYTES], files)?;
    partition(Cursor::new(&mut disk[..]), sectors)?;
    Ok(disk)
}

fn format(volume: &mut [u8], files: &[Entry<'_>]) -> io::Result<()> {
    let options = FormatVolumeOptions::new().fat_type(FatType::Fat32).bytes_per_cluster(SECTOR_BYTES as u32);
    let options = options.volume_id(VOLUME_ID).volume_label(VOLUME_LABEL);
    fatfs::format_volume(Cursor::new(&mut *volume), options)?;
    let system = FileSystem::new(Cursor::new(volume), FsOptions::new())?;
    for (path, bytes) in files {
        let mut directory = system.root_dir();
        let mut names = path.split('\\').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_some() {
                directory = directory.create_dir(name)?;
            } else {
                let mut file = directory.create_file(name)?;
                file.write_all(bytes)?;
                file.flush()?;
            }
        }
    }
    system.unmount()
}

fn partition(mut disk: Cursor<&mut [u8]>, sectors: usize) -> io::Result<()> {
    let fail = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let protective = ProtectiveMBR::with_lb_size((sectors + 2 * FIRST_SECTOR) as u32 - 1);
    protective.overwrite_lba0(&mut disk).map_err(|error| fail(&error))?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut table =
        config.create_from_device(disk, Some(uuid::Uuid::from_u128(DISK_GUID))).map_err(|error| fail(&error))?;
    let partition = Partition {
        part_type_guid: partition_types::EFI,
        part_guid: uuid::Uuid::from_u128(PARTITION_GUID),
        first_lba: FIRST_SECTOR as u64,
        last_lba: (FIRST_SECTOR + sectors) as u64 - 1,
        flags: 0,
        name: "Tollgate".to_owned(),
    };
    table.update_partitions(BTreeMap::from([(1, partition)])).map_err(|error| fail(&error))?;
    table.write().map(drop).map_err(|error| fail(&error))
}

/// Reads a file from the first EFI system partition of a disk image, in which the file system may note that it was opened.
///
/// # Errors
/// There is no such partition or file, or the image is damaged.
pub fn read(disk: &mut [u8], path: &str) -> io::Result<Vec<u8>> {
    let system = FileSystem::new(Cursor::new(volume(disk)?), FsOptions::new())?;
    let mut bytes = Vec::new();
    let mut file = system.root_dir().open_file(&path.replace('\\', "/"))?.take(MOST_FILE_BYTES);
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn volume(disk: &mut [u8]) -> io::Result<&mut [u8]> {
    let config = GptConfig::new().writable(false).logical_block_size(LogicalBlockSize::Lb512);
    let table =
        config.open_from_device(Cursor::new(&mut *disk)).map_err(|error| io::Error::other(error.to_string()))?;
    let partition = table.partitions().values().find(|partition| partition.part_type_guid == partition_types::EFI);
    let bytes = |sectors: u64| usize::try_from(sectors).ok()?.checked_mul(SECTOR_BYTES);
    let range =
        partition.and_then(|partition| Some(bytes(partition.first_lba)?..bytes(partition.last_lba.checked_add(1)?)?));
    range.and_then(|range| disk.get_mut(range)).ok_or_else(|| io::Error::other("it has no EFI system partition"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_as_they_were_written_and_the_bytes_repeat() {
        let large = vec![0x5a; 3 << 20];
        let files: [Entry<'_>; 3] = [("EFI\\BOOT\\A.EFI", &large), ("TOLLGATE\\B.TXT", b"words"), ("EFI\\C", b"")];
        let mut disk = build(&files).unwrap();
        assert!(disk == build(&files).unwrap(), "two images differ");
        for (path, bytes) in files {
            assert_eq!(read(&mut disk, path).unwrap(), bytes, "{path}");
        }
        assert!(read(&mut disk, "TOLLGATE\\ABSENT.TXT").is_err());
    }

    #[test]
    fn both_tables_and_the_protective_record_are_there() {
        let mut disk = build(&[]).unwrap();
        let table = GptConfig::new().open_from_device(Cursor::new(&mut disk[..])).unwrap();
        assert!(table.primary_header().is_ok() && table.backup_header().is_ok());
        let partition = &table.partitions()[&1];
        assert_eq!((partition.first_lba, partition.part_type_guid.guid), (2048, partition_types::EFI.guid));
        drop(table);
        assert_eq!((disk[450], &disk[510..512]), (0xee, &[0x55, 0xaa][..]));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(build_of(LEAST_MIB, &[("LARGE", &vec![1; 41 << 20])]).is_err());
    }

    #[test]
    fn the_partition_grows_with_its_files_and_logs_have_room() {
        let large: Vec<u8> = (0..20u32 << 20).map(|at| (at >> 9) as u8).collect();
        let mut disk = build(&[("LARGE", &large)]).unwrap();
        assert_eq!(disk.len(), (LEAST_MIB + 17 + 2) << 20);
        assert!(read(&mut disk, "LARGE").unwrap() == large);
        let system = FileSystem::new(Cursor::new(volume(&mut disk).unwrap()), FsOptions::new()).unwrap();
        assert!(system.stats().unwrap().free_clusters() as usize * SECTOR_BYTES > 32 << 20);
        assert_eq!(build(&[("SMALL", b"s")]).unwrap().len(), (LEAST_MIB + 2) << 20);
    }

    #[test]
    fn damaged_images_are_errors() {
        let mut disk = build(&[("A", b"a")]).unwrap();
        let half = disk.len() / 2;
        assert!(read(&mut [], "A").is_err());
        assert!(read(&mut disk[..half], "A").is_err());
        assert!(read(&mut vec![0; 1 << 20], "A").is_err());
    }
}
