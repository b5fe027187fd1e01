//! Writes traffic as a capture, with the times at which it would be sent. Needs no port.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};

use super::traffic::Traffic;

/// Writes the first `frames` frames of `traffic` to `path`, `fps` a second.
pub fn write_file(path: &Path, traffic: &mut Traffic, frames: u64, fps: f64) -> anyhow::Result<()> {
    let shown = path.display();
    let file = File::create(path).with_context(|| {
        format!("capture {shown} cannot be made; give a path in a directory that you may write to")
    })?;
    write(BufWriter::new(file), traffic, frames, fps)
        .with_context(|| format!("capture {shown} cannot be written"))
}

/// Writes them to `out`. Without FCS, as captures are.
pub fn write(out: impl Write, traffic: &mut Traffic, frames: u64, fps: f64) -> anyhow::Result<()> {
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::NanoSecond,
        snaplen: 65_535,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(out, header)?;
    let mut frame = Vec::new();
    for number in 0..frames {
        let at_ns = (number as f64 * 1e9 / fps) as u64;
        frame.resize(traffic.next_len(), 0);
        traffic.write_next(&mut frame, at_ns);
        let packet = PcapPacket::new(Duration::from_nanos(at_ns), frame.len() as u32, &frame);
        writer.write_packet(&packet)?;
    }
    writer.into_writer().flush()?;
    Ok(())
}
