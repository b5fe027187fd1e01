//! A cheap source of frames: a fixed window of buffers, each restored from a template and stamped
//! with the next client of a shuffled schedule that visits every flow once a round.

use std::hint::black_box;
use std::net::Ipv4Addr;

use gyre::frame::Frame;
use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::MacAddr;

/// Buffers in the window: small enough to stay in cache, as a port's ring does.
const WINDOW: usize = 1024;
/// Room before a frame.
pub const HEADROOM: usize = 128;
/// One buffer.
const BUFFER: usize = 256;
/// The smallest Ethernet frame, without FCS.
const FRAME: usize = 60;
/// Frames a burst.
pub const BURST: usize = 32;
/// Where the client's address and the IP checksum lie in a frame.
const SRC: std::ops::Range<usize> = 26..30;

/// The client side's MAC address, and the director's.
pub const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0xfe]);
/// The director's port.
pub const DIRECTOR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
/// The service.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// See the module.
pub struct Source {
    buffers: Vec<[u8; BUFFER]>,
    template: [u8; FRAME],
    checksum: u16,
    clients: Vec<u32>,
    next_client: usize,
    next_buffer: usize,
}

impl Source {
    /// A source of `flows` clients in a fixed random order.
    pub fn new(flows: usize) -> Self {
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        let mut clients: Vec<u32> = (0..flows as u32).map(|n| base.wrapping_add(n)).collect();
        // Fisher and Yates with a small generator: the order matters, its quality hardly.
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        for at in (1..clients.len()).rev() {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            clients.swap(at, (seed % (at as u64 + 1)) as usize);
        }
        let frame = PacketBuilder::new()
            .ethernet(CLIENT_MAC, DIRECTOR_MAC)
            .ipv4(Ipv4Addr::UNSPECIFIED, VIP)
            .udp(4000, 80)
            .no_checksum()
            .payload(&[0; FRAME - 42])
            .build();
        let mut template = [0; FRAME];
        template.copy_from_slice(&frame);
        Source {
            buffers: vec![[0; BUFFER]; WINDOW],
            checksum: u16::from_be_bytes([template[24], template[25]]),
            template,
            clients,
            next_client: 0,
            next_buffer: 0,
        }
    }

    /// Flows in the schedule.
    pub fn flows(&self) -> usize {
        self.clients.len()
    }

    /// The next burst's buffers, restored and stamped.
    #[inline]
    pub fn burst(&mut self) -> &mut [[u8; BUFFER]] {
        let start = self.next_buffer;
        self.next_buffer = (start + BURST) % WINDOW;
        let buffers = &mut self.buffers[start..start + BURST];
        for buffer in buffers.iter_mut() {
            let client = self.clients[self.next_client];
            self.next_client += 1;
            if self.next_client == self.clients.len() {
                self.next_client = 0;
            }
            let frame = &mut buffer[HEADROOM..HEADROOM + FRAME];
            frame.copy_from_slice(&self.template);
            frame[SRC].copy_from_slice(&client.to_be_bytes());
            // The template was summed with a source of zero (RFC 1624).
            let sum = u32::from(!self.checksum) + (client >> 16) + (client & 0xffff);
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        buffers
    }

    /// The least that can be done to a frame: MAC addresses change places.
    pub fn macswap(&mut self, frames: usize) -> usize {
        let mut done = 0;
        while done < frames {
            for buffer in self.burst() {
                let mut frame = frame_of(buffer);
                let bytes = frame.bytes_mut();
                let (dst, rest) = bytes.split_at_mut(6);
                dst.swap_with_slice(&mut rest[..6]);
                black_box(&bytes);
                done += 1;
            }
        }
        done
    }
}

/// The frame in a buffer.
#[inline]
pub fn frame_of(buffer: &mut [u8; BUFFER]) -> Frame<'_> {
    Frame::new(buffer, HEADROOM, HEADROOM + FRAME)
}
