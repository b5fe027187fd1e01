//! `gyre watch`: a table again and again.

use std::io::Write;
use std::time::Duration;

use super::Out;
use super::paint;
use super::shown::Shown;

/// Show a table again and again, until interrupted
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds between two looks, 0.1 to 3600
    #[arg(short = 'n', long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    interval: Duration,
    /// End after so many looks
    #[arg(long, value_name = "NUMBER")]
    count: Option<u32>,
    #[command(subcommand)]
    what: Shown,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("not within 0.1 to 3600 seconds".into())
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
