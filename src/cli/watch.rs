//! `gyre watch`: a table again and again.

use std::io::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Out;
use super::paint;
use super::shown::Shown;

/// Show a table again and again, until interrupted
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds between two looks, 0.1 to 3600
    #[arg(short = 'n', long, value_name = "SECONDS", default_value = "2", global = true)]
    #[arg(value_parser = interval(0.1..=3600.0))]
    pub(super) interval: Duration,
    /// End after so many looks
    #[arg(long, value_name = "NUMBER", global = true)]
    pub(super) count: Option<u32>,
    #[command(subcommand)]
    what: Shown,
}

/// A time between two looks, where only times within `range` (seconds) make sense.
pub(super) fn interval(
    range: RangeInclusive<f64>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
        if range.contains(&seconds) {
            Ok(Duration::from_secs_f64(seconds))
        } else {
            Err(format!("not within {} to {} seconds", range.start(), range.end()))
        }
    }
}

/// Shows it; on a terminal each time in the place of the last one, elsewhere below it.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut looks: u32 = 0;
    loop {
        // Gathered by `out`, so that a terminal never shows an empty screen.
        if paint::is_terminal() {
            out.write_all(paint::CLEAR.as_bytes())?;
        } else if looks > 0 {
            writeln!(out)?;
        }
        args.what.clone().run(out)?;
        out.flush()?;
        looks = looks.saturating_add(1);
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        std::thread::sleep(args.interval);
    }
}
