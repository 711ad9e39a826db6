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
                Behind::Loopback | Behind::Serial | Behind::Clock | Behind::Power | Behind::Zero => {
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

    /// IN from the byte's port or one that surely has no device, by one field and one bit.
    #[inline(always)]
    pub fn read_plain(&self, port: u16) -> Option<u32> {
        if port == self.byte_port {
            return Some(self.byte.read());
        }
        core::hint::cold_path();
        self.is_nobodys(port).then_some(!0)
    }

    /// OUT to such a port; false for any other port.
    #[inline(always)]
    pub fn write_plain(&mut self, port: u16, value: u32) -> bool {
        if port == self.byte_port {
            self.byte.write(value);
            return true;
        }
        self.is_nobodys(port)
    }

    /// The device behind a port.
    pub fn reach(&self, port: u16) -> Reached {
        self.model.behind(port)
    }

    /// IN of `bytes` bytes from a device.
    pub fn read(&mut self, reached: Reached, bytes: u8) -> u32 {
        // Behind an eight-bit device's register nobody answers.
        let register = |byte: u8| !0xff | u32::from(byte);
        match reached {
            Some((Behind::Byte, _)) => self.byte.read(),
            Some((Behind::Loopback, _)) => self.loopback.read(bytes),
            Some((Behind::Serial, at)) => register(self.shared.serial.read(at)),
            Some((Behind::Clock, at)) => register(self.shared.clock.read(at)),
            Some((Behind::Power | Behind::Zero, _)) => register(0),
            None => !0,
        }
    }

    /// OUT of the low `bytes` bytes of `value` to a device.
    pub fn write(&mut self, reached: Reached, bytes: u8, value: u32) -> Effect {
        let register = value as u8;
        match reached {
            Some((Behind::Byte, _)) => self.byte.write(value),
            Some((Behind::Loopback, _)) => self.loopback.write(bytes, value),
            Some((Behind::Serial, at)) => return self.shared.serial.write(at, register),
            Some((Behind::Clock, at)) => self.shared.clock.write(at, register),
            Some((Behind::Power, at)) => return power::write(at, register),
            Some((Behind::Zero, _)) | None => {}
        }
        Effect::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tollgate_abi::machine::{Device, LOOPBACK_PORT, PC, POST_PORT, UNIKERNEL};

    fn new(model: &'static Model) -> Ports {
        Ports::new(model, std::boxed::Box::leak(std::boxed::Box::default()))
    }

    fn ports() -> Ports {
        new(&UNIKERNEL)
    }

    #[test]
    fn a_port_without_a_device_reads_all_ones() {
        let mut ports = ports();
        let nobodys = ports.reach(0x1234);
        ports.write(nobodys, 4, 0);
        assert_eq!((ports.read(nobodys, 4), ports.read_plain(0x1234)), (!0, Some(!0)));
    }

    #[test]
    fn the_byte_is_the_same_by_either_way() {
        let mut ports = ports();
        assert_eq!(ports.read_plain(POST_PORT), Some(!0), "after reset");
        assert!(ports.write_plain(POST_PORT, 0x1142));
        let post = ports.reach(POST_PORT);
        assert_eq!(ports.read(post, 1) & 0xff, 0x42);
        ports.write(post, 1, 0x17);
        assert_eq!(ports.read_plain(POST_PORT), Some(0xffff_ff17));
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
        for model in [&MODEL, &UNIKERNEL, &PC] {
            let mut ports = new(model);
            for port in 0..=u16::MAX {
                let (reached, plain) = (ports.reach(port), ports.read_plain(port));
                assert_eq!(plain.is_some(), ports.write_plain(port, 0xff), "{port:#x}");
                let behind = reached.map(|(behind, _)| behind);
                assert!(behind != Some(Behind::Byte) || plain.is_some(), "{port:#x}");
                assert!(matches!(behind, None | Some(Behind::Byte)) || plain.is_none(), "{port:#x}");
                assert!(plain.is_none_or(|plain| plain == !0), "{port:#x}");
            }
        }
        assert_eq!(ports().read_plain(LOOPBACK_PORT), None);
    }
}
