//! Captures in and out: pcap and pcapng are read, pcap is written with nanoseconds.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};

use super::ReplayError;
use crate::time::{NANOS_PER_SECOND, Nanos};

/// First bytes of a pcapng section.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Resolution of an interface that names none: microseconds.
const MICROSECONDS: u8 = 6;

/// One captured frame.
pub(super) struct Captured {
    pub(super) at: Nanos,
    pub(super) bytes: Vec<u8>,
    /// The capture kept less of it than there was.
    pub(super) is_cut: bool,
}

enum Reader {
    Pcap(PcapReader<BufReader<File>>, TsResolution),
    PcapNg(PcapNgReader<BufReader<File>>),
}

/// A capture file, frame by frame in file order.
pub(super) struct CaptureIn {
    path: PathBuf,
    reader: Reader,
}

impl CaptureIn {
    /// Opens a file and looks which format it has.
    pub(super) fn open(path: &Path) -> Result<Self, ReplayError> {
        let mut file =
            File::open(path).map_err(|source| ReplayError::Open { path: path.into(), source })?;
        let mut magic = [0; 4];
        let unreadable = |what: &str| ReplayError::Capture { path: path.into(), what: what.into() };
        file.read_exact(&mut magic).map_err(|_| unreadable("shorter than any capture"))?;
        file.seek(SeekFrom::Start(0))
            .map_err(|source| ReplayError::Open { path: path.into(), source })?;
        let file = BufReader::new(file);
        let reader = if magic == PCAPNG_MAGIC {
            Reader::PcapNg(PcapNgReader::new(file).map_err(|e| unreadable(&e.to_string()))?)
        } else {
            let reader =
                PcapReader::new(file).map_err(|_| unreadable("neither pcap nor pcapng"))?;
            if reader.header().datalink != DataLink::ETHERNET {
                return Err(unreadable("link type is not Ethernet"));
            }
            let resolution = reader.header().ts_resolution;
            Reader::Pcap(reader, resolution)
        };
        Ok(CaptureIn { path: path.into(), reader })
    }

    /// The next frame, `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Captured>, ReplayError> {
        let next = match &mut self.reader {
            Reader::Pcap(reader, resolution) => next_pcap(reader, *resolution),
            Reader::PcapNg(reader) => next_pcapng(reader),
        };
        next.transpose().map_err(|error| ReplayError::Capture {
            path: self.path.clone(),
            what: error.to_string(),
        })
    }
}

fn next_pcap(
    reader: &mut PcapReader<BufReader<File>>,
    resolution: TsResolution,
) -> Option<Result<Captured, PcapError>> {
    let packet = reader.next_raw_packet()?;
    Some(packet.map(|packet| {
        let unit = match resolution {
            TsResolution::MicroSecond => 1_000,
            TsResolution::NanoSecond => 1,
        };
        let at = u64::from(packet.ts_sec) * NANOS_PER_SECOND + u64::from(packet.ts_frac) * unit;
        Captured {
            at: Nanos(at),
            is_cut: packet.incl_len < packet.orig_len,
            bytes: packet.data.into_owned(),
        }
    }))
}

fn next_pcapng(reader: &mut PcapNgReader<BufReader<File>>) -> Option<Result<Captured, PcapError>> {
    loop {
        let packet = match reader.next_block()? {
            Ok(Block::EnhancedPacket(packet)) => packet.into_owned(),
            Ok(_) => continue,
            Err(error) => return Some(Err(error)),
        };
        let Some(interface) = reader.packet_interface(&packet) else {
            return Some(Err(PcapError::InvalidField("packet of an interface not described")));
        };
        if interface.linktype != DataLink::ETHERNET {
            return Some(Err(PcapError::InvalidField("link type is not Ethernet")));
        }
        return Some(Ok(Captured {
            at: timestamp(packet.timestamp, interface),
            is_cut: (packet.data.len() as u64) < u64::from(packet.original_len),
            bytes: packet.data.into_owned(),
        }));
    }
}

/// The reader takes every count for nanoseconds; the interface says what it counts.
fn timestamp(raw: Duration, interface: &InterfaceDescriptionBlock) -> Nanos {
    let resolution = interface
        .options
        .iter()
        .find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        })
        .unwrap_or(MICROSECONDS);
    let count = raw.as_nanos();
    let exponent = u32::from(resolution & 0x7f);
    let per_second = if resolution & 0x80 == 0 {
        10u128.checked_pow(exponent)
    } else {
        1u128.checked_shl(exponent)
    };
    let nanos = per_second
        .filter(|units| *units > 0)
        .map_or(0, |units| count.saturating_mul(u128::from(NANOS_PER_SECOND)) / units);
    Nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A capture being written.
pub(super) struct CaptureOut {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
}

impl CaptureOut {
    /// Creates or replaces a file.
    pub(super) fn create(path: &Path) -> Result<Self, ReplayError> {
        let file =
            File::create(path).map_err(|source| ReplayError::Open { path: path.into(), source })?;
        let header = PcapHeader {
            ts_resolution: TsResolution::NanoSecond,
            datalink: DataLink::ETHERNET,
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(BufWriter::new(file), header)
            .map_err(|error| ReplayError::Capture { path: path.into(), what: error.to_string() })?;
        Ok(CaptureOut { path: path.into(), writer })
    }

    /// Appends a frame.
    pub(super) fn write(&mut self, at: Nanos, bytes: &[u8]) -> Result<(), ReplayError> {
        let packet = PcapPacket::new(Duration::from_nanos(at.0), bytes.len() as u32, bytes);
        self.writer.write_packet(&packet).map(|_| ()).map_err(|error| ReplayError::Capture {
            path: self.path.clone(),
            what: error.to_string(),
        })
    }
}
