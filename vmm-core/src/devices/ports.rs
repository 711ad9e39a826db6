//! The devices behind ports of one vCPU, by the machine's row. A port without a device reads all ones and ignores writes, as on a
//! bus without an answer.

use tollgate_abi::machine::{Behind, Model};

use super::byte::Byte;
use super::loopback::Loopback;
use super::{Effect, SharedDevices, power};

/// The devices behind ports: a vCPU's own, and those that all share.
#[derive(Clone, Debug)]
pub struct Ports {
    model: &'static Model,
    /// The port of the device that is a byte.
    byte_port: u16,
    byte: Byte,
    /// Bit n is set if a port of another device has n in its lowest six bits: a port whose bit is clear is the byte's or has no
    /// device.
    asks_device: u64,
    loopback: Loopback,
    shared: &'static SharedDevices,
}

/// The device that an access reaches, and the port's place among the device's; `None` for a port without a device.
pub type Reached = Option<(Behind, u16)>;

impl Ports {
    /// The devices of a machine, as they are after reset.
    pub fn new(model: &'static Model, shared: &'static SharedDevices) -> Self {
        let (byte, loopback) = (Byte::default(), Loopback::default());
        let mut ports = Self { model, byte_port: 0, byte, asks_device: 0, loopback, shared };
        for device in model.devices {
            match device.behind {
                Behind::Byte => ports.byte_port = device.first_port,
                _ => {
                    (0..device.ports).for_each(|at| ports.asks_device |= 1 << (device.first_port.wrapping_add(at) & 63))
                }
            }
        }
        ports
    }

    /// Whether a port, which is not the byte's, surely has no device.
    #[inline(always)]
    fn is_nobodys(&self, port: u16) -> bool {
        self.asks_device >> (port & 63) & 1 == 0
    }

    /// The byte, if the port is its; `Some(None)` for a port that surely has no device, by one field and one bit; `None` for any
    /// other.
    #[inline(always)]
    pub fn plain(&mut self, port: u16) -> Option<Option<&mut Byte>> {
        if port == self.byte_port {
            return Some(Some(&mut self.byte));
        }
        core::hint::cold_path();
        self.is_nobodys(port).then_some(None)
    }

    /// The device behind a port.
    pub fn reach(&self, port: u16) -> Reached {
        self.model.behind(port)
    }

    /// IN of `bytes` bytes from a device, which may ask for the time.
    pub fn read(&mut self, reached: Reached, bytes: u8, now: impl FnOnce() -> u64) -> u32 {
        // Behind an eight-bit device's register nobody answers.
        let register = |byte: u8| !0xff | u32::from(byte);
        match reached {
            Some((Behind::Byte, _)) => self.byte.read(),
            Some((Behind::Loopback, _)) => self.loopback.read(bytes),
            Some((Behind::Serial, at)) => register(self.shared.serial.read(at)),
            Some((Behind::Clock, at)) => register(self.shared.clock.read(at)),
            Some((Behind::Power | Behind::Zero, _)) => register(0),
            Some((behind, at)) => self.shared.isa_bus.read(behind, at, now()),
            None => !0,
        }
    }

    /// OUT of the low `bytes` bytes of `value` to a device, which may ask for the time.
    pub fn write(&mut self, reached: Reached, bytes: u8, value: u32, now: impl FnOnce() -> u64) -> Effect {
        let register = value as u8;
        match reached {
            Some((Behind::Byte, _)) => self.byte.write(value),
            Some((Behind::Loopback, _)) => self.loopback.write(bytes, value),
            Some((Behind::Serial, at)) => return self.shared.serial.write(at, register),
            Some((Behind::Clock, at)) => self.shared.clock.write(at, register),
            Some((Behind::Power, at)) => return power::write(at, register),
            Some((Behind::Zero, _)) | None => {}
            Some((behind, at)) => return self.shared.isa_bus.write(behind, at, bytes, value, now()),
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::machine::{Device, LEGACY_PC, LOOPBACK_PORT, PC, POST_PORT, UNIKERNEL};

    fn new(model: &'static Model) -> Ports {
        Ports::new(model, std::boxed::Box::leak(std::boxed::Box::default()))
    }

    /// The time for devices that don't ask for it.
    fn never() -> u64 {
        unreachable!("a device without a clock asks for the time")
    }

    fn ports() -> Ports {
        new(&UNIKERNEL)
    }

    #[test]
    fn a_port_without_a_device_reads_all_ones() {
        let mut ports = ports();
        let nobodys = ports.reach(0x1234);
        ports.write(nobodys, 4, 0, never);
        assert_eq!(ports.read(nobodys, 4, never), !0);
        assert!(matches!(ports.plain(0x1234), Some(None)));
    }

    #[test]
    fn the_byte_is_the_same_by_either_way() {
        let mut ports = ports();
        let byte = |ports: &mut Ports| *ports.plain(POST_PORT).unwrap().unwrap();
        assert_eq!(byte(&mut ports).read(), !0, "after reset");
        ports.plain(POST_PORT).unwrap().unwrap().write(0x1142);
        let post = ports.reach(POST_PORT);
        assert_eq!(ports.read(post, 1, never) & 0xff, 0x42);
        ports.write(post, 1, 0x17, never);
        assert_eq!(byte(&mut ports).read(), 0xffff_ff17);
    }

    #[test]
    fn no_port_of_a_device_is_plain() {
        const MODEL: Model = Model {
            devices: &[
                Device { behind: Behind::Loopback, first_port: 0xfff9, ports: 7 },
                Device { behind: Behind::Byte, first_port: 0x3f, ports: 1 },
                Device { behind: Behind::Loopback, first_port: 0x20, ports: 2 },
            ],
            ..UNIKERNEL
        };
        for model in [&MODEL, &UNIKERNEL, &PC, &LEGACY_PC] {
            let mut ports = new(model);
            for port in 0..=u16::MAX {
                let behind = ports.reach(port).map(|(behind, _)| behind);
                match ports.plain(port) {
                    Some(Some(_)) => assert_eq!(behind, Some(Behind::Byte), "{port:#x}"),
                    Some(None) => assert_eq!(behind, None, "{port:#x}"),
                    None => assert_ne!(behind, Some(Behind::Byte), "{port:#x}"),
                }
            }
        }
        assert!(ports().plain(LOOPBACK_PORT).is_none());
    }
}
