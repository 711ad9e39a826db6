//! The virtual machine: memory and one vCPU of KVM's, and around it the ports and the IOAPIC of Tollgate's machine `pc`. An interrupt
//! of the IOAPIC goes to KVM's local APIC as a message. KVM tells of its EOI if a route of the same message says that it is
//! level-triggered.
#![expect(unsafe_code, reason = "gives KVM the guest's memory")]

use std::fmt;
use std::fs;
use std::path::Path;

use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MAX_CPUID_ENTRIES, KvmIrqRouting, Msrs, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_msi, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use tollgate_abi::apic::{APIC_BASE, ASSERT, BOOT_PROCESSOR, DELIVERY_MASK, LEVEL, LOGICAL};
use tollgate_abi::machine::pc::IO_APIC_INPUTS;
use tollgate_abi::machine::{BehindPage, PC};
use tollgate_abi::x86::control::{CR0_ET, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_INTEL};
use tollgate_abi::x86::msr::APIC_AT_RESET;
use tollgate_abi::x86::segment::{CODE_64, CODE_SELECTOR, DATA, DATA_SELECTOR, FLAT_LIMIT};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};
use vmm_core::devices::io_apic::IoApic;
use vmm_core::devices::ports::Ports;
use vmm_core::devices::{Effect, SharedDevices};

use crate::cpuid;
use crate::entry::Entry;

/// Three pages that KVM wants for itself on processors without unrestricted guest, below the local APIC.
const TSS_GPA: usize = 0xfffb_d000;
/// The address and data of a message that is an interrupt (SDM 3A 12.11).
const MESSAGE_ADDRESS: u32 = APIC_AT_RESET as u32;
const MESSAGE_DESTINATION_SHIFT: u32 = 12;
const MESSAGE_LOGICAL: u32 = 1 << 2;
/// RFLAGS with nothing set but the bit that always is.
const RFLAGS: u64 = 2;
/// Linux' number for an error: no memory.
const ENOMEM: i32 = 12;
/// Linux' numbers for mappings: readable and writable; shared, anonymous, without a reserve.
const READ_WRITE: i32 = 1 | 2;
const SHARED_ANONYMOUS: i32 = 0x01 | 0x20 | 0x4000;

/// The virtual machine.
pub(crate) struct Machine {
    vcpu: VcpuFd,
    ports: Ports,
    shared: &'static SharedDevices,
    console: Vec<u8>,
    /// The command of the level-triggered interrupt that KVM has a route for.
    routed: Option<u64>,
    vm: VmFd,
    _memory: GuestMemoryMmap,
}

/// The end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    PoweredOff,
    Reset,
    TripleFault,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PoweredOff => tollgate_abi::peer::POWERED_OFF,
            Self::Reset => "the guest reset the machine",
            Self::TripleFault => "the guest ended in a triple fault",
        })
    }
}

impl Machine {
    /// The machine with the pieces of its memory out of a folder.
    pub(crate) fn new(entry: &Entry, folder: &Path) -> Result<Self, String> {
        let kvm = Kvm::new().map_err(|error| format!("/dev/kvm can't be opened: {error}"))?;
        let vm = kvm.create_vm().map_err(|error| format!("KVM makes no machine: {error}"))?;
        let refused = |what: &'static str| move |error: kvm_ioctls::Error| format!("KVM refuses {what}: {error}");
        vm.set_tss_address(TSS_GPA).map_err(refused("the place of a TSS"))?;
        let local_apic_alone =
            kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [IO_APIC_INPUTS.into(), 0, 0, 0], ..Default::default() };
        vm.enable_cap(&local_apic_alone).map_err(refused("a local APIC without an IOAPIC"))?;
        let memory = memory(entry.memory_mib << 20, folder)?;
        for (slot, region) in memory.iter().enumerate() {
            let userspace_addr = memory.get_host_address(region.start_addr()).map_err(|error| error.to_string())?;
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: userspace_addr as u64,
            };
            // SAFETY: the range is a mapping of its own, made by `memory`, which no reference points into; it lives as long as
            // the machine, in the same structure.
            unsafe { vm.set_user_memory_region(region) }.map_err(refused("the memory"))?;
        }
        let vcpu = vm.create_vcpu(0).map_err(refused("a vCPU"))?;
        let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("its table of CPUID"))?;
        let leaves = CpuId::from_entries(&cpuid::entries(supported.as_slice(), &PC)).map_err(|_| "too many leaves")?;
        vcpu.set_cpuid2(&leaves).map_err(refused("the leaves of CPUID"))?;
        set_msrs(&vcpu)?;
        set_registers(&vcpu, entry).map_err(refused("the entry state"))?;
        let shared: &'static SharedDevices = Box::leak(Box::default());
        Ok(Self {
            vcpu,
            ports: Ports::new(&PC, shared),
            shared,
            console: Vec::new(),
            routed: None,
            vm,
            _memory: memory,
        })
    }

    /// Runs the guest to its end.
    pub(crate) fn run(&mut self) -> Result<Ended, String> {
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, data)) => match write(&mut self.ports, port, data) {
                    Effect::PowerOff => return Ok(Ended::PoweredOff),
                    Effect::Reset => return Ok(Ended::Reset),
                    Effect::Print => drop(self.shared.serial.take(|byte| self.console.push(byte))),
                    // Nobody waits for a text here; lines are looked at below.
                    Effect::Look | Effect::Rise | Effect::DebugExit | Effect::None => {}
                },
                Ok(VcpuExit::IoIn(port, data)) => read(&mut self.ports, port, data),
                Ok(VcpuExit::MmioRead(gpa, data)) => read_page(&self.shared.io_apic, gpa, data),
                Ok(VcpuExit::MmioWrite(gpa, data)) => write_page(&self.shared.io_apic, gpa, data),
                Ok(VcpuExit::IoapicEoi(vector)) => self.shared.io_apic.end_of_interrupt(vector),
                Ok(VcpuExit::Intr | VcpuExit::Hlt) => {}
                Ok(VcpuExit::Shutdown) => return Ok(Ended::TripleFault),
                Ok(other) => return Err(format!("KVM left the guest: {other:?}")),
                Err(error) if is_interruption(error) => {}
                Err(error) => return Err(format!("KVM can't run the guest: {error}")),
            }
            while let Some(command) = self.shared.next_interrupt() {
                self.interrupt(command).map_err(|error| format!("KVM refuses a device's interrupt: {error}"))?;
            }
        }
    }

    /// Sends the interrupt of a command of the IOAPIC's.
    fn interrupt(&mut self, command: u64) -> Result<(), kvm_ioctls::Error> {
        let (address_lo, data) = message(command);
        if command & LEVEL != 0 && self.routed.replace(command) != Some(command) {
            let msi = kvm_irq_routing_msi { address_lo, data, ..Default::default() };
            let u = kvm_irq_routing_entry__bindgen_ty_1 { msi };
            let route = kvm_irq_routing_entry { gsi: 0, type_: KVM_IRQ_ROUTING_MSI, u, ..Default::default() };
            let routes = KvmIrqRouting::from_entries(&[route]).map_err(|_| kvm_ioctls::Error::new(ENOMEM))?;
            self.vm.set_gsi_routing(&routes)?;
        }
        self.vm.signal_msi(kvm_msi { address_lo, data, ..Default::default() }).map(drop)
    }

    /// The guest's text.
    pub(crate) fn console(&mut self) -> Vec<u8> {
        self.shared.serial.take(|byte| self.console.push(byte));
        std::mem::take(&mut self.console)
    }
}

fn is_interruption(error: kvm_ioctls::Error) -> bool {
    let kind = std::io::Error::from_raw_os_error(error.errno()).kind();
    matches!(kind, std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock)
}

/// Memory in pages of 4 KiB, as a mapping that is shared: KVM gives the guest each page on its first touch.
fn memory(bytes: u64, folder: &Path) -> Result<GuestMemoryMmap, String> {
    let no_memory = |error: &dyn fmt::Display| format!("there is no memory for the guest: {error}");
    let mapping = MmapRegionBuilder::new(bytes as usize).with_mmap_prot(READ_WRITE).with_mmap_flags(SHARED_ANONYMOUS);
    let mapping = mapping.build().map_err(|error| no_memory(&error))?;
    let region = GuestRegionMmap::new(mapping, GuestAddress(0)).ok_or("the guest's memory is too large")?;
    let memory = GuestMemoryMmap::from_regions(vec![region]).map_err(|error| no_memory(&error))?;
    let unreadable = |error: std::io::Error| format!("{}: {error}", folder.display());
    for file in fs::read_dir(folder).map_err(unreadable)? {
        let path = file.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gpa = u64::from_str_radix(&name, 16).map_err(|_| format!("the file `{name}` has no address for a name"))?;
        let piece = fs::read(&path).map_err(unreadable)?;
        memory.write_slice(&piece, GuestAddress(gpa)).map_err(|error| format!("the piece {name}: {error}"))?;
    }
    Ok(memory)
}

/// The MSRs of the machine's row that KVM knows: fast strings above all, without which Linux' memory moves go wrong.
fn set_msrs(vcpu: &VcpuFd) -> Result<(), String> {
    for constant in PC.msrs.iter().filter(|constant| constant.value != 0) {
        let entry = kvm_msr_entry { index: constant.msr, data: constant.value, ..Default::default() };
        let list = Msrs::from_entries(&[entry]).map_err(|_| "too many MSRs")?;
        if !matches!(vcpu.set_msrs(&list), Ok(1)) {
            return Err(format!("KVM refuses the value of MSR {:#x}", constant.msr));
        }
    }
    Ok(())
}

/// The state at the first instruction, as Tollgate's monitor makes it.
fn set_registers(vcpu: &VcpuFd, entry: &Entry) -> Result<(), kvm_ioctls::Error> {
    let mut special = vcpu.get_sregs()?;
    let segment = |selector: u16, rights: u64| kvm_segment {
        base: 0,
        limit: FLAT_LIMIT,
        selector,
        type_: (rights & 0xf) as u8,
        s: (rights >> 4 & 1) as u8,
        dpl: (rights >> 5 & 3) as u8,
        present: (rights >> 7 & 1) as u8,
        avl: (rights >> 12 & 1) as u8,
        l: (rights >> 13 & 1) as u8,
        db: (rights >> 14 & 1) as u8,
        g: (rights >> 15 & 1) as u8,
        ..Default::default()
    };
    special.cs = segment(CODE_SELECTOR, CODE_64);
    let data = segment(DATA_SELECTOR, DATA);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    (special.gdt.limit, special.idt.limit) = (0, 0);
    special.cr0 = CR0_PG | CR0_WP | CR0_NE | CR0_ET | CR0_PE;
    (special.cr3, special.cr4, special.efer) = (entry.cr3, CR4_PAE, EFER_INTEL);
    special.apic_base = APIC_BASE | BOOT_PROCESSOR;
    vcpu.set_sregs(&special)?;
    let Entry { rip, rsp, rsi, .. } = *entry;
    vcpu.set_regs(&kvm_regs { rip, rsp, rsi, rflags: RFLAGS, ..Default::default() })
}

/// The address and the data of the message for a command of the IOAPIC's.
fn message(command: u64) -> (u32, u32) {
    let destination = (command >> 56) as u32;
    let logical = if command & LOGICAL != 0 { MESSAGE_LOGICAL } else { 0 };
    let assert = if command & LEVEL != 0 { ASSERT } else { 0 };
    let data = command & (0xff | DELIVERY_MASK | LEVEL) | assert;
    (MESSAGE_ADDRESS | destination << MESSAGE_DESTINATION_SHIFT | logical, data as u32)
}

/// A read of memory that is none: the IOAPIC's page, or nobody's.
fn read_page(io_apic: &IoApic, gpa: u64, data: &mut [u8]) {
    let value = match PC.behind_page(gpa) {
        Some((BehindPage::IoApic, offset)) => io_apic.read(offset),
        _ => u32::MAX,
    };
    data.fill(!0);
    data.iter_mut().zip(value.to_le_bytes()).for_each(|(into, byte)| *into = byte);
}

fn write_page(io_apic: &IoApic, gpa: u64, data: &[u8]) {
    if let (Some((BehindPage::IoApic, offset)), Ok(value)) = (PC.behind_page(gpa), data.try_into()) {
        // The lines are looked at whatever has been written.
        io_apic.write(offset, u32::from_le_bytes(value));
    }
}

/// The time for devices: none of this machine asks for it.
const NO_TIME: fn() -> u64 = || 0;

/// IN: the register that a port leads to, in as many bytes.
fn read(ports: &mut Ports, port: u16, data: &mut [u8]) {
    let value = ports.read(ports.reach(port), data.len() as u8, NO_TIME);
    data.iter_mut().zip(value.to_le_bytes()).for_each(|(into, byte)| *into = byte);
}

/// OUT: the effect of the bytes.
fn write(ports: &mut Ports, port: u16, data: &[u8]) -> Effect {
    let mut bytes = [0; 4];
    bytes.iter_mut().zip(data).for_each(|(into, byte)| *into = *byte);
    let value = u32::from_le_bytes(bytes);
    ports.write(ports.reach(port), data.len() as u8, value, NO_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::machine::pc::{CLOCK_PORT, IO_APIC_GPA, SERIAL_INPUT, SERIAL_PORT, SLEEP_CONTROL_PORT};
    use tollgate_abi::peer::MARK_PORT;

    #[test]
    fn ports_are_those_of_tollgates_machine() {
        let shared: &'static SharedDevices = Box::leak(Box::default());
        let mut ports = Ports::new(&PC, shared);
        let mut byte = |port| {
            let mut data = [0];
            read(&mut ports, port, &mut data);
            data[0]
        };
        assert_eq!((byte(SERIAL_PORT + 5), byte(0xcf8)), (0x60, 0xff));
        assert_eq!((PC.behind(MARK_PORT), byte(MARK_PORT)), (None, 0xff), "the mark's port is nobody's");
        write(&mut ports, CLOCK_PORT, &[9]);
        let mut year = [0];
        read(&mut ports, CLOCK_PORT + 1, &mut year);
        assert_eq!(year, [0x26]);
        assert_eq!(write(&mut ports, SERIAL_PORT, b"a"), Effect::None);
        assert_eq!(write(&mut ports, SERIAL_PORT, b"\n"), Effect::Print);
        assert_eq!(write(&mut ports, SLEEP_CONTROL_PORT, &[5 << 2 | 1 << 5]), Effect::PowerOff);
    }

    #[test]
    fn the_serial_ports_interrupt_is_a_message() {
        let shared: &'static SharedDevices = Box::leak(Box::default());
        let mut ports = Ports::new(&PC, shared);
        let entry = 0x10 + 2 * SERIAL_INPUT as u32;
        for (register, value) in [(entry, LEVEL as u32 | 0x31), (entry + 1, 2 << 24)] {
            write_page(&shared.io_apic, IO_APIC_GPA, &register.to_le_bytes());
            write_page(&shared.io_apic, IO_APIC_GPA + 0x10, &value.to_le_bytes());
        }
        let mut data = [0; 8];
        read_page(&shared.io_apic, IO_APIC_GPA, &mut data);
        assert_eq!(data, [entry as u8 + 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        read_page(&shared.io_apic, IO_APIC_GPA + 0x1000, &mut data);
        assert_eq!((data, shared.next_interrupt()), ([0xff; 8], None));
        write(&mut ports, SERIAL_PORT + 4, &[8]);
        assert_eq!(write(&mut ports, SERIAL_PORT + 1, &[2]), Effect::Rise);
        let command = shared.next_interrupt().expect("the transmitter is empty");
        assert_eq!((message(command), shared.next_interrupt()), ((0xfee0_2000, 0xc031), None));
        assert_eq!(message(LOGICAL | 1 << 56 | 0x41), (0xfee0_1004, 0x41));
    }
}
